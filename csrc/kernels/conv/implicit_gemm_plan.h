// How a product of implicit_gemm.h runs: on tensor cores or not, tiles, parts of K, workspace. Plain arithmetic on the
// shapes, the same on every GPU: so is the order of every sum.
#pragma once

#include <algorithm>

#include "kernels/conv/implicit_gemm.h"

namespace sdgan {

// Tiles are square: of output pixels and channels in the gather GEMM, of channels and (tap, channel) in wgrad. K is
// split in `splits` parts of fixed bounds where the tiles alone would leave processors idle; the parts are added in
// order.
struct ImplicitGemmPlan {
  bool tensor_cores = false;
  int tile = 64;
  int64_t row_tiles = 0;
  int64_t column_tiles = 0;
  int64_t splits = 1;
  int64_t statistics = 0;  // rows of them: tiles of pixels, of all phases
  bool packs = false;      // the weight is copied to [R, S, outputs, inputs] first
  int64_t packed = 0;      // bytes of the workspace: for that, then for the parts
  int64_t parts = 0;
  int64_t workspace = 0;  // their sum
};

namespace implicit_gemm {

constexpr int64_t kProcessors = 132;  // of an H100 or H200; a fixed number, whatever the GPU
constexpr int64_t kSimtStep = 16;     // of K
constexpr int64_t kTensorStepBytes = 64;

inline int64_t bytes_of(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether runs along dimension `unit` are contiguous and start at multiples of 16 bytes.
inline bool aligned_runs(const void* data, const int64_t (&stride)[4], const int64_t (&size)[4], int unit,
                         DType dtype) {
  const int64_t lanes = 16 / bytes_of(dtype);
  bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride[unit] == 1 && size[unit] % lanes == 0;
  for (int i = 0; i < 4; ++i) aligned = aligned && (i == unit || size[i] == 1 || stride[i] % lanes == 0);
  return aligned;
}

inline bool on_tensor_cores(DType dtype, bool allowed, bool tf32, int64_t groups) {
  return allowed && groups == 1 && (bytes_of(dtype) == 2 || (dtype == DType::f32 && tf32));
}

// Parts of at least 8 steps that together give every processor two blocks.
inline int64_t splits(int64_t tiles, int64_t steps, int64_t asked) {
  if (asked > 0) return asked;
  return std::max<int64_t>(1, std::min(2 * kProcessors / std::max<int64_t>(tiles, 1), steps / 8));
}

inline void lay_out(ImplicitGemmPlan& plan, int64_t packed, int64_t part_elements, DType dtype) {
  plan.packed = ceil_div(packed, 256) * 256;
  plan.parts = plan.splits * part_elements * (dtype == DType::f64 ? 8 : 4);
  plan.workspace = plan.packed + plan.parts;
}

}  // namespace implicit_gemm

inline ImplicitGemmPlan implicit_gemm_plan(const ImplicitGemmParams& p) {
  using namespace implicit_gemm;
  ImplicitGemmPlan plan;
  int64_t rows = p.batch, taps = 1;  // of the largest phase
  for (int i = 0; i < 2; ++i) {
    const ImplicitGemmAxis& a = p.axis(i);
    rows *= p.to_fine ? ceil_div(a.fine, a.stride) : a.coarse;
    taps *= implicit_gemm_phase(a, p.to_fine, 0).taps;
  }
  const int64_t sizes[4] = {p.batch, p.inputs, p.input_size(0), p.input_size(1)};
  plan.tensor_cores = on_tensor_cores(p.dtype, p.tensor_cores, p.tf32, p.groups) &&
                      aligned_runs(p.input, p.input_stride, sizes, 1, p.dtype);
  const auto tiles = [&](int64_t tile) {
    return p.phases() * p.groups * ceil_div(rows, tile) * ceil_div(p.group_outputs(), tile);
  };
  plan.tile = p.force_tile                                                               ? p.force_tile
              : plan.tensor_cores && p.group_outputs() > 64 && tiles(128) >= kProcessors ? 128
                                                                                         : 64;
  plan.row_tiles = ceil_div(rows, plan.tile);
  plan.column_tiles = ceil_div(p.group_outputs(), plan.tile);
  const int64_t step = plan.tensor_cores ? kTensorStepBytes / bytes_of(p.dtype) : kSimtStep;
  plan.splits = splits(tiles(plan.tile), ceil_div(taps * p.group_inputs(), step), p.statistics ? 1 : p.force_splits);
  plan.statistics = p.phases() * plan.row_tiles;

  const int64_t weight_sizes[4] = {p.to_fine ? p.inputs : p.outputs, p.to_fine ? p.outputs : p.inputs, p.vertical.taps,
                                   p.horizontal.taps};
  plan.packs = plan.tensor_cores && !aligned_runs(p.weight, p.weight_stride, weight_sizes, p.to_fine ? 0 : 1, p.dtype);
  const int64_t weight = p.inputs * p.outputs * p.vertical.taps * p.horizontal.taps * bytes_of(p.dtype);
  lay_out(plan, plan.packs ? weight : 0, plan.splits > 1 ? p.pixels() * p.outputs : 0, p.dtype);
  return plan;
}

inline ImplicitGemmPlan implicit_gemm_plan(const ImplicitGemmWgradParams& p) {
  using namespace implicit_gemm;
  ImplicitGemmPlan plan;
  const int64_t coarse_sizes[4] = {p.batch, p.coarse_channels, p.vertical.coarse, p.horizontal.coarse};
  const int64_t fine_sizes[4] = {p.batch, p.fine_channels, p.vertical.fine, p.horizontal.fine};
  plan.tensor_cores = on_tensor_cores(p.dtype, p.tensor_cores, p.tf32, p.groups) &&
                      aligned_runs(p.coarse, p.coarse_stride, coarse_sizes, 1, p.dtype) &&
                      aligned_runs(p.fine, p.fine_stride, fine_sizes, 1, p.dtype);
  const int64_t step = plan.tensor_cores ? kTensorStepBytes / bytes_of(p.dtype) : kSimtStep;
  const int64_t steps = ceil_div(p.pixels(), step);
  const auto tiles = [&](int64_t tile) {
    return p.groups * ceil_div(p.group_coarse(), tile) * ceil_div(p.columns(), tile);
  };
  const bool large = plan.tensor_cores && p.group_coarse() > 64 && tiles(128) * (steps / 8) >= kProcessors;
  plan.tile = p.force_tile ? p.force_tile : large ? 128 : 64;
  plan.row_tiles = ceil_div(p.group_coarse(), plan.tile);
  plan.column_tiles = ceil_div(p.columns(), plan.tile);
  plan.splits = splits(tiles(plan.tile), steps, p.force_splits);
  lay_out(plan, 0, p.coarse_channels * p.columns(), p.dtype);
  return plan;
}

}  // namespace sdgan
