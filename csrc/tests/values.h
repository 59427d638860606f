// Numbers in buffers of a storage type, for the C++ tests.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/activation.h"
#include "kernels/cpu/simd.h"
#include "tests/check.h"
#if SDGAN_CUDA_ON_HOST
#include <vector>

#include "kernels/launcher.h"
#include "tests/cuda_on_host/cuda_host.h"
#endif

namespace sdgan::SDGAN_ISA {

template <class S>
double at(const void* data, int64_t i) {
  return load_one(static_cast<const S*>(data) + i);
}
template <>
inline double at<f16>(const void* data, int64_t i) {
  return testing::from_f16(static_cast<const f16*>(data)[i]);
}

template <class S>
void put(void* data, int64_t i, double x) {
  write<S>(data, i, 1, splat(static_cast<compute_t<S>>(x)));
}
template <>
inline void put<f16>(void* data, int64_t i, double x) {
  static_cast<f16*>(data)[i] = testing::to_f16(x);
}

// The activations' formulas, for what the kernels must give.
inline double activated(Activation a, double x, double negative_slope) {
  switch (a) {
    case Activation::relu:
      return x < 0 ? 0 : x;
    case Activation::leaky_relu:
      return x < 0 ? x * negative_slope : x;
    case Activation::tanh:
      return std::tanh(x);
    case Activation::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::elu:
      return x < 0 ? std::expm1(x) : x;
    default:
      return x;
  }
}

// n numbers in offset + [-size, size] that end where an unmapped page begins.
template <class S>
S* waves(int64_t n, int salt, double size, double offset = 0) {
  S* data = static_cast<S*>(testing::guarded(n * sizeof(S)));
  for (int64_t i = 0; i < n; ++i) put<S>(data, i, offset + size * std::sin(0.7 * static_cast<double>(i) + salt));
  return data;
}

#if SDGAN_CUDA_ON_HOST
// Launches a CUDA kernel with a sum, checked for races, and once more with the threads in another order: the sum's bits
// must be the same. Returns the sum, 0 where it is not reduced.
template <class S, class Params>
double launched_twice(Params& p, bool reduced, CudaError (*launcher)(const Params&, CudaStream)) {
  std::vector<double> partial(kCudaPartials);
  S total[2];
  cuhost::options.race_check = true;
  for (int i : {0, 1}) {
    cuhost::options.shuffle = i;
    p.partial = reduced ? partial.data() : nullptr;
    p.total = reduced ? total + i : nullptr;
    EXPECT(launcher(p, nullptr) == 0);
  }
  if (reduced) EXPECT(std::memcmp(total, total + 1, sizeof(S)) == 0);
  return reduced ? at<S>(total, 0) : 0;
}
#endif

}  // namespace sdgan::SDGAN_ISA
