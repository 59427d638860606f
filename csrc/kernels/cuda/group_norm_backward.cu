// dL/dx of group_norm.h: sums of g and g (x - mean) of each tile; their totals of each channel, and what the values of
// a group share, a block of threads for each group of each image; the gradients of weight and bias; the map. A thread
// sums its values of a column in the compute type, everything else is summed in double. Bytes per element and element
// size: 2 and 3.
#include "kernels/group_norm.h"

#include "kernels/cuda/channels.cuh"
#include "kernels/cuda/norm_factors.cuh"
#include "kernels/cuda/norm_images.cuh"
#include "kernels/cuda/reduce.cuh"

namespace sdgan {
namespace cuda {
namespace {

// partial is [N, tiles_down, 2, C], then these.
SDGAN_DEVICE double* totals_of(const GroupNormShape& p, const ChannelTiles& t) {  // [N, 2, C]
  return p.partial + p.batch * t.tiles_down * 2 * p.channels;
}
SDGAN_DEVICE double* shared_by_groups(const GroupNormShape& p, const ChannelTiles& t) {  // [N, G, 2]: shift, tilt
  return totals_of(p, t) + p.batch * 2 * p.channels;
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    group_norm_backward_reduce_kernel(GroupNormBackwardParams p, ChannelTiles t) {
  using T = compute_t<S>;
  __shared__ T factors_of[kAffineFactors * kTileColumns];
  const Smem<T> factors{factors_of};
  const ImageTile tile(p, t);
  Walk<S> walk(t, tile.index);
  set_affine_of_image<S>(p, t, tile, walk.tile_column(), factors);
  __syncthreads();
  double v[2][kPack<S>];
  gradient_sums<S>(walk, p, tile.at<S>(p.input), tile.at<S>(p.grad_output), Affine<S>(t, factors), v);
  store_sums<S>(p, t, tile, walk, v);
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    group_norm_backward_groups_kernel(GroupNormBackwardParams p, ChannelTiles t) {
  using T = compute_t<S>;
  const int64_t image = blockIdx.x / p.groups, size = p.group_channels(), first = blockIdx.x % p.groups * size;
  double* totals = totals_of(p, t) + image * 2 * p.channels;
  double of_group[2] = {0, 0};
  for (int64_t c = first + threadIdx.x; c < first + size; c += kThreads) {
    const double weight = p.weight != nullptr ? static_cast<double>(load_one<T>(p.weight, c)) : 1.0;
    for (int k = 0; k < 2; ++k) {
      double sum = 0;
      for (int64_t down = 0; down < t.tiles_down; ++down) {
        sum += p.partial[((image * t.tiles_down + down) * 2 + k) * p.channels + c];
      }
      totals[k * p.channels + c] = sum;
      of_group[k] += weight * sum;
    }
  }
  const double a = block_sum(of_group[0]), b = block_sum(of_group[1]);
  if (threadIdx.x != 0) return;
  const double rstd = static_cast<double>(load_one<T>(p.rstd, blockIdx.x)), n = static_cast<double>(p.group_size());
  double* shared = shared_by_groups(p, t) + int64_t{blockIdx.x} * 2;
  shared[0] = rstd * a / n;
  shared[1] = rstd * rstd * rstd * b / n;
}

// A thread for each channel.
template <class S>
__global__ void __launch_bounds__(kThreads)
    group_norm_backward_vectors_kernel(GroupNormBackwardParams p, ChannelTiles t) {
  using T = compute_t<S>;
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= p.channels) return;
  double weight = 0, bias = 0;
  for (int64_t image = 0; image < p.batch; ++image) {
    const double* totals = totals_of(p, t) + image * 2 * p.channels;
    bias += totals[c];
    weight +=
        totals[p.channels + c] * static_cast<double>(load_one<T>(p.rstd, image * p.groups + c / p.group_channels()));
  }
  if (p.grad_weight != nullptr) store_one<T>(p.grad_weight, c, static_cast<T>(weight));
  if (p.grad_bias != nullptr) store_one<T>(p.grad_bias, c, static_cast<T>(bias));
}

template <class S>
__global__ void __launch_bounds__(kThreads) group_norm_backward_map_kernel(GroupNormBackwardParams p, ChannelTiles t) {
  using T = compute_t<S>;
  __shared__ T factors_of[(kAffineFactors + 2) * kTileColumns];
  const Smem<T> factors{factors_of};
  const Smem<T> shifts{factors_of + kAffineFactors * kTileColumns};
  const Smem<T> tilts{factors_of + (kAffineFactors + 1) * kTileColumns};
  const ImageTile tile(p, t);
  Walk<S> walk(t, tile.index);
  set_affine_of_image<S>(p, t, tile, walk.tile_column(), factors);
  if (threadIdx.x < kTileColumns) {
    const int at = threadIdx.x;
    const bool exists = at < t.tile_columns() && walk.tile_column() + at < p.channels;
    const int64_t group = tile.image * p.groups + (exists ? walk.tile_column() + at : 0) / p.group_channels();
    const double* shared = shared_by_groups(p, t) + group * 2;
    shifts[at] = static_cast<T>(shared[0]);
    tilts[at] = static_cast<T>(shared[1]);
  }
  __syncthreads();
  gradient_tile<S>(walk, p, t, tile.at<S>(p.input), tile.at<S>(p.grad_output), tile.at<S>(p.grad_input),
                   Affine<S>(t, factors), shifts, tilts);
}

}  // namespace
}  // namespace cuda

CudaError launch_group_norm_backward(const GroupNormBackwardParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    const ChannelTiles t = p.cuda_tiles();
    const auto launch = [&](auto kernel, int64_t blocks) {
      return cuda::launch(kernel, cuda::grid_of(blocks), cuda::kThreads, 0, stream, p, t);
    };
    CudaError error = launch(cuda::group_norm_backward_reduce_kernel<S>, p.batch * t.count());
    if (error == 0) error = launch(cuda::group_norm_backward_groups_kernel<S>, p.all_groups());
    if (error == 0 && (p.grad_weight != nullptr || p.grad_bias != nullptr)) {
      error = launch(cuda::group_norm_backward_vectors_kernel<S>, (p.channels + cuda::kThreads - 1) / cuda::kThreads);
    }
    if (error != 0) return error;
    return static_cast<CudaError>(launch(cuda::group_norm_backward_map_kernel<S>, p.batch * t.count()));
  });
}

}  // namespace sdgan
