// Storage types of the kernels and the qualifier of functions shared by CPU and CUDA. Torch-free.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SDGAN_HD __host__ __device__ __forceinline__
#else
#define SDGAN_HD inline
#endif

namespace sdgan {

// Upper half of a float32. Arithmetic is done in float; see load and store of each backend.
struct bf16 {
  uint16_t bits;
};

enum class DType : int32_t { f32, f64, bf16 };

// The type that kernels compute in: float for float and bf16, double for double.
template <class S>
struct Compute {
  using type = S;
};
template <>
struct Compute<bf16> {
  using type = float;
};
template <class S>
using compute_t = typename Compute<S>::type;

// Reductions work on slices of this many elements: the sum over a slice is one partial result, the partial results are
// added in order. The result is therefore the same for any number of threads.
constexpr int64_t kSlice = 8192;
constexpr int64_t slices(int64_t n) { return (n + kSlice - 1) / kSlice; }

enum class Reduction : int32_t { none, mean, sum, batchmean };

}  // namespace sdgan
