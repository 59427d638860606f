// The reconstruction_loss kernels against the formulas of their header in double, on memory that ends exactly where the
// data does.
#include "kernels/reconstruction_loss.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/simd.h"
#include "tests/check.h"

namespace sdgan::SDGAN_ISA {

void test_reconstruction_loss();

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

template <class S>
void check(Reconstruction kind, int64_t n, bool reduced, DType dtype) {
  const double tolerance = dtype == DType::f32 ? 2e-6 : dtype == DType::f64 ? 1e-13 : 1e-2;
  std::vector<double> partial(slices(n));
  ReconstructionLossParams p;
  p.dtype = dtype;
  p.kind = kind;
  p.n = n;
  p.x_hat = values<S>(n, 0, 4, 0);
  p.x = values<S>(n, 1, 0.5, 0.5);
  p.loss = reduced ? nullptr : guarded(n * sizeof(S));
  p.partial = reduced ? partial.data() : nullptr;
  p.scale = 1.0 / static_cast<double>(n);
  for (int64_t s = slices(n); s-- > 0;) SDGAN_ISA::reconstruction_loss(p, s, s + 1);

  ReconstructionLossBackwardParams b;
  b.dtype = dtype;
  b.kind = kind;
  b.n = n;
  b.grad_loss = values<S>(reduced ? 1 : n, 2, 1, 0);
  b.x_hat = p.x_hat;
  b.x = p.x;
  b.grad_x_hat = guarded(n * sizeof(S));
  b.grad_x = guarded(n * sizeof(S));
  b.scale = reduced ? p.scale : 1;
  b.reduced = reduced;
  SDGAN_ISA::reconstruction_loss_backward(b, 0, slices(n));

  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Want w = want(kind, at<S>(p.x_hat, i), at<S>(p.x, i));
    const double upstream = at<S>(b.grad_loss, reduced ? 0 : i) * b.scale;
    if (!reduced) EXPECT_CLOSE(i, at<S>(p.loss, i), w.value, tolerance);
    sum += w.value * p.scale;
    EXPECT_CLOSE(i, at<S>(b.grad_x_hat, i), upstream * w.by_y, tolerance);
    EXPECT_CLOSE(i, at<S>(b.grad_x, i), upstream * w.by_x, tolerance);
  }
  double total = 0;
  for (double part : partial) total += part;
  if (reduced) EXPECT_CLOSE(n, total, sum, dtype == DType::f64 ? 1e-13 : 3e-6);
}

template <class S>
void check_all(DType dtype) {
  for (Reconstruction kind :
       {Reconstruction::mse, Reconstruction::l1, Reconstruction::bce, Reconstruction::gaussian}) {
    for (int64_t n : {int64_t{1}, int64_t{7}, int64_t{33}, kSlice, 2 * kSlice + 9}) {
      for (bool reduced : {false, true}) check<S>(kind, n, reduced, dtype);
    }
  }
}

}  // namespace

void test_reconstruction_loss() {
  check_all<float>(DType::f32);
  check_all<double>(DType::f64);
  check_all<bf16>(DType::bf16);
}

}  // namespace sdgan::SDGAN_ISA
