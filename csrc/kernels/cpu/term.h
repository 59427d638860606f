// A term of a loss beside its derivative, for the kernels of losses; and softplus, which several of them are made of.
#pragma once

#include "kernels/cpu/simd.h"

namespace sdgan::SDGAN_ISA {

template <class T>
struct Term {
  Vec<T> value;
  Vec<T> gradient;
};

// sp(x) = log(1 + e^x) and its derivative, the sigmoid, share one exponential: e = exp(-|x|),
// sp(x) = max(x, 0) + log1p(e), sigmoid(x) = (x < 0 ? e : 1) / (1 + e).
template <class T>
SDGAN_INLINE Term<T> softplus(Vec<T> x) {
  const Vec<T> e = vexp(-vabs(x));
  return {vmax(x, Vec<T>{}) + vlog1p(e), (x < 0 ? e : splat(T(1))) / (T(1) + e)};
}

}  // namespace sdgan::SDGAN_ISA
