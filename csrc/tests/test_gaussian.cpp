// The gaussian kernels against the formulas of their header in double, and the drawn noise against philox.h block by
// block, on memory that ends exactly where the data does.
#include "kernels/gaussian.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/simd.h"
#include "kernels/philox.h"
#include "tests/check.h"

namespace sdgan::SDGAN_ISA {

void test_gaussian();

namespace {

using testing::guarded;

struct ScalarMath {
  static uint64_t multiply_low(uint64_t x, uint32_t constant) { return (x & 0xffffffffu) * constant; }
};

double noise(int64_t i, int64_t seed) {
  uint64_t word[4] = {static_cast<uint64_t>(i / 4), 0, 0, 0};
  philox<ScalarMath>(word, static_cast<uint64_t>(seed));
  const int pair = i % 4 / 2 * 2;
  double first, second;
  box_muller(static_cast<uint32_t>(word[pair]), static_cast<uint32_t>(word[pair + 1]), first, second);
  return i % 2 ? second : first;
}

template <class S>
S* values(int64_t n, int salt) {
  S* data = static_cast<S*>(guarded(n * sizeof(S)));
  for (int64_t i = 0; i < n; ++i) {
    write<S>(data, i, 1, splat(static_cast<compute_t<S>>(2 * std::sin(0.7 * static_cast<double>(i) + salt))));
  }
  return data;
}

template <class S>
double at(const void* data, int64_t i) {
  return load_one(static_cast<const S*>(data) + i);
}

template <class S>
void check(int64_t n, bool drawn, bool reduced, DType dtype) {
  const double tolerance = dtype == DType::f32 ? 2e-6 : dtype == DType::f64 ? 1e-13 : 1e-2;
  const int64_t seed = -0x123456789abcdef;
  std::vector<double> partial(slices(n));
  GaussianParams p;
  p.dtype = dtype;
  p.n = n;
  p.mean = values<S>(n, 0);
  p.logvar = values<S>(n, 1);
  p.eps = drawn ? nullptr : values<S>(n, 2);
  p.seed = drawn ? &seed : nullptr;
  p.z = guarded(n * sizeof(S));
  p.kl = reduced ? nullptr : guarded(n * sizeof(S));
  p.partial = reduced ? partial.data() : nullptr;
  p.scale = 1.0 / static_cast<double>(n);
  for (int64_t s = slices(n); s-- > 0;) SDGAN_ISA::gaussian(p, s, s + 1);  // the order of slices does not matter

  GaussianBackwardParams b;
  b.dtype = dtype;
  b.n = n;
  b.grad_z = values<S>(n, 3);
  b.grad_kl = values<S>(reduced ? 1 : n, 4);
  b.mean = p.mean;
  b.logvar = p.logvar;
  b.z = p.z;
  b.grad_mean = guarded(n * sizeof(S));
  b.grad_logvar = guarded(n * sizeof(S));
  b.grad_eps = drawn ? nullptr : guarded(n * sizeof(S));
  b.scale = reduced ? p.scale : 1;
  b.reduced = reduced;
  SDGAN_ISA::gaussian_backward(b, 0, slices(n));

  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double mean = at<S>(p.mean, i), logvar = at<S>(p.logvar, i), sigma = std::exp(logvar / 2);
    const double z = mean + sigma * (drawn ? noise(i, seed) : at<S>(p.eps, i));
    EXPECT_CLOSE(i, at<S>(p.z, i), z, tolerance);
    const double kl = (mean * mean + sigma * sigma - 1 - logvar) / 2;
    if (!reduced) EXPECT_CLOSE(i, at<S>(p.kl, i), kl, tolerance);
    sum += kl * p.scale;
    const double gz = at<S>(b.grad_z, i), gk = at<S>(b.grad_kl, reduced ? 0 : i) * b.scale;
    const double shift = at<S>(p.z, i) - mean;  // of the z that was stored
    EXPECT_CLOSE(i, at<S>(b.grad_mean, i), gz + gk * mean, tolerance);
    EXPECT_CLOSE(i, at<S>(b.grad_logvar, i), (gz * shift + gk * (sigma * sigma - 1)) / 2, tolerance);
    if (b.grad_eps) EXPECT_CLOSE(i, at<S>(b.grad_eps, i), gz * sigma, tolerance);
  }
  double total = 0;
  for (double part : partial) total += part;
  if (reduced) EXPECT_CLOSE(n, total, sum, dtype == DType::f64 ? 1e-13 : 2e-6);
}

template <class S>
void check_all(DType dtype) {
  for (int64_t n : {int64_t{1}, int64_t{7}, int64_t{33}, kSlice - 1, kSlice, 2 * kSlice + 9}) {
    for (bool drawn : {false, true}) {
      for (bool reduced : {false, true}) check<S>(n, drawn, reduced, dtype);
    }
  }
}

}  // namespace

void test_gaussian() {
  check_all<float>(DType::f32);
  check_all<double>(DType::f64);
  check_all<bf16>(DType::bf16);
}

}  // namespace sdgan::SDGAN_ISA
