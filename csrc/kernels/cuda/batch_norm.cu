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

#include "kernels/cuda/channels.cuh"
#include "kernels/cuda/norm_factors.cuh"

namespace sdgan {
namespace cuda {
namespace {

template <class S>
__global__ void __launch_bounds__(kThreads) batch_norm_reduce_kernel(BatchNormParams p, ChannelTiles t) {
  using T = compute_t<S>;
  constexpr int kBatch = sizeof(S) == 2 ? 4 : 8;  // pieces in flight
  Walk<S> walk(t);
  T center[kPack<S>], rest[kPack<S>], squares[kPack<S>];
  int64_t pieces = 0, tails = 0;  // those of fewer elements than a pack have `tail`
  int tail = 0;
  for (bool first = true; !walk.done(); first = false) {
    Piece piece[kBatch];
    Pack<S> x[kBatch];
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      piece[i] = walk.next();
      pieces += piece[i].count == kPack<S>;
      if (piece[i].count > 0 && piece[i].count < kPack<S>) {
        ++tails;
        tail = piece[i].count;
      }
    }
    read<S>(piece, p.input, x);
    PRAGMA_UNROLL
    for (int j = 0; j < kPack<S>; ++j) {
      if (first) {
        T sum = 0;  // lanes that hold nothing read as 0
        PRAGMA_UNROLL
        for (int i = 0; i < kBatch; ++i) sum += x[i][j];
        const int count = static_cast<int>(pieces + (j < tail ? tails : 0));
        center[j] = count > 0 ? sum / static_cast<T>(count) : T(0);
        rest[j] = squares[j] = 0;
      }
      PRAGMA_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        const T d = j < piece[i].count ? x[i][j] - center[j] : T(0);
        rest[j] += d;
        squares[j] += d * d;
      }
    }
  }
  double v[2][kPack<S>] = {};  // A, B
  PRAGMA_UNROLL
  for (int j = 0; j < kPack<S>; ++j) {
    const int64_t count = pieces + (j < tail ? tails : 0);
    if (count == 0) continue;
    const T pivot = first_of<S>(p, t, t.in_rows ? walk.column() + j : walk.column());
    const double shift = static_cast<double>(center[j]) - static_cast<double>(pivot);
    const double sum_d = static_cast<double>(rest[j]);
    v[0][j] = static_cast<double>(count) * shift + sum_d;
    v[1][j] = static_cast<double>(squares[j]) + shift * (v[0][j] + sum_d);
  }
  sum_tile<S, 2>(t, v, [&](int k, int column, double sum) {
    if (walk.tile_column() + column < t.columns()) {
      p.partial[(walk.down() * 2 + k) * t.columns() + walk.tile_column() + column] = sum;
    }
  });
}

template <class S>
__global__ void __launch_bounds__(kThreads) batch_norm_map_kernel(BatchNormParams p, ChannelTiles t, ColumnSums sums) {
  using T = compute_t<S>;
  constexpr int kBatch = sizeof(S) == 2 ? 2 : 4;
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
      mean = static_cast<T>(static_cast<double>(first_of<S>(p, t, column)) + a);
      var = static_cast<T>(squares < 0 ? 0.0 : squares);
    }
    if (exists && walk.down() == 0 && column == c * t.repeat) {
      store_one<T>(p.mean_out, c, mean);
      store_one<T>(p.var_out, c, var);
    }
    set_affine(p, factors, at, exists, c, mean, var);
  }
  __syncthreads();
  Affine<S> affine(t, factors);
  const T negative_slope = static_cast<T>(p.negative_slope);
  while (!walk.done()) {
    Piece piece[kBatch];
    Pack<S> x[kBatch];
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) piece[i] = walk.next();
    read<S>(piece, p.input, x);
    dispatch_activation(p.activation, [&](auto activation) {
      PRAGMA_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        PRAGMA_UNROLL
        for (int j = 0; j < kPack<S>; ++j) {
          x[i][j] = activate<Math>(decltype(activation)::value, affine(x[i][j], j), negative_slope);
        }
      }
    });
    PRAGMA_UNROLL
    for (int i = 0; i < kBatch; ++i) write<S>(p.output, piece[i], x[i]);
  }
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
