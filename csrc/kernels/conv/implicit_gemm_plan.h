// How a product of implicit_gemm.h runs: on tensor cores or not, tiles, parts of K, workspace. Plain arithmetic on the
// shapes, the same on every GPU: so is the order of every sum.
#pragma once

#include <algorithm>

#include "kernels/conv/implicit_gemm.h"

namespace sdgan {

// The tiles that cover the sums of one group and, in dgrad, of the largest residue; the others get as many blocks.
struct ImplicitGemmTiles {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t count = 0;  // in all groups and residues, for one part of K
};

struct ImplicitGemmWorkspace {
  int64_t packed = 0;  // bytes: first the packed weight,
  int64_t parts = 0;   // then the parts of K, in the compute type

  int64_t bytes() const { return packed + parts; }
};

namespace implicit_gemm {

constexpr int64_t kProcessors = 132;  // of an H100 or H200; a fixed number, whatever the GPU
constexpr int64_t kSimtStep = 16;     // of K
constexpr int64_t kTensorStepBytes = 64;

inline int64_t bytes_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 8;
    case DType::f32:
      return 4;
    default:
      return 2;
  }
}
inline int64_t compute_bytes_of(DType dtype) { return dtype == DType::f64 ? 8 : 4; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether runs along dimension `unit` are contiguous and start at multiples of 16 bytes.
inline bool aligned_runs(const void* data, const int64_t (&stride)[4], const int64_t (&size)[4], int unit,
                         DType dtype) {
  const int64_t lanes = 16 / bytes_of(dtype);
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0 || stride[unit] != 1 || size[unit] % lanes != 0) return false;
  for (int i = 0; i < 4; ++i) {
    if (i != unit && size[i] != 1 && stride[i] % lanes != 0) return false;
  }
  return true;
}

inline bool on_tensor_cores(DType dtype, bool allowed, bool tf32, int64_t groups) {
  return allowed && groups == 1 && (bytes_of(dtype) == 2 || (dtype == DType::f32 && tf32));
}

inline int64_t step_of(DType dtype, bool tensor_cores) {
  return tensor_cores ? kTensorStepBytes / bytes_of(dtype) : kSimtStep;
}

// Parts of at least 8 steps that together give every processor two blocks.
inline int64_t splits(int64_t tiles, int64_t steps) {
  const int64_t wanted = 2 * kProcessors / std::max<int64_t>(tiles, 1);
  return std::max<int64_t>(1, std::min(wanted, steps / 8));
}

}  // namespace implicit_gemm

inline ImplicitGemmTiles implicit_gemm_tiles(const ImplicitGemmParams& p, int tile) {
  int64_t pixels = p.geometry.batch;  // of the largest residue
  for (int axis = 0; axis < 2; ++axis) {
    pixels *= implicit_gemm::ceil_div(p.output_size(axis), residue_count(p.geometry.axis(axis), p.pass));
  }
  ImplicitGemmTiles tiles;
  tiles.rows = implicit_gemm::ceil_div(pixels, tile);
  tiles.columns = implicit_gemm::ceil_div(p.group_outputs(), tile);
  tiles.count = p.residues() * p.geometry.groups * tiles.rows * tiles.columns;
  return tiles;
}

inline ImplicitGemmTiles implicit_gemm_tiles(const ImplicitGemmWgradParams& p, int tile) {
  ImplicitGemmTiles tiles;
  tiles.rows = implicit_gemm::ceil_div(p.group_y_channels(), tile);
  tiles.columns = implicit_gemm::ceil_div(p.columns(), tile);
  tiles.count = p.geometry.groups * tiles.rows * tiles.columns;
  return tiles;
}

// K is split where the tiles alone would leave processors idle.
inline ImplicitGemmPlan implicit_gemm_plan(const ImplicitGemmParams& p) {
  using namespace implicit_gemm;
  const ConvGeometry& g = p.geometry;
  ImplicitGemmPlan plan;
  const int64_t input_sizes[4] = {g.batch, p.input_channels(), p.input_size(0), p.input_size(1)};
  plan.tensor_cores = on_tensor_cores(p.dtype, p.tensor_cores, p.tf32, g.groups) &&
                      aligned_runs(p.input, p.input_stride, input_sizes, 1, p.dtype);
  const bool large = plan.tensor_cores && p.group_outputs() > 64 && implicit_gemm_tiles(p, 128).count >= kProcessors;
  plan.tile = large ? 128 : 64;

  int64_t depth = p.group_inputs();  // K of the residue with most taps
  for (int axis = 0; axis < 2; ++axis) {
    const ConvAxis& a = g.axis(axis);
    depth *= residue(a, p.pass, residue_by_taps(a, 0)).taps;
  }
  const int64_t steps = ceil_div(depth, step_of(p.dtype, plan.tensor_cores));
  plan.splits = splits(implicit_gemm_tiles(p, plan.tile).count, steps);

  const int64_t weight_sizes[4] = {g.y_channels, g.x_channels, g.vertical.taps, g.horizontal.taps};
  plan.packs_weight =
      plan.tensor_cores && !aligned_runs(p.weight, p.weight_stride, weight_sizes, p.input_dimension(), p.dtype);
  return plan;
}

inline ImplicitGemmPlan implicit_gemm_plan(const ImplicitGemmWgradParams& p) {
  using namespace implicit_gemm;
  const ConvGeometry& g = p.geometry;
  ImplicitGemmPlan plan;
  const int64_t y_sizes[4] = {g.batch, g.y_channels, g.vertical.y, g.horizontal.y};
  const int64_t x_sizes[4] = {g.batch, g.x_channels, g.vertical.x, g.horizontal.x};
  plan.tensor_cores = on_tensor_cores(p.dtype, p.tensor_cores, p.tf32, g.groups) &&
                      aligned_runs(p.y, p.y_stride, y_sizes, 1, p.dtype) &&
                      aligned_runs(p.x, p.x_stride, x_sizes, 1, p.dtype);
  const int64_t steps = ceil_div(g.y_pixels(), step_of(p.dtype, plan.tensor_cores));
  const bool large =
      plan.tensor_cores && p.group_y_channels() > 64 && implicit_gemm_tiles(p, 128).count * (steps / 8) >= kProcessors;
  plan.tile = large ? 128 : 64;
  plan.splits = splits(implicit_gemm_tiles(p, plan.tile).count, steps);
  return plan;
}

inline ImplicitGemmWorkspace implicit_gemm_workspace(const ImplicitGemmParams& p, const ImplicitGemmPlan& plan) {
  ImplicitGemmWorkspace workspace;
  if (plan.packs_weight) {
    const int64_t elements = p.input_channels() * p.output_channels() * p.geometry.taps();
    workspace.packed = implicit_gemm::ceil_div(elements * implicit_gemm::bytes_of(p.dtype), 256) * 256;
  }
  if (plan.splits > 1) {
    const int64_t elements = p.output_pixels() * p.output_channels();
    workspace.parts = plan.splits * elements * implicit_gemm::compute_bytes_of(p.dtype);
  }
  return workspace;
}

// Always through parts, also where there is one.
inline ImplicitGemmWorkspace implicit_gemm_workspace(const ImplicitGemmWgradParams& p, const ImplicitGemmPlan& plan) {
  ImplicitGemmWorkspace workspace;
  const int64_t elements = p.geometry.y_channels * p.columns();
  workspace.parts = plan.splits * elements * implicit_gemm::compute_bytes_of(p.dtype);
  return workspace;
}

}  // namespace sdgan
