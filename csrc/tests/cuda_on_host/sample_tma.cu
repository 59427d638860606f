// Column sums: a thread of warp 0 loads boxes of 64 x 64 by TMA into a ring of two, warps 1 and 2 add them up.
#include "kernels/cuda/elements.cuh"
#include "tests/cuda_on_host/samples.h"

namespace sdgan::cuda {
namespace {

constexpr int kRing = 2, kRows = 64, kBoxBytes = kRows * 128;
constexpr int kAdders = kBoxColumns<bf16>;
constexpr int kColumnThreads = 32 + kAdders;

__global__ void __launch_bounds__(kColumnThreads)
    column_sums_kernel(const __grid_constant__ TensorMap map, int rows, int columns, float* sums, TmaBug bug) {
#if SDGAN_CUDA_ARCH >= 900
  unsigned char* smem = dynamic_smem<unsigned char>();
  uint64_t* full = reinterpret_cast<uint64_t*>(smem + kRing * kBoxBytes);
  uint64_t* empty = full + kRing;
  const int t = static_cast<int>(threadIdx.x), boxes = (rows + kRows - 1) / kRows;
  const int first_column = static_cast<int>(blockIdx.x) * kAdders;
  if (t == 0) {
    for (int s = 0; s < kRing; ++s) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, kAdders);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  if (t == 0) {
    for (int i = 0; i < boxes; ++i) {
      const int s = i % kRing;
      mbarrier_wait(empty + s, (i / kRing + 1) % 2);
      mbarrier_arrive_expect_tx(full + s, kBoxBytes);
      tma_load_2d(smem + s * kBoxBytes, &map, first_column, i * kRows, full + s);
    }
  } else if (t >= 32 && bug != TmaBug::early_end) {
    const int c = t - 32;
    float sum = 0;
    for (int i = 0; i < boxes; ++i) {
      const int s = i % kRing;
      if (bug != TmaBug::no_wait) mbarrier_wait(full + s, i / kRing % 2);
      for (int r = 0; r < kRows; ++r) {
        const unsigned char* element = smem + s * kBoxBytes + swizzle_128(r, c * 2);
        sum += to_compute(*reinterpret_cast<const bf16*>(element));
      }
      if (bug != TmaBug::no_arrive) mbarrier_arrive(empty + s);
    }
    if (bug == TmaBug::no_wait) {
      for (int i = max(0, boxes - kRing); i < boxes; ++i) mbarrier_wait(full + i % kRing, i / kRing % 2);
    }
    if (first_column + c < columns) sums[first_column + c] = sum;
  }
#endif
}

}  // namespace

CudaError launch_sample_column_sums(const bf16* x, int64_t rows, int64_t columns, int64_t stride, float* sums,
                                    TmaBug bug, CudaStream stream) {
  TensorMap map;
  const CudaError error = make_tensor_map_2d(&map, x, rows, columns, stride, kRows);
  if (error != 0) return error;
  return launch(column_sums_kernel, static_cast<unsigned>((columns + kAdders - 1) / kAdders), kColumnThreads,
                kRing * kBoxBytes + 2 * kRing * sizeof(uint64_t), stream, map, static_cast<int>(rows),
                static_cast<int>(columns), sums, bug);
}

}  // namespace sdgan::cuda
