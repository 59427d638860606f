// The gaussian kernels against the formulas of their header in double, and the drawn noise against philox.h block by
// block, on memory that ends exactly where the data does; CUDA's noise against the CPU kernel's as well.
#include "kernels/gaussian.h"

#include <cmath>
#include <vector>

#include "kernels/philox.h"
#include "tests/check.h"
#include "tests/values.h"
#if SDGAN_CUDA_ON_HOST
#include "kernels/cpu/gaussian.cpp"  // to compare with
#include "tests/cuda_on_host/cuda_host.h"
#endif

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

#if SDGAN_CUDA_ON_HOST
template <class S>
constexpr double kSumTolerance = sizeof(S) == 2   ? 1e-2
                                 : sizeof(S) == 8 ? 1e-13
                                                  : 2e-6;  // the sum is stored as S

template <class S>
double run_forward(GaussianParams& p) {
  return launched_twice<S>(p, p.kl == nullptr, launch_gaussian);
}

void run_backward(const GaussianBackwardParams& p) { EXPECT(launch_gaussian_backward(p, nullptr) == 0); }
#else
template <class S>
constexpr double kSumTolerance = sizeof(S) == 8 ? 1e-13 : 2e-6;

template <class S>
double run_forward(GaussianParams& p) {
  std::vector<double> partial(slices(p.n));
  p.partial = p.kl ? nullptr : partial.data();
  for (int64_t s = slices(p.n); s-- > 0;) SDGAN_ISA::gaussian(p, s, s + 1);  // the order of slices does not matter
  double sum = 0;
  for (double part : partial) sum += part;
  return sum;
}

void run_backward(const GaussianBackwardParams& p) { SDGAN_ISA::gaussian_backward(p, 0, slices(p.n)); }
#endif

enum class Noise { drawn, given, none };

// `shift`: a tensor that starts at that element of an aligned buffer.
template <class S>
void check(int64_t n, Noise source, bool reduced, DType dtype, int shift = 0) {
  const double tolerance = dtype == DType::f32 ? 2e-6 : dtype == DType::f64 ? 1e-13 : 1e-2;
  const int64_t seed = -0x123456789abcdef;
  const bool drawn = source == Noise::drawn, none = source == Noise::none;
  GaussianParams p;
  p.dtype = dtype;
  p.n = n;
  p.mean = waves<S>(n + shift, 0, 2) + shift;
  p.logvar = waves<S>(n, 1, 2);
  p.eps = source == Noise::given ? waves<S>(n, 2, 2) : nullptr;
  p.seed = drawn ? &seed : nullptr;
  p.z = none ? nullptr : guarded(n * sizeof(S));
  p.kl = reduced ? nullptr : guarded(n * sizeof(S));
  p.scale = 1.0 / static_cast<double>(n);
  const double total = run_forward<S>(p);

  GaussianBackwardParams b;
  b.dtype = dtype;
  b.n = n;
  b.grad_z = none ? nullptr : waves<S>(n, 3, 2);
  b.grad_kl = waves<S>(reduced ? 1 : n, 4, 2);
  b.mean = p.mean;
  b.logvar = p.logvar;
  b.z = none ? nullptr : p.z;
  b.grad_mean = guarded(n * sizeof(S));
  b.grad_logvar = guarded(n * sizeof(S));
  b.grad_eps = source == Noise::given ? guarded(n * sizeof(S)) : nullptr;
  b.scale = reduced ? p.scale : 1;
  b.reduced = reduced;
  run_backward(b);

  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double mean = at<S>(p.mean, i), logvar = at<S>(p.logvar, i), sigma = std::exp(logvar / 2);
    if (!none) {
      const double z = mean + sigma * (drawn ? noise(i, seed) : at<S>(p.eps, i));
      EXPECT_CLOSE(i, at<S>(p.z, i), z, tolerance);
    }
    const double kl = (mean * mean + sigma * sigma - 1 - logvar) / 2;
    if (!reduced) EXPECT_CLOSE(i, at<S>(p.kl, i), kl, tolerance);
    sum += kl * p.scale;
    const double gz = none ? 0 : at<S>(b.grad_z, i), gk = at<S>(b.grad_kl, reduced ? 0 : i) * b.scale;
    const double moved = none ? 0 : at<S>(p.z, i) - mean;  // of the z that was stored
    EXPECT_CLOSE(i, at<S>(b.grad_mean, i), gz + gk * mean, tolerance);
    EXPECT_CLOSE(i, at<S>(b.grad_logvar, i), (gz * moved + gk * (sigma * sigma - 1)) / 2, tolerance);
    if (b.grad_eps) EXPECT_CLOSE(i, at<S>(b.grad_eps, i), gz * sigma, tolerance);
  }
  if (reduced) EXPECT_CLOSE(n, total, sum, kSumTolerance<S>);
}

template <class S>
void check_all(DType dtype) {
  for (int64_t n : {int64_t{1}, int64_t{7}, int64_t{33}, kSlice - 1, kSlice, 2 * kSlice + 9}) {
    for (Noise source : {Noise::drawn, Noise::given, Noise::none}) {
      for (bool reduced : {false, true}) check<S>(n, source, reduced, dtype);
    }
  }
  check<S>(2100, Noise::drawn, false, dtype, 1);
}

#if SDGAN_CUDA_ON_HOST
// z of N(0, 1) is the noise itself. Sizes that end inside a Philox block, a pack, a chunk and a slice.
template <class S>
void same_noise_as_the_cpu(DType dtype) {
  for (int64_t n : {1, 2, 3, 4, 5, 6, 7, 9, 12, 15, 2047, 2049, 8191, 8194, 20003}) {
    for (int64_t seed : {int64_t{0}, int64_t{-1}, int64_t{0x0123456789abcdef}}) {
      std::vector<S> zero(n), by_cuda(n), by_cpu(n);
      GaussianParams p;
      p.dtype = dtype;
      p.n = n;
      p.mean = p.logvar = zero.data();
      p.seed = &seed;
      p.z = by_cpu.data();
      SDGAN_ISA::gaussian(p, 0, slices(n));
      p.z = by_cuda.data();
      EXPECT(launch_gaussian(p, nullptr) == 0);
      for (int64_t i = 0; i < n; ++i) {
        const double tolerance = sizeof(S) == 2 ? 8e-3 : sizeof(S) == 8 ? 1e-14 : 1e-6;
        EXPECT_CLOSE(i, at<S>(by_cuda.data(), i), at<S>(by_cpu.data(), i), tolerance);
      }
    }
  }
}
#endif

}  // namespace

void test_gaussian() {
  check_all<float>(DType::f32);
  check_all<double>(DType::f64);
  check_all<bf16>(DType::bf16);
#if SDGAN_CUDA_ON_HOST
  check_all<f16>(DType::f16);
  same_noise_as_the_cpu<float>(DType::f32);
  same_noise_as_the_cpu<double>(DType::f64);
  same_noise_as_the_cpu<bf16>(DType::bf16);
#endif
}

}  // namespace sdgan::SDGAN_ISA
