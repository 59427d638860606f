// Kernels that try the stand-in and the wrappers of PTX, for test_cuda_on_host.cpp. Not part of the library.
#pragma once

#include "kernels/cuda/sm90.cuh"

namespace sdgan::cuda {

constexpr int kSampleBlocks = 16;

// total [1] = the sum of x [n], by way of partial [kSampleBlocks].
CudaError launch_sample_sum(const float* x, int64_t n, double* partial, double* total, CudaStream stream);

// C [m, n] = A [m, k] B [k, n], rows ldc, lda, ldb apart; rows of A and B start at multiples of 16 bytes. float
// computes in tf32.
template <class S>
CudaError launch_sample_gemm(int m, int n, int k, const S* a, int lda, const S* b, int ldb, float* c, int ldc,
                             CudaStream stream);

// sums [columns] of x [rows, columns], rows `stride` apart: boxes by TMA into a ring of two, adders behind mbarriers.
enum class TmaBug { none, no_arrive, no_wait, early_end };
CudaError launch_sample_column_sums(const bf16* x, int64_t rows, int64_t columns, int64_t stride, float* sums,
                                    TmaBug bug, CudaStream stream);

// out[t] = in[t ^ 1] + in[t / 32 * 32] for 64 threads: neighbours share words of shared memory, warps stage through it
// with __syncwarp alone. Free of races.
CudaError launch_sample_staging(const uint16_t* in, uint16_t* out, CudaStream stream);

// What the built-in functions return, in one warp and a bit; see samples.cu. out [40, kTourResults], counts [4].
constexpr int kTourResults = 16;
CudaError launch_sample_tour(int* out, unsigned* counts, CudaStream stream);

// out[t] = 64 - t for 64 threads and in[t] = t, unless the bug shows.
enum class Bug {
  none,
  early_exit,
  two_barriers,
  no_barrier,
  write_after_read,
  add_assign,
  no_wait,
  misaligned_copy,
  misaligned_row,
  lane_missing,
  divergent_mma,
  index_overrun,
  pointer_overrun,
  shared_not_written,
  nested_launch,
};
CudaError launch_sample_bug(Bug bug, const float* in, float* out, CudaStream stream);

}  // namespace sdgan::cuda
