// Sums in a fixed order: the same bits in every run. A block adds its threads' sums, a second launch the blocks'.
#pragma once

#include "kernels/cuda/elements.cuh"

namespace sdgan::cuda {

// The sum over the block's kThreads threads, in thread 0. The block may call it again.
SDGAN_DEVICE double block_sum(double v) {
  __shared__ double warp_sum[kThreads / 32];
  const Smem<double> sums{warp_sum};
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int d = 16; d > 0; d >>= 1) v += __shfl_down_sync(0xffffffffu, v, d);
  if (lane == 0) sums[warp] = v;
  __syncthreads();
  v = threadIdx.x < kThreads / 32 ? sums[threadIdx.x] : 0.0;
  __syncthreads();
  if (warp == 0) {
    for (int d = kThreads / 64; d > 0; d >>= 1) v += __shfl_down_sync(0xffffffffu, v, d);
  }
  return v;
}

// A reduction works on pieces (chunks, say); block b on pieces b, b + blocks, ... Up to kOneBlock pieces are done by
// one block, which stores the sum itself: one launch, since a second costs about what these pieces cost one after
// another. More than kMostBlocks blocks, which fill any GPU, would make the second launch long. Neither number depends
// on the GPU, so the bits do not either.
constexpr int64_t kOneBlock = 4;
constexpr int64_t kMostBlocks = kCudaPartials;

inline unsigned reduction_blocks(int64_t pieces) {
  return pieces <= kOneBlock ? 1u : grid_of(pieces < kMostBlocks ? pieces : kMostBlocks);
}

// At the end of such a kernel: the block's sum goes to `total`, of dtype S, where the block is the only one, else to
// `partial`. Both are null where nothing is reduced.
template <class S>
SDGAN_DEVICE void finish_block(double sum, double* partial, void* total) {
  if (total == nullptr) return;
  sum = block_sum(sum);
  if (threadIdx.x != 0) return;
  if (gridDim.x == 1) {
    store_one<S>(total, 0, static_cast<compute_t<S>>(sum));
  } else {
    partial[blockIdx.x] = sum;
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads) sum_partial_kernel(const double* partial, int count, void* total) {
  constexpr int kMost = kMostBlocks / kThreads;
  double part[kMost];
  PRAGMA_UNROLL
  for (int k = 0; k < kMost; ++k) {
    const int i = k * kThreads + threadIdx.x;
    part[k] = i < count ? partial[i] : 0.0;
  }
  double sum = 0;
  PRAGMA_UNROLL
  for (int k = 0; k < kMost; ++k) sum += part[k];
  sum = block_sum(sum);
  if (threadIdx.x == 0) store_one<S>(total, 0, static_cast<compute_t<S>>(sum));
}

// Launches kernel(p) over the pieces and, where there are partial results, the kernel that adds them. P has `partial`
// [kCudaPartials] and `total` [1], both null where nothing is reduced.
template <class S, class P>
CudaError launch_reduction(void (*kernel)(P), const P& p, int64_t pieces, CudaStream stream) {
  const unsigned blocks = reduction_blocks(pieces);
  const CudaError error = launch(kernel, blocks, kThreads, 0, stream, p);
  if (error != 0 || p.total == nullptr || blocks == 1) return error;
  return launch(sum_partial_kernel<S>, 1, kThreads, 0, stream, static_cast<const double*>(p.partial),
                static_cast<int>(blocks), p.total);
}

}  // namespace sdgan::cuda
