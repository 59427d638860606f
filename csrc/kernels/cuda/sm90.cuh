// Wrappers of what sm_90 brought: mbarriers, and TMA loads of boxes of a 2-D tensor. Inline PTX under nvcc; under g++ a
// host version of the same contract, tests/cuda_on_host/sm90_host.h. A kernel that calls them is guarded by
// `#if SDGAN_CUDA_ARCH >= 900`; on an older GPU they trap.
//
// An mbarrier is 8 bytes of shared memory. Its phase, 0 at first, completes when `count` arrivals have come and as many
// bytes have landed as were announced; then the next begins, with the same count.
//
//   mbarrier_init(b, count)              By one thread, which then calls mbarrier_init_fence(); then __syncthreads().
//   mbarrier_arrive(b)
//   mbarrier_arrive_expect_tx(b, bytes)  Arrives and announces bytes, less than 2^20 in a phase.
//   mbarrier_wait(b, parity)             Until the phase of that parity has completed. Parity 1 of a new barrier has.
//   tma_load_2d(smem, &map, x, y, b)     By one thread: starts to copy the box that begins at column x of row y, and
//                                        counts its bytes, always those of a whole box, as landed on b. What lies
//                                        outside of the tensor becomes 0. smem: a multiple of 1024. The kernel must
//                                        not end before it has landed.
//   make_tensor_map_2d(...)              On the host. The kernel takes it as `const __grid_constant__ TensorMap`.
//
// A box has rows of 128 bytes; byte i of row r lies at swizzle_128(r, i), so that a column is free of bank conflicts.
#pragma once

#include "kernels/cuda/ptx.cuh"

namespace sdgan::cuda {

SDGAN_HD constexpr int swizzle_128(int row, int byte) { return row * 128 + (byte ^ (row % 8 * 16)); }

template <class S>
constexpr int kBoxColumns = 128 / static_cast<int>(sizeof(S));

// What make_tensor_map_2d refuses: a GPU could not load it.
template <class S>
bool can_tensor_map_2d(const S* base, int64_t rows, int64_t columns, int64_t row_stride, int box_rows) {
  constexpr int64_t kMost = int64_t{1} << 31;  // coordinates are int
  return reinterpret_cast<uintptr_t>(base) % 16 == 0 && row_stride * int64_t{sizeof(S)} % 16 == 0 && rows > 0 &&
         rows < kMost && columns > 0 && columns < kMost && columns <= row_stride &&
         row_stride < (int64_t{1} << 40) / int64_t{sizeof(S)} && box_rows > 0 && box_rows <= 256;
}

}  // namespace sdgan::cuda

#ifdef __CUDACC__
#include <cuda.h>

namespace sdgan::cuda {

using TensorMap = CUtensorMap;

#if SDGAN_CUDA_ARCH >= 900
SDGAN_DEVICE void mbarrier_init(uint64_t* b, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}

// The barrier becomes visible to the unit that will count bytes on it.
SDGAN_DEVICE void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

SDGAN_DEVICE void mbarrier_arrive(uint64_t* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

SDGAN_DEVICE void mbarrier_arrive_expect_tx(uint64_t* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}

SDGAN_DEVICE void mbarrier_wait(uint64_t* b, int parity) {
  uint32_t completed = 0;
  while (completed == 0) {
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(completed)
                 : "r"(shared_address(b)), "r"(parity)
                 : "memory");
  }
}

SDGAN_DEVICE void tma_load_2d(void* smem, const TensorMap* map, int x, int y, uint64_t* b) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
      :
      : "r"(shared_address(smem)), "l"(map), "r"(x), "r"(y), "r"(shared_address(b))
      : "memory");
}
#else
SDGAN_DEVICE void mbarrier_init(uint64_t*, int) { __trap(); }
SDGAN_DEVICE void mbarrier_init_fence() { __trap(); }
SDGAN_DEVICE void mbarrier_arrive(uint64_t*) { __trap(); }
SDGAN_DEVICE void mbarrier_arrive_expect_tx(uint64_t*, int) { __trap(); }
SDGAN_DEVICE void mbarrier_wait(uint64_t*, int) { __trap(); }
SDGAN_DEVICE void tma_load_2d(void*, const TensorMap*, int, int, uint64_t*) { __trap(); }
#endif

inline CUtensorMapDataType tensor_map_type(bf16) { return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16; }
inline CUtensorMapDataType tensor_map_type(f16) { return CU_TENSOR_MAP_DATA_TYPE_FLOAT16; }
inline CUtensorMapDataType tensor_map_type(float) { return CU_TENSOR_MAP_DATA_TYPE_FLOAT32; }

// base [rows, row_stride], of which `columns` are there; boxes of box_rows x kBoxColumns<S>. The driver makes the map:
// it is asked for at run time, since the library is not linked against it.
template <class S>
CudaError make_tensor_map_2d(TensorMap* map, const S* base, int64_t rows, int64_t columns, int64_t row_stride,
                             int box_rows) {
  if (!can_tensor_map_2d(base, rows, columns, row_stride, box_rows)) return cudaErrorInvalidValue;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess || function == nullptr) return cudaErrorNotSupported;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(row_stride) * sizeof(S)};
  const cuuint32_t box[2] = {kBoxColumns<S>, static_cast<cuuint32_t>(box_rows)}, steps[2] = {1, 1};
  const CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function)(
      map, tensor_map_type(S{}), 2, const_cast<S*>(base), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace sdgan::cuda
#else
#include "tests/cuda_on_host/sm90_host.h"
#endif
