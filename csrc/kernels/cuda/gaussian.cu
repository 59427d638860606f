// One pass each way. Bytes per element and element size: forward 3 (mean, logvar, z), with given eps 4, for the KL
// alone 2; backward 6 (grad_z, mean, logvar, z, grad_mean, grad_logvar). Up to 4 chunks of 2048 elements are one
// launch, more are two (reduce.cuh); backward is one.
//
// Noise: Philox4x32-10 and Box-Muller, philox.h. A thread owns whole blocks of 4 normals: a pack of float is one, a
// pack of two-byte elements two, and double works on two packs at a time. So each block is computed once. An element
// takes about 75 instructions (20 Philox, 35 Box-Muller, 20 the rest): 8 million need 21 us of an H200's 132
// multiprocessors, where moving them takes 24 us in float32, 12 us in bfloat16 (at 4.3 TB/s). So bfloat16 is bound by
// instructions.
#include "kernels/gaussian.h"

#include "kernels/cuda/reduce.cuh"
#include "kernels/philox.h"

namespace sdgan {
namespace cuda {
namespace {

template <class S>
constexpr int kGroup = kPack<S> < 4 ? 4 : kPack<S>;  // the elements that a thread works on: whole blocks, whole packs
template <class S>
constexpr int kPacks = kGroup<S> / kPack<S>;

SDGAN_DEVICE void normal_pair(PhiloxWord radius, PhiloxWord angle, float& first, float& second) {
  box_muller<Math>(radius.low, angle.low, first, second);
}
SDGAN_DEVICE void normal_pair(PhiloxWord radius, PhiloxWord angle, double& first, double& second) {
  box_muller(radius.low, angle.low, first, second);
}

// Normals i .. i + kGroup<S>, i a multiple of kGroup<S>.
template <class S>
SDGAN_DEVICE void draw(Pack<S> (&eps)[kPacks<S>], int64_t i, int64_t key) {
  PRAGMA_UNROLL
  for (int first = 0; first < kGroup<S>; first += 4) {
    const uint64_t block = static_cast<uint64_t>(i + first) / 4;
    PhiloxWord word[4] = {{static_cast<uint32_t>(block), 0}, {static_cast<uint32_t>(block >> 32), 0}, {0, 0}, {0, 0}};
    philox<Math>(word, static_cast<uint64_t>(key));
    PRAGMA_UNROLL
    for (int j = 0; j < 4; j += 2) {
      Pack<S>& pack = eps[(first + j) / kPack<S>];
      const int lane = (first + j) % kPack<S>;
      normal_pair(word[j], word[j + 1], pack[lane], pack[lane + 1]);
    }
  }
}

template <class S>
struct Inputs {
  Raw<S> mean[kPacks<S>], logvar[kPacks<S>], eps[kPacks<S>];
};

template <class S>
__global__ void __launch_bounds__(kThreads, kResident<S>) gaussian_kernel(GaussianParams p) {
  using T = compute_t<S>;
  const int64_t key = p.seed ? *p.seed : 0;
  double sum = 0;
  for (int64_t c = blockIdx.x; c < chunks(p.n); c += gridDim.x) {
    T chunk_sum = 0;
    for_chunk<S, kGroup<S>>(
        c, p.n,
        [&](int64_t i, int count) {
          Inputs<S> in;
          PRAGMA_UNROLL
          for (int k = 0; k < kPacks<S>; ++k) {
            const int64_t at = i + k * kPack<S>;
            in.mean[k] = read_raw<S>(p.mean, at, count - k * kPack<S>);
            in.logvar[k] = read_raw<S>(p.logvar, at, count - k * kPack<S>);
            in.eps[k] = read_raw<S>(p.eps, at, count - k * kPack<S>);
          }
          return in;
        },
        [&](int64_t i, int count, const Inputs<S>& in) {
          Pack<S> eps[kPacks<S>];
          if (p.seed) {
            draw<S>(eps, i, key);
          } else {
            PRAGMA_UNROLL
            for (int k = 0; k < kPacks<S>; ++k) eps[k] = widen<S>(in.eps[k]);
          }
          PRAGMA_UNROLL
          for (int k = 0; k < kPacks<S>; ++k) {
            const int64_t at = i + k * kPack<S>;
            const int here = count - k * kPack<S>;
            const Pack<S> mean = widen<S>(in.mean[k]), logvar = widen<S>(in.logvar[k]);
            Pack<S> z, kl;
            PRAGMA_UNROLL
            for (int j = 0; j < kPack<S>; ++j) {
              const T sigma = Math::exp(T(0.5) * logvar[j]);
              z[j] = mean[j] + sigma * eps[k][j];
              kl[j] = T(0.5) * (mean[j] * mean[j] + (sigma * sigma - T(1) - logvar[j]));
              if (j < here) chunk_sum += kl[j];
            }
            write<S>(p.z, at, here, z);
            write<S>(p.kl, at, here, kl);
          }
        });
    sum += chunk_sum;
  }
  finish_block<S>(sum * p.scale, p.partial, p.total);
}

template <class S>
struct BackwardInputs {
  Raw<S> grad_z, grad_kl, mean, logvar, z;
};

// Five inputs need more registers, and fewer blocks to have as many bytes under way.
template <class S>
constexpr int kBackwardResident = sizeof(S) == 8 ? 2 : 3;

template <class S>
__global__ void __launch_bounds__(kThreads, kBackwardResident<S>) gaussian_backward_kernel(GaussianBackwardParams p) {
  using T = compute_t<S>;
  const T one = p.grad_kl && p.reduced ? load_one<S>(p.grad_kl, 0) * static_cast<T>(p.scale) : T(0);
  const void* grad_kl = p.reduced ? nullptr : p.grad_kl;
  for (int64_t c = blockIdx.x; c < chunks(p.n); c += gridDim.x) {
    for_chunk<S>(
        c, p.n,
        [&](int64_t i, int count) {
          return BackwardInputs<S>{read_raw<S>(p.grad_z, i, count), read_raw<S>(grad_kl, i, count),
                                   read_raw<S>(p.mean, i, count), read_raw<S>(p.logvar, i, count),
                                   read_raw<S>(p.z, i, count)};
        },
        [&](int64_t i, int count, const BackwardInputs<S>& in) {
          const Pack<S> mean = widen<S>(in.mean), logvar = widen<S>(in.logvar);
          Pack<S> by_mean = splat<S>(T(0)), by_logvar = by_mean;
          if (p.grad_z) {
            const Pack<S> grad_z = widen<S>(in.grad_z), z = widen<S>(in.z);
            PRAGMA_UNROLL
            for (int j = 0; j < kPack<S>; ++j) {
              by_mean[j] = grad_z[j];
              by_logvar[j] = grad_z[j] * (z[j] - mean[j]);
            }
            if (p.grad_eps) {
              Pack<S> by_eps;
              PRAGMA_UNROLL
              for (int j = 0; j < kPack<S>; ++j) by_eps[j] = grad_z[j] * Math::exp(T(0.5) * logvar[j]);
              write<S>(p.grad_eps, i, count, by_eps);
            }
          }
          if (p.grad_kl) {
            const Pack<S> upstream = p.reduced ? splat<S>(one) : widen<S>(in.grad_kl);
            PRAGMA_UNROLL
            for (int j = 0; j < kPack<S>; ++j) {
              by_mean[j] += upstream[j] * mean[j];
              by_logvar[j] += upstream[j] * (Math::exp(logvar[j]) - T(1));
            }
          }
          PRAGMA_UNROLL
          for (int j = 0; j < kPack<S>; ++j) by_logvar[j] *= T(0.5);
          write<S>(p.grad_mean, i, count, by_mean);
          write<S>(p.grad_logvar, i, count, by_logvar);
        });
  }
}

}  // namespace
}  // namespace cuda

CudaError launch_gaussian(const GaussianParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return cuda::launch_reduction<S>(cuda::gaussian_kernel<S>, p, cuda::chunks(p.n), stream);
  });
}

CudaError launch_gaussian_backward(const GaussianBackwardParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return cuda::launch(cuda::gaussian_backward_kernel<S>, cuda::grid_of(cuda::chunks(p.n)), cuda::kThreads, 0, stream,
                        p);
  });
}

}  // namespace sdgan
