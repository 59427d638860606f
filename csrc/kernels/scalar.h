// Storage types of the kernels and the qualifier of functions shared by CPU and CUDA. Torch-free.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SDGAN_HD __host__ __device__ __forceinline__
#else
#define SDGAN_HD inline
#endif

namespace sdgan {

// bf16 is the upper half of a float32, f16 the IEEE half (CUDA only). Arithmetic is done in float; see load and store
// of each backend.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

enum class DType : int32_t { f32, f64, bf16, f16 };

// The type that kernels compute in: double for double, float for the others.
template <class S>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <class S>
using compute_t = typename Compute<S>::type;

// Reductions work on slices of this many elements: the sum over a slice is one partial result, the partial results are
// added in order. The result is therefore the same for any number of threads.
constexpr int64_t kSlice = 8192;
SDGAN_HD constexpr int64_t slices(int64_t n) { return (n + kSlice - 1) / kSlice; }

enum class Reduction : int32_t { none, mean, sum, batchmean };

}  // namespace sdgan
