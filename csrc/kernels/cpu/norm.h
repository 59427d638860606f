// What the kernels of batch norm and group norm share.
#pragma once

#include <type_traits>
#include <utility>

#include "kernels/activation.h"
#include "kernels/cpu/simd.h"

namespace sdgan::SDGAN_ISA {

constexpr int kUnroll = 4;  // independent accumulators hide the latency of an addition

// A lambda that must be inlined, so that the accumulators it captures stay in registers.
#define SDGAN_BODY __attribute__((always_inline))

// Calls body(std::integral_constant<int, j>{}) for j < n.
template <int n, class Body>
SDGAN_INLINE void unrolled(Body body) {
  [&]<int... j>(std::integer_sequence<int, j...>) SDGAN_BODY {
    (body(std::integral_constant<int, j>{}), ...);
  }(std::make_integer_sequence<int, n>{});
}

// Calls body(j, offset, count, keep) for vectors that cover n elements; j is the accumulator to use. The last vector
// reaches back where n is no multiple of the lanes: `keep` are the lanes that no other vector had.
template <class T, class Body>
SDGAN_INLINE void for_contiguous(int64_t n, Body body) {
  constexpr int lanes = kLanes<T>;
  constexpr std::integral_constant<int, 0> first;
  Mask<T> lane;
  for (int i = 0; i < lanes; ++i) lane[i] = i;
  const Mask<T> all = ~Mask<T>{};
  int64_t i = 0;
  for (; i + kUnroll * lanes <= n; i += kUnroll * lanes) {
    unrolled<kUnroll>([&](auto j) SDGAN_BODY { body(j, i + j * lanes, lanes, all); });
  }
  for (; i + lanes <= n; i += lanes) body(first, i, lanes, all);
  if (i == n) return;
  if (n >= lanes) {
    body(first, n - lanes, lanes, lane >= static_cast<int>(lanes - (n - i)));
  } else {
    body(first, 0, static_cast<int>(n), lane < static_cast<int>(n));
  }
}

// dL/dz from dL/dy.
template <class T, class A>
SDGAN_INLINE Vec<T> through_activation(A activation, Vec<T> grad, Vec<T> z, T negative_slope) {
  const Vec<T> saved = derivative_needs_input(activation) ? z : activate<Math>(activation, z, negative_slope);
  return grad * activation_gradient<Math>(activation, saved, negative_slope);
}

// Mean and squares about it of `seen` values, joined with those of `more` values.
SDGAN_INLINE void merge(double& mean, double& squares, double seen, double more_mean, double more_squares,
                        double more) {
  const double delta = more_mean - mean;
  const double weight = more / (seen + more);
  mean += delta * weight;
  squares += more_squares + delta * delta * seen * weight;
}

}  // namespace sdgan::SDGAN_ISA
