// The small kernels of samples.h.
#include "kernels/cuda/reduce.cuh"
#include "tests/cuda_on_host/samples.h"

namespace sdgan::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) sample_sum_kernel(const float* x, int64_t n, double* partial) {
  double sum = 0;
  for (int64_t i = blockIdx.x * kThreads + threadIdx.x; i < n; i += int64_t{kSampleBlocks} * kThreads) sum += x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void tour_kernel(int* out, unsigned* counts) {
  const int t = static_cast<int>(threadIdx.x + blockDim.x * threadIdx.y), lane = t % 32;
  int* mine = out + t * kTourResults;
  const bool full = t < 32;
  const unsigned mask = full ? 0xffffffffu : 0xffu;
  mine[0] = __shfl_up_sync(mask, t, 3);
  mine[1] = __shfl_down_sync(mask, t, 3, 8);
  mine[2] = __shfl_xor_sync(mask, t, 5);
  mine[3] = __shfl_sync(mask, t, 9, 8);
  mine[4] = static_cast<int>(__ballot_sync(mask, lane % 3 == 0));
  mine[5] = __any_sync(mask, lane == 6) + 2 * __any_sync(mask, lane == 99);
  mine[6] = __all_sync(mask, lane < 32) + 2 * __all_sync(mask, lane != 6);
  if (lane % 2 == 1) {
    mine[7] = __shfl_sync(full ? 0xaaaaaaaau : 0xaau, t, 1);
  } else {
    mine[7] = __shfl_sync(full ? 0x55555555u : 0x55u, t, 0);
  }
  __syncwarp(mask);
  mine[8] = __syncthreads_count(t % 5 == 0);
  mine[9] = __syncthreads_or(t == 17) + 2 * __syncthreads_or(t > 1000);
  mine[10] = __syncthreads_and(t < 40) + 2 * __syncthreads_and(t != 17);
  mine[11] = __popc(0xf0f0u) + 100 * __clz(1 << lane) + 10000 * __ffs(1 << lane);
  mine[12] = static_cast<int>(__float_as_uint(1.5f)) + static_cast<int>(__uint_as_float(0x40000000u));
  mine[13] = static_cast<int>(1000 * rsqrtf(4.0f) + fmaf(2.0f, 3.0f, 4.0f));
  const float4 f = make_float4(1, 2, 3, 4);
  const uint2 u = make_uint2(5, 6);
  mine[14] = static_cast<int>(max(f.x, f.w) + min(f.y, f.z)) + static_cast<int>(max(u.x, u.y));
  __stcs(mine + 15, __ldg(mine + 14) + 1);
  atomicAdd(counts, 2u);
  atomicAdd(reinterpret_cast<int*>(counts + 1), -1);
  atomicAdd(reinterpret_cast<unsigned long long*>(counts + 2), 1ull << 31);
}

__global__ void staging_kernel(const uint16_t* in, uint16_t* out) {
  __shared__ uint16_t stage[64];
  const Smem<uint16_t> s{stage};
  const int t = static_cast<int>(threadIdx.x);
  s[t] = in[t];
  __syncwarp();
  const int neighbour = s[t ^ 1], first = s[t / 32 * 32];
  __syncwarp();
  s[t] = static_cast<uint16_t>(neighbour + first);
  const int mine = s[t];
  s[t] = static_cast<uint16_t>(mine + 1);
  __syncthreads();
  const int other = s[63 - t];
  __syncthreads();
  s[63 - t] = static_cast<uint16_t>(other - 1);
  __syncthreads();
  out[t] = s[t];
}

__global__ void bug_kernel(Bug bug, const float* in, float* out) {
#if SDGAN_CUDA_ARCH >= 800
  float* raw = dynamic_smem<float>();
  const Smem<float> s{raw};
  __shared__ float still[64];
  const Smem<float> kept{still};
  const int t = static_cast<int>(threadIdx.x), n = static_cast<int>(blockDim.x);
  if (bug == Bug::early_exit && t == 7) return;
  if (bug == Bug::two_barriers && t < 32) {
    __syncthreads();
    out[t] = 0;
    return;
  }
  if (bug == Bug::misaligned_copy) cp_async_16(raw + 1, in, 16);
  if (t * 4 < n) cp_async_16(raw + t * 4, in + t * 4, 16);
  cp_async_commit();
  if (bug != Bug::no_wait) cp_async_wait<0>();
  if (bug != Bug::no_barrier) __syncthreads();
  float v = s[n - 1 - t];
  if (bug == Bug::add_assign) s[0] += 1.0f;
  if (bug == Bug::index_overrun) v += s[n + t / 32];
  if (bug == Bug::pointer_overrun) v += raw[n + t / 32];
  if (bug != Bug::write_after_read) __syncthreads();
  s[t] = v + 1;
  __syncthreads();
  uint32_t r[4];
  if (bug == Bug::misaligned_row) ldmatrix_x4<false>(r, raw + 1);
  float c[4] = {};
  const uint32_t a[4] = {};
  if (bug == Bug::divergent_mma) {
    if (t % 2 == 0) {
      mma_m16n8k16(c, a, 0, 0, bf16{});
    } else {
      mma_m16n8k16(c, a, 0, 0, bf16{});
    }
  }
  if (bug == Bug::lane_missing && t == 3) {
    out[t] = 0;
    return;
  }
  v = s[t];
  v += 0 * __shfl_xor_sync(0xffffffffu, v, 1);
  if (bug == Bug::shared_not_written) v += 0 * kept[t];
  kept[t] = 0.0f;
  out[t] = v + c[0];
#endif
}

#ifndef __CUDACC__
void nested_kernel(const float* in, float* out) { launch(bug_kernel, 1, 64, 256, nullptr, Bug::none, in, out); }
#endif

}  // namespace

CudaError launch_sample_sum(const float* x, int64_t n, double* partial, double* total, CudaStream stream) {
  const CudaError error = launch(sample_sum_kernel, kSampleBlocks, kThreads, 0, stream, x, n, partial);
  if (error != 0) return error;
  return launch(sum_partial_kernel<double>, 1, kThreads, 0, stream, static_cast<const double*>(partial),
                int64_t{kSampleBlocks}, static_cast<void*>(total));
}

CudaError launch_sample_staging(const uint16_t* in, uint16_t* out, CudaStream stream) {
  return launch(staging_kernel, 1, 64, 0, stream, in, out);
}

CudaError launch_sample_tour(int* out, unsigned* counts, CudaStream stream) {
  return launch(tour_kernel, 1, dim3(8, 5), 0, stream, out, counts);
}

CudaError launch_sample_bug(Bug bug, const float* in, float* out, CudaStream stream) {
#ifndef __CUDACC__
  if (bug == Bug::nested_launch) return launch(nested_kernel, 1, 1, 0, stream, in, out);
#endif
  return launch(bug_kernel, 1, 64, 64 * sizeof(float), stream, bug, in, out);
}

}  // namespace sdgan::cuda
