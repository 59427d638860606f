// Tensor cores by storage type, for the kernels of implicit_gemm_tensor.cu and implicit_gemm_wgrad.cu.
#pragma once

#include "kernels/conv/implicit_gemm.cuh"
#include "kernels/cuda/ptx.cuh"

#ifdef __CUDACC__
#define SDGAN_NO_UNROLL _Pragma("unroll 1")
#else
#define SDGAN_NO_UNROLL
#endif

namespace sdgan::cuda {

constexpr int kStages = 3;
constexpr int kStepBytes = static_cast<int>(implicit_gemm::kTensorStepBytes);  // of K

// One mma along 32 bytes of K: m16n8k16 for 16-bit types, m16n8k8 for float as tf32.
template <class S>
SDGAN_DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (sizeof(S) == 4) {
    mma_m16n8k8_tf32(c, a, b0, b1);
  } else {
    mma_m16n8k16(c, a, b0, b1, S{});
  }
}

// float to the nearest tf32; the tensor core itself would truncate.
template <class S>
SDGAN_DEVICE void round_fragment(uint32_t (&r)[4]) {
  if constexpr (sizeof(S) == 4) {
    PRAGMA_UNROLL
    for (int i = 0; i < 4; ++i) r[i] = to_tf32(bits_to_float(r[i]));
  }
}

template <class Body>
CudaError dispatch_tensor(DType dtype, Body body) {
  switch (dtype) {
    case DType::bf16:
      return body(bf16{});
    case DType::f16:
      return body(f16{});
    default:
      return body(float{});
  }
}

}  // namespace sdgan::cuda
