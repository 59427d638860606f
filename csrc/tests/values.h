// Numbers in buffers of a storage type, for the C++ tests.
#pragma once

#include <cmath>

#include "kernels/cpu/simd.h"
#include "tests/check.h"

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

// n numbers in offset + [-size, size] that end where an unmapped page begins.
template <class S>
S* waves(int64_t n, int salt, double size, double offset = 0) {
  S* data = static_cast<S*>(testing::guarded(n * sizeof(S)));
  for (int64_t i = 0; i < n; ++i) put<S>(data, i, offset + size * std::sin(0.7 * static_cast<double>(i) + salt));
  return data;
}

}  // namespace sdgan::SDGAN_ISA
