// Statistics in one reading, as in batch_norm.cu, of each channel of each image about its first value K_c; a block of
// threads then joins the channels of a group, about the group's first value K, with s = K_c - K:
//
//   E = sum_c A_c + L s      F = sum_c B_c + 2 s A_c + L s^2      mean = K + E / n      var = (F - E^2 / n) / n
//
// Launches and bytes per element and element size: sums 1 (x), statistics of groups, map 2 (x, y). A tile belongs to
// one image.
#include "kernels/group_norm.h"

#include "kernels/cuda/channels.cuh"
#include "kernels/cuda/norm_factors.cuh"
#include "kernels/cuda/norm_images.cuh"
#include "kernels/cuda/reduce.cuh"

namespace sdgan {
namespace cuda {
namespace {

template <class S>
__global__ void __launch_bounds__(kThreads) group_norm_reduce_kernel(GroupNormParams p, ChannelTiles t) {
  const ImageTile tile(p, t);
  Walk<S> walk(t, tile.index);
  double v[2][kPack<S>] = {};
  shifted_sums<S>(walk, tile.at<S>(p.input), t, v);
  store_sums<S>(p, t, tile, walk, v);
}

// A block for each group of each image.
template <class S>
__global__ void __launch_bounds__(kThreads) group_norm_statistics_kernel(GroupNormParams p, ChannelTiles t) {
  using T = compute_t<S>;
  const int64_t image = blockIdx.x / p.groups, size = p.group_channels(), first = blockIdx.x % p.groups * size;
  const S* input = static_cast<const S*>(p.input) + image * p.channels * p.length;
  const double pivot = static_cast<double>(first_of<S>(input, t, first));
  const double length = static_cast<double>(p.length);
  double sum = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < size * t.tiles_down; i += kThreads) {
    const int64_t c = first + i % size, down = i / size;
    const double* sums = p.partial + (image * t.tiles_down + down) * 2 * p.channels + c;
    const double a = sums[0], b = sums[p.channels];
    const double shift = static_cast<double>(first_of<S>(input, t, c)) - pivot;
    sum += a;
    squares += b + 2 * shift * a;
    if (down == 0) {
      sum += length * shift;
      squares += length * shift * shift;
    }
  }
  sum = block_sum(sum);
  squares = block_sum(squares);
  if (threadIdx.x != 0) return;
  const double n = static_cast<double>(p.group_size());
  const double about_mean = squares - sum * sum / n;
  const double var = about_mean < 0 ? 0.0 : about_mean / n;
  store_one<T>(p.mean_out, blockIdx.x, static_cast<T>(pivot + sum / n));
  store_one<T>(p.rstd_out, blockIdx.x, static_cast<T>(1 / Math::sqrt(var + p.eps)));
}

template <class S>
__global__ void __launch_bounds__(kThreads) group_norm_map_kernel(GroupNormParams p, ChannelTiles t) {
  using T = compute_t<S>;
  __shared__ T factors_of[kAffineFactors * kTileColumns];
  const Smem<T> factors{factors_of};
  const ImageTile tile(p, t);
  Walk<S> walk(t, tile.index);
  set_affine_of_image<S>(p, t, tile, walk.tile_column(), factors);
  __syncthreads();
  normalize_tile<S>(walk, p, tile.at<S>(p.input), tile.at<S>(p.output), Affine<S>(t, factors));
}

}  // namespace
}  // namespace cuda

CudaError launch_group_norm(const GroupNormParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    const ChannelTiles t = p.cuda_tiles();
    const unsigned tiles = cuda::grid_of(p.batch * t.count());
    CudaError error = cuda::launch(cuda::group_norm_reduce_kernel<S>, tiles, cuda::kThreads, 0, stream, p, t);
    if (error == 0) {
      const unsigned groups = cuda::grid_of(p.all_groups());
      error = cuda::launch(cuda::group_norm_statistics_kernel<S>, groups, cuda::kThreads, 0, stream, p, t);
    }
    if (error != 0) return error;
    return static_cast<CudaError>(cuda::launch(cuda::group_norm_map_kernel<S>, tiles, cuda::kThreads, 0, stream, p, t));
  });
}

}  // namespace sdgan
