// Wrappers of the PTX instructions that CUDA C++ has no name for: asynchronous copies to shared memory and tensor
// cores. Inline PTX under nvcc; under g++ a host version of the same contract, tests/cuda_on_host/ptx_host.h. Shared
// memory is named by generic pointers. ldmatrix_x4 needs sm_75, the others sm_80: a kernel that calls them is guarded
// by
// `#if SDGAN_CUDA_ARCH >= 800`; on an older GPU they trap.
//
// Contracts (g = lane / 4, t = lane % 4; a register holds two 16-bit elements, the first in its lower half):
//
//   cp_async_16(smem, global, n)  Copies n of 16 bytes, 0 <= n <= 16, and fills the rest with zeros, some time before
//                                 the wait for its group returns. Both addresses are multiples of 16, also for n = 0,
//                                 where nothing is read. Past the L1 cache.
//   cp_async_16_cached(...)       The same through the L1 cache, for what is read again soon.
//   cp_async_4(smem, global, n)   The same with 4 bytes, 0 <= n <= 4. Through the L1 cache.
//   cp_async_commit()             Closes the group of this thread's copies since the last commit; it may be empty.
//   cp_async_wait<N>()            All but the last N groups of this thread have landed. For other threads' copies a
//                                 barrier must follow.
//   ldmatrix_x4<Trans>(r, row)    Four 8 x 8 matrices of 16-bit elements. Lane l passes the address of row l % 8 of
//                                 matrix l / 8, a multiple of 16. r[i] gets elements (g, 2t) and (g, 2t + 1) of matrix
//                                 i; with Trans, of its transpose.
//   mma_m16n8k16(c, a, b0, b1, bf16{} or f16{})
//                                 C [16, 8] += A [16, 16] B [16, 8], float sums.
//                                 a[0] A(g, 2t..2t+1)      b0 B(2t..2t+1, g)      c[0..1] C(g, 2t..2t+1)
//                                 a[1] A(g+8, 2t..2t+1)    b1 B(2t+8..2t+9, g)    c[2..3] C(g+8, 2t..2t+1)
//                                 a[2] A(g, 2t+8..2t+9)
//                                 a[3] A(g+8, 2t+8..2t+9)
//   mma_m16n8k8_tf32(c, a, b0, b1)
//                                 C [16, 8] += A [16, 8] B [8, 8]. The lower 13 bits of a and b are ignored.
//                                 a[0] A(g, t)             b0 B(t, g)             c as above
//                                 a[1] A(g+8, t)           b1 B(t+4, g)
//                                 a[2] A(g, t+4)
//                                 a[3] A(g+8, t+4)
//   to_tf32(x)                    x to the nearest tf32 (10 bits of mantissa), ties away from zero. The lower 13
//                                 bits of the result have no meaning.
//
// ldmatrix and mma are for whole warps: all 32 lanes call them together.
#pragma once

#include "kernels/cuda/portable.cuh"

#ifdef __CUDACC__
namespace sdgan::cuda {

SDGAN_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

#if SDGAN_CUDA_ARCH >= 800
SDGAN_DEVICE void cp_async_16(void* smem, const void* global, int src_bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(smem)), "l"(__cvta_generic_to_global(global)), "r"(src_bytes)
               : "memory");
}

SDGAN_DEVICE void cp_async_16_cached(void* smem, const void* global, int src_bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(smem)), "l"(__cvta_generic_to_global(global)), "r"(src_bytes)
               : "memory");
}

SDGAN_DEVICE void cp_async_4(void* smem, const void* global, int src_bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
               :
               : "r"(shared_address(smem)), "l"(__cvta_generic_to_global(global)), "r"(src_bytes)
               : "memory");
}

SDGAN_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
SDGAN_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// volatile, though nothing but c changes: the compiler must not move it under a condition that not all lanes meet.
SDGAN_DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bf16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

SDGAN_DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, f16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

SDGAN_DEVICE void mma_m16n8k8_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

SDGAN_DEVICE uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}
#else
SDGAN_DEVICE void cp_async_16(void*, const void*, int) { __trap(); }
SDGAN_DEVICE void cp_async_16_cached(void*, const void*, int) { __trap(); }
SDGAN_DEVICE void cp_async_4(void*, const void*, int) { __trap(); }
SDGAN_DEVICE void cp_async_commit() { __trap(); }
template <int N>
SDGAN_DEVICE void cp_async_wait() {
  __trap();
}
template <class S>
SDGAN_DEVICE void mma_m16n8k16(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t, S) {
  __trap();
}
SDGAN_DEVICE void mma_m16n8k8_tf32(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t) { __trap(); }
SDGAN_DEVICE uint32_t to_tf32(float) {
  __trap();
  return 0;
}
#endif

template <bool Trans>
SDGAN_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  if constexpr (Trans) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
}

}  // namespace sdgan::cuda
#else
#include "tests/cuda_on_host/ptx_host.h"
#endif
