// The activations that convolution and batch norm apply in their epilogue, and their derivatives. One text for CPU and
// CUDA: M is the backend's math (M::expm1, M::select), V a vector or a scalar of it.
#pragma once

#include <type_traits>

#include "kernels/scalar.h"

namespace sdgan {

enum class Activation : int32_t { none, relu, leaky_relu, tanh, sigmoid, silu, elu };

// The derivative is computed from what the forward pass saves: its output, except for silu, which is not monotonic and
// needs its input.
constexpr bool derivative_needs_input(Activation a) { return a == Activation::silu; }

template <class M, class V>
SDGAN_HD V sigmoid(V x) {
  return 1 / (1 + M::exp_beside_one(-x));  // 1 / infinity is 0
}

// y = act(x). NaN stays NaN.
template <class M, class V, class T>
SDGAN_HD V activate(Activation a, V x, T negative_slope) {
  switch (a) {
    case Activation::relu:
      return M::select(x < 0, M::one(x) - 1, x);
    case Activation::leaky_relu:
      return M::select(x < 0, x * negative_slope, x);
    case Activation::tanh: {  // expm1 keeps the relative accuracy near 0; of -2 |x| it never overflows
      const V e = M::expm1(M::select(x < 0, 2 * x, -2 * x));
      const V magnitude = -e / (2 + e);
      return M::select(x < 0, -magnitude, magnitude);
    }
    case Activation::sigmoid:
      return sigmoid<M>(x);
    case Activation::silu:
      return x / (1 + M::exp_beside_one(-x));
    case Activation::elu:
      return M::select(x < 0, M::expm1(x), x);
    default:
      return x;
  }
}

// dy/dx from the saved value: the output y, or for silu the input x. At the kink the derivative is that of torch:
// 0 for relu, negative_slope for leaky_relu, 1 for elu.
template <class M, class V, class T>
SDGAN_HD V activation_gradient(Activation a, V saved, T negative_slope) {
  const V one = M::one(saved);
  switch (a) {
    case Activation::relu:
      return M::select(saved > 0, one, one - one);
    case Activation::leaky_relu:
      return M::select(saved > 0, one, one * negative_slope);
    case Activation::tanh:
      return 1 - saved * saved;
    case Activation::sigmoid:
      return saved * (1 - saved);
    case Activation::silu: {
      const V s = sigmoid<M>(saved);
      return s * (1 + saved * (1 - s));
    }
    case Activation::elu:
      return M::select(saved < 0, saved + 1, one);
    default:
      return one;
  }
}

// Calls body(std::integral_constant<Activation, a>{}): a kernel's loop is compiled once per activation.
template <class Body>
SDGAN_HD void dispatch_activation(Activation a, Body body) {
  switch (a) {
    case Activation::none:
      return body(std::integral_constant<Activation, Activation::none>{});
    case Activation::relu:
      return body(std::integral_constant<Activation, Activation::relu>{});
    case Activation::leaky_relu:
      return body(std::integral_constant<Activation, Activation::leaky_relu>{});
    case Activation::tanh:
      return body(std::integral_constant<Activation, Activation::tanh>{});
    case Activation::sigmoid:
      return body(std::integral_constant<Activation, Activation::sigmoid>{});
    case Activation::silu:
      return body(std::integral_constant<Activation, Activation::silu>{});
    case Activation::elu:
      return body(std::integral_constant<Activation, Activation::elu>{});
  }
}

}  // namespace sdgan
