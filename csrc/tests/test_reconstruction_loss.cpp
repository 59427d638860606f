// The reconstruction_loss kernels against the formulas of their header in double, on memory that ends exactly where the
// data does.
#include "kernels/reconstruction_loss.h"

#include <cmath>
#include <vector>

#include "tests/check.h"
#include "tests/values.h"

namespace sdgan::SDGAN_ISA {

void test_reconstruction_loss();

namespace {

using testing::guarded;

struct Want {
  double value, by_y, by_x;
};

Want want(Reconstruction kind, double y, double x) {
  const double d = y - x, sign = (d > 0) - (d < 0);
  switch (kind) {
    case Reconstruction::mse:
      return {d * d, 2 * d, -2 * d};
    case Reconstruction::l1:
      return {std::fabs(d), sign, -sign};
    case Reconstruction::bce:
      return {std::log1p(std::exp(y)) - x * y, 1 / (1 + std::exp(-y)) - x, -y};
    default:
      return {(d * d + std::log(2 * std::acos(-1.0))) / 2, d, -d};
  }
}

#if SDGAN_CUDA_ON_HOST
template <class S>
constexpr double kSumTolerance = sizeof(S) == 2   ? 1e-2
                                 : sizeof(S) == 8 ? 1e-13
                                                  : 3e-6;  // the sum is stored as S

template <class S>
double run(ReconstructionLossParams& p) {
  return launched_twice<S>(p, p.loss == nullptr, launch_reconstruction_loss);
}

void run(const ReconstructionLossBackwardParams& p) { EXPECT(launch_reconstruction_loss_backward(p, nullptr) == 0); }
#else
template <class S>
constexpr double kSumTolerance = sizeof(S) == 8 ? 1e-13 : 3e-6;

template <class S>
double run(ReconstructionLossParams& p) {
  std::vector<double> partial(slices(p.n));
  p.partial = p.loss ? nullptr : partial.data();
  for (int64_t s = slices(p.n); s-- > 0;) SDGAN_ISA::reconstruction_loss(p, s, s + 1);
  double sum = 0;
  for (double part : partial) sum += part;
  return sum;
}

void run(const ReconstructionLossBackwardParams& p) { SDGAN_ISA::reconstruction_loss_backward(p, 0, slices(p.n)); }
#endif

// `shift`: tensors that start at that element of an aligned buffer.
template <class S>
void check(Reconstruction kind, int64_t n, bool reduced, DType dtype, int shift = 0) {
  const double tolerance = dtype == DType::f32 ? 2e-6 : dtype == DType::f64 ? 1e-13 : 1e-2;
  ReconstructionLossParams p;
  p.dtype = dtype;
  p.kind = kind;
  p.n = n;
  p.x_hat = waves<S>(n + shift, 0, 4) + shift;
  p.x = waves<S>(n, 1, 0.5, 0.5);
  p.loss = reduced ? nullptr : guarded(n * sizeof(S));
  p.scale = 1.0 / static_cast<double>(n);
#if !SDGAN_CUDA_ON_HOST
  if (reduced) {
    p.grad_x_hat = guarded(n * sizeof(S));
    p.grad_x = guarded(n * sizeof(S));
  }
#endif
  const double total = run<S>(p);

  ReconstructionLossBackwardParams b;
  b.dtype = dtype;
  b.kind = kind;
  b.n = n;
  b.grad_loss = waves<S>(reduced ? 1 : n, 2, 1);
  b.x_hat = p.x_hat;
  b.x = p.x;
  b.grad_x_hat = guarded(n * sizeof(S));
  b.grad_x = guarded(n * sizeof(S));
  b.scale = reduced ? p.scale : 1;
  b.reduced = reduced;
  run(b);

  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Want w = want(kind, at<S>(p.x_hat, i), at<S>(p.x, i));
    const double upstream = at<S>(b.grad_loss, reduced ? 0 : i) * b.scale;
    if (!reduced) EXPECT_CLOSE(i, at<S>(p.loss, i), w.value, tolerance);
    sum += w.value * p.scale;
    EXPECT_CLOSE(i, at<S>(b.grad_x_hat, i), upstream * w.by_y, tolerance);
    EXPECT_CLOSE(i, at<S>(b.grad_x, i), upstream * w.by_x, tolerance);
    if (p.grad_x != nullptr) {  // beside the loss
      EXPECT_CLOSE(i, at<S>(p.grad_x_hat, i) / p.scale, w.by_y, tolerance);
      EXPECT_CLOSE(i, at<S>(p.grad_x, i) / p.scale, w.by_x, tolerance);
    }
  }
  if (reduced) EXPECT_CLOSE(n, total, sum, kSumTolerance<S>);
}

template <class S>
void check_all(DType dtype) {
  for (Reconstruction kind : {Reconstruction::mse, Reconstruction::l1, Reconstruction::bce, Reconstruction::gaussian}) {
    for (int64_t n : {int64_t{1}, int64_t{7}, int64_t{33}, kSlice, 2 * kSlice + 9}) {
      for (bool reduced : {false, true}) check<S>(kind, n, reduced, dtype);
    }
    check<S>(kind, 2100, false, dtype, 1);
  }
}

}  // namespace

void test_reconstruction_loss() {
  check_all<float>(DType::f32);
  check_all<double>(DType::f64);
  check_all<bf16>(DType::bf16);
#if SDGAN_CUDA_ON_HOST
  check_all<f16>(DType::f16);
#endif
#if SDGAN_CUDA_ON_HOST && !defined(__SANITIZE_ADDRESS__)
  check<float>(Reconstruction::mse, kCudaPartials * 2048 + 5, true, DType::f32);  // blocks that do more than one chunk
#endif
}

}  // namespace sdgan::SDGAN_ISA
