// The adversarial_loss kernels against the formulas of their header in double: every objective, role and dtype, slices
// and tails, on memory that ends exactly where the data does.
#include "kernels/adversarial_loss.h"

#include <cmath>

#include "tests/check.h"
#include "tests/values.h"

namespace sdgan::SDGAN_ISA {

void test_adversarial_loss();

namespace {

using testing::guarded;

double sp(double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x))); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct Want {
  double value, gradient_real, gradient_fake;
};

// One pair (r, f); with r = NaN its half is left out.
Want want(const AdversarialLossParams& p, double r, double f) {
  const bool d = p.role == Role::discriminator;
  const double t = p.real_target;
  Want real{0, 0, 0}, fake{0, 0, 0};
  switch (p.objective) {
    case Objective::hinge:
      real = {std::fmax(0, 1 - r), r < 1 ? -1.0 : 0.0, 0};
      fake = d ? Want{std::fmax(0, 1 + f), 0, f > -1 ? 1.0 : 0.0} : Want{-f, 0, -1};
      break;
    case Objective::least_squares:
      real = {(r - t) * (r - t) / 2, r - t, 0};
      fake = d ? Want{f * f / 2, 0, f} : Want{(f - 1) * (f - 1) / 2, 0, f - 1};
      break;
    case Objective::wasserstein:
      real = {-r, -1, 0};
      fake = d ? Want{f, 0, 1} : Want{-f, 0, -1};
      break;
    case Objective::relativistic:
      return d ? Want{sp(f - r), -sigmoid(f - r), sigmoid(f - r)} : Want{sp(r - f), sigmoid(r - f), -sigmoid(r - f)};
    default:
      real = {t * sp(-r) + (1 - t) * sp(r), sigmoid(r) - t, 0};
      if (d) {
        fake = {sp(f), 0, sigmoid(f)};
      } else if (p.objective == Objective::minimax) {
        fake = {-sp(f), 0, -sigmoid(f)};
      } else {
        fake = {sp(-f), 0, -sigmoid(-f)};
      }
  }
  if (!d) real = {0, 0, 0};
  return {real.value + fake.value, real.gradient_real, fake.gradient_fake};
}

template <class S>
S* logits(int64_t n, int salt) {
  return waves<S>(n, salt, 6);
}

#if SDGAN_CUDA_ON_HOST
template <class S>
constexpr double kSumTolerance = sizeof(S) == 2 ? 1e-2 : 3e-6;  // the sum is stored as S

int64_t partials(int64_t) { return kCudaPartials; }
constexpr int64_t kSizes[] = {1, 7, 33, 2047, 2048, 8201};

template <class S>
double run(AdversarialLossParams& p) {
  return launched_twice<S>(p, p.partial != nullptr, launch_adversarial_loss);
}

void run(const AdversarialLossBackwardParams& p) { EXPECT(launch_adversarial_loss_backward(p, nullptr) == 0); }
#else
template <class S>
constexpr double kSumTolerance = 3e-6;

int64_t partials(int64_t slices) { return slices; }
constexpr int64_t kSizes[] = {1, 7, 16, 33, kSlice - 1, kSlice, 2 * kSlice + 9};

// The loss, where it is reduced. All slices in one call, then one by one from the last: the result must not depend on
// it.
template <class S>
double run(AdversarialLossParams& p) {
  const int64_t count = p.slice_count();
  SDGAN_ISA::adversarial_loss(p, 0, count);
  double sum = 0;
  for (int64_t s = count; p.partial && s-- > 0;) {
    const double before = p.partial[s];
    SDGAN_ISA::adversarial_loss(p, s, s + 1);
    EXPECT(p.partial[s] == before);
    sum += before;
  }
  return sum;
}

void run(const AdversarialLossBackwardParams& p) { SDGAN_ISA::adversarial_loss_backward(p, 0, slices(p.n)); }
#endif

// `reduced`: a mean.
template <class S>
void check(Objective objective, Role role, bool reduced, int64_t n_real, int64_t n_fake, double target, DType dtype) {
  const double tolerance = dtype == DType::f32 ? 3e-6 : dtype == DType::f64 ? 1e-13 : 1e-2;
  const bool d = role == Role::discriminator;
  const bool has_real = d || objective == Objective::relativistic;
  AdversarialLossParams p;
  p.objective = objective;
  p.role = role;
  p.dtype = dtype;
  p.real_target = target;
  p.n_real = has_real ? n_real : 0;
  p.n_fake = n_fake;
  p.scale_real = reduced ? 1.0 / static_cast<double>(n_real) : 1;
  p.scale_fake = reduced ? 1.0 / static_cast<double>(n_fake) : 1;
  p.real = has_real ? logits<S>(n_real, 0) : nullptr;
  p.fake = logits<S>(n_fake, 1);
  p.grad_real = has_real ? guarded(n_real * sizeof(S)) : nullptr;
  p.grad_fake = guarded(n_fake * sizeof(S));
  p.loss = reduced ? nullptr : guarded(n_fake * sizeof(S));
  p.partial = reduced ? static_cast<double*>(guarded(partials(p.slice_count()) * sizeof(double))) : nullptr;
  const double got = run<S>(p);

  double total = 0, magnitude = 0;
  const int64_t most = n_real > n_fake ? n_real : n_fake;
  for (int64_t i = 0; i < most; ++i) {
    const double r = has_real && i < n_real ? at<S>(p.real, i) : 0;
    const double f = i < n_fake ? at<S>(p.fake, i) : 0;
    const Want w = want(p, r, f);
    if (has_real && i < n_real) {
      EXPECT_CLOSE(r, at<S>(p.grad_real, i) / p.scale_real, w.gradient_real, tolerance);
    }
    if (i < n_fake) EXPECT_CLOSE(f, at<S>(p.grad_fake, i) / p.scale_fake, w.gradient_fake, tolerance);
    if (!reduced) EXPECT_CLOSE(f, at<S>(p.loss, i), w.value, tolerance);
    if (n_real == n_fake) total += w.value * p.scale_fake;
    magnitude += std::fabs(w.value) * p.scale_fake;
  }
  p.grad_real = p.grad_fake = nullptr;  // not wanted: the loss is the same to the bit
  EXPECT(run<S>(p) == got);
  if (reduced && n_real == n_fake) EXPECT_CLOSE(0, got, total, kSumTolerance<S> * std::fmax(1, magnitude));
}

template <class S>
void check_backward(DType dtype) {
  for (int64_t n : {int64_t{1}, int64_t{17}, kSlice + 3}) {
    for (bool reduced : {true, false}) {
      AdversarialLossBackwardParams p;
      p.n = n;
      p.reduced = reduced;
      p.dtype = dtype;
      p.grad = logits<S>(n, 2);
      p.grad_loss = logits<S>(reduced ? 1 : n, 3);
      p.out = guarded(n * sizeof(S));
      run(p);
      for (int64_t i = 0; i < n; ++i) {
        const double product = at<S>(p.grad, i) * at<S>(p.grad_loss, reduced ? 0 : i);
        EXPECT_CLOSE(product, at<S>(p.out, i), product, sizeof(S) == 2 ? 1e-2 : 1e-6);
      }
    }
  }
}

template <class S>
void check_all(DType dtype) {
  for (Objective objective : {Objective::non_saturating, Objective::minimax, Objective::hinge, Objective::least_squares,
                              Objective::wasserstein, Objective::relativistic}) {
    for (Role role : {Role::discriminator, Role::generator}) {
      for (int64_t n : kSizes) {
        check<S>(objective, role, true, n, n, 1, dtype);
        check<S>(objective, role, false, n, n, 1, dtype);
      }
      if (objective != Objective::relativistic) check<S>(objective, role, true, 5, kSlice + 2, 1, dtype);
    }
  }
  check<S>(Objective::non_saturating, Role::discriminator, true, 40, 40, 0.9, dtype);
  check<S>(Objective::least_squares, Role::discriminator, false, 40, 40, 0.9, dtype);
  check_backward<S>(dtype);
}

}  // namespace

void test_adversarial_loss() {
  check_all<float>(DType::f32);
  check_all<double>(DType::f64);
  check_all<bf16>(DType::bf16);
#if SDGAN_CUDA_ON_HOST
  check_all<f16>(DType::f16);
#endif
}

}  // namespace sdgan::SDGAN_ISA
