// Statistics in one reading. With any fixed K, here the channel's first value,
//
//   mean = K + A / n      var = (B - A^2 / n) / n      A = sum (x - K)      B = sum (x - K)^2
//
// (Chan, Golub & LeVeque 1983, shifted data), so partial sums of any blocks simply add up. Few of them are in double: a
// thread sums d = x - c and d^2 over its values of a column (up to ChannelTiles::kMostPacks) in float about a c of its
// own, the mean of the first few, and then moves from c to K:
//
//   sum (x - K) = m (c - K) + sum d =: E      sum (x - K)^2 = sum d^2 + (c - K) (E + sum d)      m values
//
// The error, for a mean of any size: K is one of the values, so (K - mean)^2 <= n var, and double loses at most n 1e-16
// of var; c is made of the thread's own values, so float likewise loses some 1e-7 of what they add to n var.
//
// Passes and bytes per element and element size: sums 1 (x), map 2 (x, y), and between them a launch that adds the
// partial sums of a channel where those are more than ChannelTiles::kFewSums; the map adds fewer by itself. Training is
// 2 or 3 launches, given statistics are 1.
#include "kernels/batch_norm.h"

#include "kernels/cuda/batch_norm_add.cuh"
#include "kernels/cuda/norm_factors.cuh"

namespace sdgan {
namespace cuda {
namespace {

template <class S>
__global__ void __launch_bounds__(kThreads) batch_norm_reduce_kernel(BatchNormParams p, ChannelTiles t) {
  Walk<S> walk(t);
  double v[2][kPack<S>] = {};
  shifted_sums<S>(walk, p.input, t, v);
  sum_tile<S, 2>(t, v, [&](int k, int column, double sum) {
    if (walk.tile_column() + column < t.columns()) {
      p.partial[(walk.down() * 2 + k) * t.columns() + walk.tile_column() + column] = sum;
    }
  });
}

template <class S>
__global__ void __launch_bounds__(kThreads, sizeof(S) == 8 ? 2 : 3)
    batch_norm_map_kernel(BatchNormParams p, ChannelTiles t, ColumnSums sums) {
  using T = compute_t<S>;
  __shared__ double totals_of[2 * kTileColumns];
  __shared__ T factors_of[kAffineFactors * kTileColumns];
  const Smem<double> totals{totals_of};
  const Smem<T> factors{factors_of};
  Walk<S> walk(t);
  if (p.given_mean == nullptr) {
    add_blocks<2>(t, sums, walk.tile_column(), totals);
    __syncthreads();
  }
  if (threadIdx.x < kTileColumns) {
    const int at = threadIdx.x;
    const int64_t column = walk.tile_column() + at;
    T mean = 0, var = 0;
    const bool exists = at < t.tile_columns() && column < t.columns();
    const int64_t c = exists ? t.channel_of(column) : 0;
    if (exists && p.given_mean != nullptr) {
      mean = load_one<T>(p.given_mean, c);
      var = load_one<T>(p.given_var, c);
    } else if (exists) {
      const double n = static_cast<double>(p.count());
      const double a = totals[at] / n, b = totals[kTileColumns + at] / n;
      const double squares = b - a * a;
      mean = static_cast<T>(static_cast<double>(first_of<S>(p.input, t, column)) + a);
      var = static_cast<T>(squares < 0 ? 0.0 : squares);
    }
    if (exists && walk.down() == 0 && column == c * t.repeat) {
      store_one<T>(p.mean_out, c, mean);
      store_one<T>(p.var_out, c, var);
    }
    set_affine(p, factors, at, exists, c, mean, inverse_std(var, p.eps));
  }
  __syncthreads();
  normalize_tile<S>(walk, p, p.input, p.output, Affine<S>(t, factors));
}

}  // namespace
}  // namespace cuda

CudaError launch_batch_norm(const BatchNormParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    const ChannelTiles t = p.cuda_tiles();
    const unsigned grid = cuda::grid_of(t.count());
    cuda::ColumnSums sums{p.partial, t.tiles_down, t.channels, t.repeat};
    CudaError error = 0;
    if (p.given_mean == nullptr) {
      error = cuda::launch(cuda::batch_norm_reduce_kernel<S>, grid, cuda::kThreads, 0, stream, p, t);
      if (error == 0) error = cuda::add_first(t, sums, p.partial, stream);
    }
    if (error != 0) return error;
    return static_cast<CudaError>(
        cuda::launch(cuda::batch_norm_map_kernel<S>, grid, cuda::kThreads, 0, stream, p, t, sums));
  });
}

}  // namespace sdgan
