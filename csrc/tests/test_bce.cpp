// The bce kernels against the formulas of their header in double: both forms, with and without weights, on memory that
// ends exactly where the data does.
#include "kernels/bce.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/simd.h"
#include "tests/check.h"

namespace sdgan::SDGAN_ISA {

void test_bce();

namespace {

using testing::guarded;

template <class S>
S* values(int64_t n, int salt, double scale, double offset) {
  S* data = static_cast<S*>(guarded(n * sizeof(S)));
  for (int64_t i = 0; i < n; ++i) {
    const double x = offset + scale * std::sin(0.7 * static_cast<double>(i) + salt);
    write<S>(data, i, 1, splat(static_cast<compute_t<S>>(x)));
  }
  return data;
}

template <class S>
double at(const void* data, int64_t i) {
  return load_one(static_cast<const S*>(data) + i);
}

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

template <class S>
void check(bool logits, bool weighted, int64_t n, bool reduced, DType dtype) {
  const double tolerance = dtype == DType::f32 ? 3e-6 : dtype == DType::f64 ? 1e-13 : 1e-2;
  BceInputs inputs;
  inputs.dtype = dtype;
  inputs.logits = logits;
  inputs.n = n;
  inputs.input = logits ? values<S>(n, 0, 6, 0) : values<S>(n, 0, 0.45, 0.5);
  inputs.target = values<S>(n, 1, 0.5, 0.5);
  inputs.weight = weighted ? values<S>(n, 2, 1, 1.5) : nullptr;
  inputs.pos_weight = weighted && logits ? values<S>(n, 3, 1, 1.5) : nullptr;
  inputs.scale = reduced ? 1.0 / static_cast<double>(n) : 1;
  inputs.reduced = reduced;

  std::vector<double> partial(slices(n));
  std::vector<int> outside(slices(n));
  BceParams p{inputs};
  p.loss = reduced ? nullptr : guarded(n * sizeof(S));
  p.partial = reduced ? partial.data() : nullptr;
  p.outside = logits ? nullptr : outside.data();
  for (int64_t s = slices(n); s-- > 0;) SDGAN_ISA::bce(p, s, s + 1);
  for (int found : outside) EXPECT(found == 0);

  BceBackwardParams b{inputs};
  b.grad_loss = values<S>(reduced ? 1 : n, 4, 1, 0);
  b.grad_input = guarded(n * sizeof(S));
  b.grad_target = guarded(n * sizeof(S));
  SDGAN_ISA::bce_backward(b, 0, slices(n));

  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Want w = want(logits, at<S>(p.input, i), at<S>(p.target, i), p.pos_weight ? at<S>(p.pos_weight, i) : 1);
    const double weight = p.weight ? at<S>(p.weight, i) : 1;
    const double upstream = at<S>(b.grad_loss, reduced ? 0 : i) * weight * p.scale;
    if (!reduced) EXPECT_CLOSE(i, at<S>(p.loss, i), weight * w.value, tolerance);
    sum += weight * w.value * p.scale;
    EXPECT_CLOSE(i, at<S>(b.grad_input, i), upstream * w.by_input, tolerance);
    EXPECT_CLOSE(i, at<S>(b.grad_target, i), upstream * w.by_target, tolerance);
  }
  double total = 0;
  for (double part : partial) total += part;
  if (reduced) EXPECT_CLOSE(n, total, sum, dtype == DType::f64 ? 1e-13 : 3e-6);
}

template <class S>
void check_all(DType dtype) {
  for (bool logits : {false, true}) {
    for (int64_t n : {int64_t{1}, int64_t{7}, int64_t{33}, kSlice, 2 * kSlice + 9}) {
      for (bool weighted : {false, true}) {
        for (bool reduced : {false, true}) check<S>(logits, weighted, n, reduced, dtype);
      }
    }
  }
}

void probabilities_outside_the_unit_interval() {
  for (float bad : {-1e-6f, 1.000001f, NAN}) {
    for (bool in_target : {false, true}) {
      float input[37] = {}, target[37] = {};
      (in_target ? target : input)[35] = bad;
      int outside = 0;
      double partial = 0;
      BceParams p;
      p.input = input;
      p.target = target;
      p.n = 37;
      p.logits = false;
      p.partial = &partial;
      p.outside = &outside;
      SDGAN_ISA::bce(p, 0, 1);
      EXPECT(outside == (in_target ? 2 : 1));
    }
  }
}

}  // namespace

void test_bce() {
  check_all<float>(DType::f32);
  check_all<double>(DType::f64);
  check_all<bf16>(DType::bf16);
  probabilities_outside_the_unit_interval();
}

}  // namespace sdgan::SDGAN_ISA
