// What the kernels of implicit_gemm*.cu share: which tile of which residue a block works on, where its rows lie in the
// output, and what happens to finished sums.
#pragma once

#include "kernels/conv/implicit_gemm.h"
#include "kernels/conv/implicit_gemm_plan.h"
#include "kernels/cuda/elements.cuh"

namespace sdgan::cuda {

// What the kernels of fprop and dgrad receive; where the plan says so, p.weight is already the packed one.
struct ImplicitGemmArguments {
  ImplicitGemmParams p;
  unsigned row_tiles = 0;
  unsigned column_tiles = 0;
  unsigned splits = 1;
  void* parts = nullptr;     // [splits, output pixels, output channels] of compute_t, where splits > 1
  bool wide_stores = false;  // a run of kRun output channels is one aligned store
  bool wide_parts = false;   // the channels of a group are a multiple of 4
};

struct ImplicitGemmWgradArguments {
  ImplicitGemmWgradParams p;
  unsigned row_tiles = 0;
  unsigned column_tiles = 0;
  unsigned splits = 1;
  void* parts = nullptr;  // [splits, Cy, columns] of compute_t

  // Tensor cores: what a step of K adds to the row and the column of a pixel of y, and to the offsets of this pixel and
  // of the one of x that it meets; the offsets change also when the column and when the row is carried over.
  int row_step = 0;
  int column_step = 0;
  int64_t y_step[3] = {};  // plain, column carried, row carried
  int64_t x_step[3] = {};
};

CudaError launch_implicit_gemm_simt(const ImplicitGemmArguments& g, unsigned blocks, CudaStream stream);
CudaError launch_implicit_gemm_tensor(const ImplicitGemmArguments& g, int tile, unsigned blocks, CudaStream stream);
CudaError launch_implicit_gemm_wgrad_simt(const ImplicitGemmWgradArguments& g, unsigned blocks, CudaStream stream);
CudaError launch_implicit_gemm_wgrad_tensor(const ImplicitGemmWgradArguments& g, int tile, unsigned blocks,
                                            CudaStream stream);

// ----------------------------------------------------------------------------------------- tiles of fprop and dgrad
struct GemmTile {
  Residue vertical, horizontal;
  int64_t rows;  // output pixels of the residue
  int64_t first_row;
  int first_column;  // within the group
  int group;
  int first_step;  // of K
  int last_step;
  int depth;  // K
  unsigned split;

  // A row as a pixel: its image, and its places in the residues.
  SDGAN_DEVICE void pixel(int64_t row, int64_t& n, int& i, int& j) const {
    const int64_t line = row / horizontal.count;
    j = static_cast<int>(row - line * horizontal.count);
    n = line / vertical.count;
    i = static_cast<int>(line - n * vertical.count);
  }
};

// The residues with most taps come first, so that the longest blocks start first.
SDGAN_DEVICE Residue residue_of_rank(const ConvAxis& axis, Pass pass, int64_t rank) {
  return residue(axis, pass, residue_by_taps(axis, rank));
}

SDGAN_DEVICE GemmTile tile_of_block(const ImplicitGemmArguments& g, int tile, int step) {
  unsigned block = blockIdx.x;
  const unsigned column = block % g.column_tiles;
  block /= g.column_tiles;
  const unsigned row = block % g.row_tiles;
  block /= g.row_tiles;
  const ConvGeometry& geometry = g.p.geometry;
  const unsigned groups = static_cast<unsigned>(geometry.groups);
  const unsigned group = block % groups;
  block /= groups;
  const unsigned split = block % g.splits;
  const unsigned rank = block / g.splits;
  const unsigned across = static_cast<unsigned>(residue_count(geometry.horizontal, g.p.pass));

  GemmTile t;
  t.vertical = residue_of_rank(geometry.vertical, g.p.pass, rank / across);
  t.horizontal = residue_of_rank(geometry.horizontal, g.p.pass, rank % across);
  t.rows = geometry.batch * t.vertical.count * t.horizontal.count;
  t.first_row = static_cast<int64_t>(row) * tile;
  t.first_column = static_cast<int>(column) * tile;
  t.group = static_cast<int>(group);
  t.split = split;
  t.depth = t.vertical.taps * t.horizontal.taps * static_cast<int>(g.p.group_inputs());
  const int64_t steps = (t.depth + step - 1) / step;
  t.first_step = static_cast<int>(steps * split / g.splits);
  t.last_step = static_cast<int>(steps * (split + 1) / g.splits);
  return t;
}

// Where the tile's rows begin in the output, or in the parts; -1 past the last row. For the first kTile threads.
template <int kTile>
SDGAN_DEVICE void place_rows(const ImplicitGemmArguments& g, const GemmTile& t, Smem<int64_t> place) {
  if (threadIdx.x >= kTile) return;
  const int64_t row = t.first_row + threadIdx.x;
  int64_t at = -1;
  if (row < t.rows) {
    int64_t n;
    int i, j;
    t.pixel(row, n, i, j);
    const int64_t h = t.vertical.first + static_cast<int64_t>(i) * t.vertical.step;
    const int64_t w = t.horizontal.first + static_cast<int64_t>(j) * t.horizontal.step;
    if (g.splits > 1) {
      at = ((t.split * g.p.geometry.batch + n) * g.p.output_size(0) + h) * g.p.output_size(1) + w;
      at = at * g.p.output_channels() + t.group * g.p.group_outputs();
    } else {
      at = n * g.p.output_stride[0] + h * g.p.output_stride[2] + w * g.p.output_stride[3] +
           t.group * g.p.group_outputs() * g.p.output_stride[1];
    }
  }
  place[threadIdx.x] = at;
}

// --------------------------------------------------------------------------------------------------- finished sums
template <class T>
struct alignas(16) Four {
  T lane[4];
};

// Channels that a thread finishes at a time: 16 bytes of S, or 4 elements.
template <class S>
constexpr int kRun = sizeof(S) == 2 ? 8 : 4;

template <class S>
struct alignas(16) RawRun {
  S lane[kRun<S>];
};

template <class S>
SDGAN_DEVICE void store_run(void* to, int64_t at, int64_t stride, int count, bool wide,
                            const compute_t<S> (&x)[kRun<S>]) {
  S* out = static_cast<S*>(to) + at;
  if (wide) {
    RawRun<S> raw;
    PRAGMA_UNROLL
    for (int j = 0; j < kRun<S>; ++j) raw.lane[j] = from_compute<S>(x[j]);
    *reinterpret_cast<RawRun<S>*>(out) = raw;
  } else {
    PRAGMA_UNROLL
    for (int j = 0; j < kRun<S>; ++j) {
      if (j < count) out[j * stride] = from_compute<S>(x[j]);
    }
  }
}

// x: sums of the channels from `channel` on, of all groups.
template <class S>
SDGAN_DEVICE void finish_run(const ImplicitGemmParams& p, int64_t at, int64_t channel, int count, bool wide,
                             compute_t<S> (&x)[kRun<S>]) {
  using T = compute_t<S>;
  if (p.bias != nullptr) {
    PRAGMA_UNROLL
    for (int j = 0; j < kRun<S>; ++j) {
      if (j < count) x[j] += load_one<S>(p.bias, channel + j);
    }
  }
  if (p.preactivation != nullptr) store_run<S>(p.preactivation, at, p.output_stride[1], count, wide, x);
  if (p.activation != Activation::none) {
    PRAGMA_UNROLL
    for (int j = 0; j < kRun<S>; ++j) x[j] = activate<Math>(p.activation, x[j], static_cast<T>(p.negative_slope));
  }
  store_run<S>(p.output, at, p.output_stride[1], count, wide, x);
}

// Sums of kRows rows of the tile, [kRows, kTile + 4] in shared memory, to the output or to the parts. row_of(r) is the
// tile's row that r stands for; place is from place_rows. Lanes run over what is contiguous in the output.
template <class S, int kRows, int kTile, int kBlock, class RowOf>
SDGAN_DEVICE void finish_rows(const ImplicitGemmArguments& g, const GemmTile& t, compute_t<S>* sums,
                              Smem<int64_t> place, RowOf row_of) {
  using T = compute_t<S>;
  constexpr int kWidth = kRun<S>, kRuns = kTile / kWidth;
  const Smem<Four<T>> fours{reinterpret_cast<Four<T>*>(sums)};
  const int columns = static_cast<int>(g.p.group_outputs());
  const bool along_channels = g.splits > 1 || g.p.output_stride[1] == 1;
  for (int i = threadIdx.x; i < kRows * kRuns; i += kBlock) {
    const int row = along_channels ? i / kRuns : i % kRows, run = along_channels ? i % kRuns : i / kRows;
    const int column = t.first_column + run * kWidth, count = min(columns - column, kWidth);
    const int64_t at = place[row_of(row)];
    if (at < 0 || count <= 0) continue;
    T x[kWidth];
    PRAGMA_UNROLL
    for (int q = 0; q < kWidth / 4; ++q) {
      const Four<T> four = fours[row * (kTile / 4 + 1) + run * (kWidth / 4) + q];
      PRAGMA_UNROLL
      for (int j = 0; j < 4; ++j) x[4 * q + j] = four.lane[j];
    }
    if (g.splits > 1) {
      T* part = static_cast<T*>(g.parts) + at + column;
      PRAGMA_UNROLL
      for (int q = 0; q < kWidth / 4; ++q) {
        if (g.wide_parts && 4 * q < count) {
          *reinterpret_cast<Four<T>*>(part + 4 * q) = {x[4 * q], x[4 * q + 1], x[4 * q + 2], x[4 * q + 3]};
        } else {
          PRAGMA_UNROLL
          for (int j = 4 * q; j < 4 * q + 4; ++j) {
            if (j < count) part[j] = x[j];
          }
        }
      }
    } else {
      finish_run<S>(g.p, at + column * g.p.output_stride[1], t.group * g.p.group_outputs() + column, count,
                    g.wide_stores && count == kWidth, x);
    }
  }
}

}  // namespace sdgan::cuda
