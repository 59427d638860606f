// What the kernels of batch_norm.cu and batch_norm_backward.cu share: a column's affine map, and the launch between
// sums and map.
#pragma once

#include "kernels/batch_norm.h"
#include "kernels/cuda/channels.cuh"

namespace sdgan::cuda {
namespace {

constexpr int kAffineFactors = 3;  // mean, scale, bias: [kAffineFactors, kTileColumns]

// The first value of a column's channel.
template <class S>
SDGAN_DEVICE compute_t<S> first_of(const BatchNormShape& p, const ChannelTiles& t, int64_t column) {
  return load_one<S>(p.input, t.channel_of(column) * (t.in_rows ? t.repeat : t.length));
}

template <class T>
SDGAN_DEVICE T inverse_std(T var, double eps) {
  return T(1) / Math::sqrt(var + static_cast<T>(eps));
}

// The factors of column `at` of a tile, which is channel c.
template <class T>
SDGAN_DEVICE void set_affine(const BatchNormShape& p, const Smem<T>& factors, int at, bool exists, int64_t c, T mean,
                             T var) {
  const T weight = exists && p.weight != nullptr ? load_one<T>(p.weight, c) : T(1);
  factors[at] = mean;
  factors[kTileColumns + at] = exists ? weight * inverse_std(var, p.eps) : T(0);
  factors[2 * kTileColumns + at] = exists && p.bias != nullptr ? load_one<T>(p.bias, c) : T(0);
}

// z of the thread's lanes.
template <class S>
struct Affine {
  using T = compute_t<S>;
  T mean[kPack<S>], scale[kPack<S>], bias[kPack<S>];
  SDGAN_DEVICE Affine(const ChannelTiles& t, const Smem<T>& factors) {
    PRAGMA_UNROLL
    for (int j = 0; j < kPack<S>; ++j) {
      const int at = tile_lane(t, j);
      mean[j] = factors[at];
      scale[j] = factors[kTileColumns + at];
      bias[j] = factors[2 * kTileColumns + at];
    }
  }
  SDGAN_DEVICE T operator()(T x, int j) const { return (x - mean[j]) * scale[j] + bias[j]; }
};

__global__ void __launch_bounds__(kThreads) batch_norm_add_kernel(ColumnSums from, double* totals) {
  add_all_blocks(from, 2, [&](int64_t k, int64_t c, double sum) { totals[k * from.channels + c] = sum; });
}

// Where a channel has many partial sums, adds them and lets `sums` be the totals [2, C].
inline CudaError add_first(const ChannelTiles& t, ColumnSums& sums, double* partial, CudaStream stream) {
  if (!t.adds_first()) return 0;
  double* totals = partial + 2 * t.tiles_down * t.columns();
  const CudaError error = launch(batch_norm_add_kernel, add_all_grid(t, 2), kThreads, 0, stream, sums, totals);
  sums = {totals, 1, t.channels, 1};
  return error;
}

}  // namespace
}  // namespace sdgan::cuda
