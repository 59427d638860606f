// The bce kernels against the formulas of their header in double: both forms, with and without weights, on memory that
// ends exactly where the data does.
#include "kernels/bce.h"

#include <cmath>
#include <vector>

#include "tests/check.h"
#include "tests/values.h"
#if SDGAN_CUDA_ON_HOST
#include "kernels/cuda/reduce.cuh"
#include "tests/cuda_on_host/cuda_host.h"
#endif

namespace sdgan::SDGAN_ISA {

void test_bce();

namespace {

using testing::guarded;

struct Want {
  double value, by_input, by_target;
};

Want want(bool logits, double x, double t, double pos) {
  const double positive = logits ? -std::log1p(std::exp(-x)) : std::log(x);  // log-probability of 1 and of 0
  const double negative = logits ? -std::log1p(std::exp(x)) : std::log1p(-x);
  const double s = 1 / (1 + std::exp(-x));
  return {-(pos * t * positive + (1 - t) * negative),
          logits ? (1 - t) * s - pos * t * (1 - s) : (x - t) / (x * (1 - x)), negative - pos * positive};
}

#if SDGAN_CUDA_ON_HOST
template <class S>
constexpr double kSumTolerance = sizeof(S) == 2   ? 1e-2
                                 : sizeof(S) == 8 ? 1e-13
                                                  : 3e-6;  // the sum is stored as S

template <class S>
double run(BceParams& p) {
  return launched_twice<S>(p, p.reduced, launch_bce);
}

void run(const BceBackwardParams& p) { EXPECT(launch_bce_backward(p, nullptr) == 0); }
#else
template <class S>
constexpr double kSumTolerance = sizeof(S) == 8 ? 1e-13 : 3e-6;

template <class S>
double run(BceParams& p) {
  std::vector<double> partial(slices(p.n));
  std::vector<int> outside(slices(p.n));
  p.partial = p.reduced ? partial.data() : nullptr;
  p.outside = p.logits ? nullptr : outside.data();
  for (int64_t s = slices(p.n); s-- > 0;) SDGAN_ISA::bce(p, s, s + 1);
  for (int found : outside) EXPECT(found == 0);
  double sum = 0;
  for (double part : partial) sum += part;
  return sum;
}

void run(const BceBackwardParams& p) { SDGAN_ISA::bce_backward(p, 0, slices(p.n)); }
#endif

// `shift`: tensors that start at that element of an aligned buffer.
template <class S>
void check(bool logits, bool weighted, int64_t n, bool reduced, DType dtype, int shift = 0) {
  const double tolerance = dtype == DType::f32 ? 3e-6 : dtype == DType::f64 ? 1e-13 : 1e-2;
  BceInputs inputs;
  inputs.dtype = dtype;
  inputs.logits = logits;
  inputs.n = n;
  inputs.input = (logits ? waves<S>(n + shift, 0, 6) : waves<S>(n + shift, 0, 0.45, 0.5)) + shift;
  inputs.target = waves<S>(n, 1, 0.5, 0.5);
  inputs.weight = weighted ? waves<S>(n, 2, 1, 1.5) : nullptr;
  inputs.pos_weight = weighted && logits ? waves<S>(n, 3, 1, 1.5) : nullptr;
  inputs.scale = reduced ? 1.0 / static_cast<double>(n) : 1;
  inputs.reduced = reduced;

  BceParams p{inputs};
  p.loss = reduced ? nullptr : guarded(n * sizeof(S));
#if !SDGAN_CUDA_ON_HOST
  if (reduced) {
    p.grad_input = guarded(n * sizeof(S));
    p.grad_target = guarded(n * sizeof(S));
  }
#endif
  const double total = run<S>(p);

  BceBackwardParams b{inputs};
  b.grad_loss = waves<S>(reduced ? 1 : n, 4, 1);
  b.grad_input = guarded(n * sizeof(S));
  b.grad_target = guarded(n * sizeof(S));
  run(b);

  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Want w = want(logits, at<S>(p.input, i), at<S>(p.target, i), p.pos_weight ? at<S>(p.pos_weight, i) : 1);
    const double weight = p.weight ? at<S>(p.weight, i) : 1;
    const double upstream = at<S>(b.grad_loss, reduced ? 0 : i) * weight * p.scale;
    if (!reduced) EXPECT_CLOSE(i, at<S>(p.loss, i), weight * w.value, tolerance);
    sum += weight * w.value * p.scale;
    EXPECT_CLOSE(i, at<S>(b.grad_input, i), upstream * w.by_input, tolerance);
    EXPECT_CLOSE(i, at<S>(b.grad_target, i), upstream * w.by_target, tolerance);
    if (p.grad_input != nullptr) {  // beside the loss
      EXPECT_CLOSE(i, at<S>(p.grad_input, i) / p.scale, weight * w.by_input, tolerance);
      EXPECT_CLOSE(i, at<S>(p.grad_target, i) / p.scale, weight * w.by_target, tolerance);
    }
  }
  if (reduced) EXPECT_CLOSE(n, total, sum, kSumTolerance<S>);
}

template <class S>
void check_all(DType dtype) {
  for (bool logits : {false, true}) {
    for (int64_t n : {int64_t{1}, int64_t{7}, int64_t{33}, kSlice, 2 * kSlice + 9}) {
      for (bool weighted : {false, true}) {
        for (bool reduced : {false, true}) check<S>(logits, weighted, n, reduced, dtype);
      }
    }
    check<S>(logits, false, 2100, false, dtype, 1);
  }
}

void probabilities_outside_the_unit_interval() {
  for (float bad : {-1e-6f, 1.000001f, NAN}) {
    for (bool in_target : {false, true}) {
      float input[37] = {}, target[37] = {};
      (in_target ? target : input)[35] = bad;
      BceParams p;
      p.input = input;
      p.target = target;
      p.n = 37;
      p.logits = false;
#if SDGAN_CUDA_ON_HOST
      float loss[37], grad_input[37], grad_target[37], grad_loss = 1;
      p.loss = loss;
      p.reduced = false;
      EXPECT(launch_bce(p, nullptr) == 0);
      BceBackwardParams b{static_cast<const BceInputs&>(p)};
      b.reduced = true;
      b.grad_loss = &grad_loss;
      b.grad_input = grad_input;
      b.grad_target = grad_target;
      run(b);
      for (int i = 0; i < 37; ++i) {
        for (float x : {loss[i], grad_input[i], grad_target[i]}) EXPECT(std::isnan(x) == (i == 35));
      }
#else
      int outside = 0;
      double partial = 0;
      p.partial = &partial;
      p.outside = &outside;
      SDGAN_ISA::bce(p, 0, 1);
      EXPECT(outside == (in_target ? 2 : 1));
#endif
    }
  }
}

#if SDGAN_CUDA_ON_HOST
void softplus_keeps_its_relative_accuracy() {
  for (double x = -80; x < 20; x += 1.0 / 64) {
    const cuda::Term<float> got = cuda::softplus(static_cast<float>(x));
    EXPECT_ULPS(x, got.value, std::log1p(std::exp(x)), 8);
    EXPECT_ULPS(x, got.gradient, 1 / (1 + std::exp(-x)), 8);
  }
  EXPECT(cuda::softplus(INFINITY).value == INFINITY && cuda::softplus(INFINITY).gradient == 1);
  EXPECT(cuda::softplus(-INFINITY).value == 0 && cuda::softplus(-INFINITY).gradient == 0);
  EXPECT(std::isnan(cuda::softplus(NAN).value) && std::isnan(cuda::softplus(NAN).gradient));
}

void launches() {
  EXPECT(cuda::reduction_blocks(cuda::chunks(4096)) == 1);  // one launch
  EXPECT(cuda::reduction_blocks(2 * cuda::chunks(4096)) == 1);
  EXPECT(cuda::reduction_blocks(cuda::chunks(100'000)) == 49);
  EXPECT(cuda::reduction_blocks(cuda::chunks(int64_t{1} << 40)) == kCudaPartials);
}
#endif

}  // namespace

void test_bce() {
  check_all<float>(DType::f32);
  check_all<double>(DType::f64);
  check_all<bf16>(DType::bf16);
#if SDGAN_CUDA_ON_HOST
  check_all<f16>(DType::f16);
  softplus_keeps_its_relative_accuracy();
  launches();
#endif
  probabilities_outside_the_unit_interval();
}

}  // namespace sdgan::SDGAN_ISA
