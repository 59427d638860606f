// activation.h on vectors: values against <cmath>, gradients against the exact derivative and a finite difference.
#include "kernels/activation.h"

#include <cmath>

#include "kernels/cpu/simd.h"
#include "tests/check.h"

namespace sdgan::SDGAN_ISA {

void test_activation();

namespace {

constexpr double kNegativeSlope = 0.25;  // exact in float
constexpr Activation kAll[] = {Activation::none,    Activation::relu, Activation::leaky_relu, Activation::tanh,
                               Activation::sigmoid, Activation::silu, Activation::elu};

double value(Activation a, double x) {
  switch (a) {
    case Activation::relu:
      return std::isnan(x) ? x : std::fmax(x, 0);
    case Activation::leaky_relu:
      return x < 0 ? kNegativeSlope * x : x;
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

double derivative_at_zero(Activation a) {  // torch's choice where there is a kink
  switch (a) {
    case Activation::relu:
      return 0;
    case Activation::leaky_relu:
      return kNegativeSlope;
    case Activation::sigmoid:
      return 0.25;
    case Activation::silu:
      return 0.5;
    default:
      return 1;
  }
}

template <class T>
T apply(Activation a, double x) {
  return activate<Math>(a, splat(static_cast<T>(x)), static_cast<T>(kNegativeSlope))[0];
}

template <class T>
T gradient(Activation a, double x) {
  const T saved = derivative_needs_input(a) ? static_cast<T>(x) : apply<T>(a, x);
  return activation_gradient<Math>(a, splat(saved), static_cast<T>(kNegativeSlope))[0];
}

template <class T>
void check(Activation a) {
  const double relative = sizeof(T) == 4 ? 1e-6 : 1e-14;
  for (double magnitude = 1e-12; magnitude < 200; magnitude *= 1.07) {
    for (double exact : {magnitude, -magnitude}) {
      const double x = static_cast<T>(exact);
      const double want = value(a, x);
      if (std::fabs(want) > 1e-36) EXPECT_CLOSE(x, apply<T>(a, x) / want, 1, relative);  // relative, however small
      if (magnitude < 1e-3 || magnitude > 20) continue;
      const double h = 1e-5 * magnitude;
      const double difference = (value(a, x + h) - value(a, x - h)) / (2 * h);
      EXPECT_CLOSE(x, gradient<T>(a, x), difference, sizeof(T) == 4 ? 1e-6 : 1e-8);
    }
  }
  EXPECT(apply<T>(a, 0) == value(a, 0));
  EXPECT_CLOSE(0, gradient<T>(a, 0), derivative_at_zero(a), 0);
  EXPECT(std::isnan(apply<T>(a, NAN)));
  EXPECT_CLOSE(INFINITY, apply<T>(a, INFINITY), value(a, INFINITY), 0);
  EXPECT_CLOSE(-INFINITY, apply<T>(a, -INFINITY), value(a, -INFINITY), 0);
}

}  // namespace

void test_activation() {
  for (Activation a : kAll) {
    check<float>(a);
    check<double>(a);
  }
}

}  // namespace sdgan::SDGAN_ISA
