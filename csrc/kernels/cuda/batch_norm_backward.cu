// dL/dx of batch_norm.h in the launches of batch_norm.cu: sums of g and g (x - mean), a launch that adds them up where
// they are many, and the map, which also writes the gradients of weight and bias. A thread sums its values of a column
// in the compute type, everything else is summed in double. Bytes per element and element size: 2 and 3.
#include "kernels/batch_norm.h"

#include "kernels/cuda/batch_norm_add.cuh"
#include "kernels/cuda/norm_factors.cuh"

namespace sdgan {
namespace cuda {
namespace {

// Sets `factors` for the columns of this block's tile; the block must wait before it reads.
template <class S>
SDGAN_DEVICE void set_affine_of_tile(const BatchNormShape& p, const ChannelTiles& t, int64_t tile_column,
                                     const Smem<compute_t<S>>& factors) {
  using T = compute_t<S>;
  if (threadIdx.x >= kTileColumns) return;
  const int at = threadIdx.x;
  const bool exists = at < t.tile_columns() && tile_column + at < t.columns();
  const int64_t c = exists ? t.channel_of(tile_column + at) : 0;
  set_affine(p, factors, at, exists, c, load_one<T>(p.mean, c), inverse_std(load_one<T>(p.var, c), p.eps));
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    batch_norm_backward_reduce_kernel(BatchNormBackwardParams p, ChannelTiles t) {
  using T = compute_t<S>;
  __shared__ T factors_of[kAffineFactors * kTileColumns];
  const Smem<T> factors{factors_of};
  Walk<S> walk(t);
  set_affine_of_tile<S>(p, t, walk.tile_column(), factors);
  __syncthreads();
  const Affine<S> affine(t, factors);
  double v[2][kPack<S>];
  gradient_sums<S>(walk, p, p.input, p.grad_output, affine, v);
  sum_tile<S, 2>(t, v, [&](int k, int column, double total) {
    if (walk.tile_column() + column < t.columns()) {
      p.partial[(walk.down() * 2 + k) * t.columns() + walk.tile_column() + column] = total;
    }
  });
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    batch_norm_backward_map_kernel(BatchNormBackwardParams p, ChannelTiles t, ColumnSums sums) {
  using T = compute_t<S>;
  __shared__ double totals_of[2 * kTileColumns];
  __shared__ T factors_of[(kAffineFactors + 2) * kTileColumns];
  const Smem<double> totals{totals_of};
  const Smem<T> factors{factors_of};
  const Smem<T> shifts{factors_of + kAffineFactors * kTileColumns};
  const Smem<T> tilts{factors_of + (kAffineFactors + 1) * kTileColumns};
  Walk<S> walk(t);
  set_affine_of_tile<S>(p, t, walk.tile_column(), factors);
  if (p.partial != nullptr) {
    add_blocks<2>(t, sums, walk.tile_column(), totals);
    __syncthreads();
  }
  if (threadIdx.x < kTileColumns) {
    const int at = threadIdx.x;
    const int64_t column = walk.tile_column() + at;
    T shift = 0, tilt = 0;
    if (p.partial != nullptr && at < t.tile_columns() && column < t.columns()) {
      const int64_t c = t.channel_of(column);
      const double sum = totals[at], product = totals[kTileColumns + at];
      const double inverse = static_cast<double>(inverse_std(load_one<T>(p.var, c), p.eps));
      const T scale = factors[kTileColumns + at];  // this thread has set it
      if (walk.down() == 0 && column == c * t.repeat) {
        if (p.grad_weight != nullptr) store_one<T>(p.grad_weight, c, static_cast<T>(product * inverse));
        if (p.grad_bias != nullptr) store_one<T>(p.grad_bias, c, static_cast<T>(sum));
      }
      if (p.training) {
        const double of_n = static_cast<double>(scale) / static_cast<double>(p.count());
        shift = static_cast<T>(of_n * sum);
        tilt = static_cast<T>(of_n * inverse * inverse * product);
      }
    }
    shifts[at] = shift;
    tilts[at] = tilt;
  }
  __syncthreads();
  gradient_tile<S>(walk, p, t, p.input, p.grad_output, p.grad_input, Affine<S>(t, factors), shifts, tilts);
}

}  // namespace
}  // namespace cuda

CudaError launch_batch_norm_backward(const BatchNormBackwardParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    const ChannelTiles t = p.cuda_tiles();
    const unsigned grid = cuda::grid_of(t.count());
    cuda::ColumnSums sums{p.partial, t.tiles_down, t.channels, t.repeat};
    CudaError error = 0;
    if (p.partial != nullptr) {
      error = cuda::launch(cuda::batch_norm_backward_reduce_kernel<S>, grid, cuda::kThreads, 0, stream, p, t);
      if (error == 0) error = cuda::add_first(t, sums, p.partial, stream);
    }
    if (error != 0) return error;
    return static_cast<CudaError>(
        cuda::launch(cuda::batch_norm_backward_map_kernel<S>, grid, cuda::kThreads, 0, stream, p, t, sums));
  });
}

}  // namespace sdgan
