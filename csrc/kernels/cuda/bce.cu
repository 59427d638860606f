// One pass each way. Bytes per element and element size: forward 2 (input, target) and the weights, backward one more
// for each gradient. Up to 4 chunks of 2048 elements are one launch, more are two (reduce.cuh); backward is one.
//
// An H200 reads 4 million float32 logits and targets in 8 us at 4.3 TB/s; the 45 instructions an element take 6 us of
// its 132 multiprocessors, so float32 is bound by memory and bfloat16 by them. Probabilities need two logarithms.
#include "kernels/bce.h"

#include "kernels/cuda/reduce.cuh"

namespace sdgan {
namespace cuda {
namespace {

template <class T>
struct BceTerm {
  T value;
  T by_input;
  T by_target;
};

template <class T>
SDGAN_DEVICE BceTerm<T> logit_term(T x, T t, T pos) {
  const Term<T> s = softplus(x);
  const T extra = pos - T(1), q = T(1) + extra * t;
  return {q * s.value - pos * t * x, q * s.gradient - pos * t, extra * s.value - pos * x};
}

template <class T>
SDGAN_DEVICE T at_least(T x, T lowest) {
  return x < lowest ? lowest : x;
}

template <class T>
SDGAN_DEVICE BceTerm<T> probability_term(T x, T t) {
  if (!(x >= 0 && x <= 1 && t >= 0 && t <= 1)) {
    const T nan = static_cast<T>(bits_to_float(0x7fc00000u));
    return {nan, nan, nan};
  }
  const T rest = T(1) - x;
  const T lost = (T(1) - rest) - x;  // by rounding
  const T a = at_least(Math::log(x), T(-100));
  const T b = at_least(Math::log(rest) + (rest > 0 ? lost / rest : T(0)), T(-100));
  return {(t - T(1)) * b - t * a, (x - t) / at_least(rest * x, T(1e-12)), b - a};
}

template <class S>
struct Inputs {
  Raw<S> input, target, weight, pos_weight, grad_loss;
};

template <class S>
SDGAN_DEVICE Inputs<S> read_inputs(const BceInputs& p, const void* grad_loss, int64_t i, int count) {
  return {read_raw<S>(p.input, i, count), read_raw<S>(p.target, i, count), read_raw<S>(p.weight, i, count),
          read_raw<S>(p.pos_weight, i, count), read_raw<S>(grad_loss, i, count)};
}

// Calls body(j, term) for the lanes of a pack. The form is chosen once for all, so that they overlap.
template <class S, class Body>
SDGAN_DEVICE void for_terms(const BceInputs& p, const Inputs<S>& in, Body body) {
  using T = compute_t<S>;
  const Pack<S> x = widen<S>(in.input), t = widen<S>(in.target);
  if (p.logits) {
    const Pack<S> pos = p.pos_weight ? widen<S>(in.pos_weight) : splat<S>(T(1));
    PRAGMA_UNROLL
    for (int j = 0; j < kPack<S>; ++j) body(j, logit_term(x[j], t[j], pos[j]));
  } else {
    PRAGMA_UNROLL
    for (int j = 0; j < kPack<S>; ++j) body(j, probability_term(x[j], t[j]));
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, kResident<S>) bce_kernel(BceParams p) {
  using T = compute_t<S>;
  double sum = 0;
  for (int64_t c = blockIdx.x; c < chunks(p.n); c += gridDim.x) {
    T chunk_sum = 0;
    for_chunk<S>(
        c, p.n, [&](int64_t i, int count) { return read_inputs<S>(p, nullptr, i, count); },
        [&](int64_t i, int count, const Inputs<S>& in) {
          const Pack<S> weight = p.weight ? widen<S>(in.weight) : splat<S>(T(1));
          Pack<S> value;
          for_terms<S>(p, in, [&](int j, const BceTerm<T>& term) {
            value[j] = weight[j] * term.value;
            if (j < count) chunk_sum += value[j];
          });
          write<S>(p.loss, i, count, value);
        });
    sum += chunk_sum;
  }
  finish_block<S>(sum * p.scale, p.partial, p.total);
}

template <class S>
__global__ void __launch_bounds__(kThreads, kResident<S>) bce_backward_kernel(BceBackwardParams p) {
  using T = compute_t<S>;
  const T one = p.reduced ? load_one<S>(p.grad_loss, 0) * static_cast<T>(p.scale) : T(0);
  const void* grad_loss = p.reduced ? nullptr : p.grad_loss;
  for (int64_t c = blockIdx.x; c < chunks(p.n); c += gridDim.x) {
    for_chunk<S>(
        c, p.n, [&](int64_t i, int count) { return read_inputs<S>(p, grad_loss, i, count); },
        [&](int64_t i, int count, const Inputs<S>& in) {
          const Pack<S> weight = p.weight ? widen<S>(in.weight) : splat<S>(T(1));
          Pack<S> upstream = p.reduced ? splat<S>(one) : widen<S>(in.grad_loss);
          Pack<S> by_input, by_target;
          for_terms<S>(p, in, [&](int j, const BceTerm<T>& term) {
            upstream[j] *= weight[j];
            by_input[j] = upstream[j] * term.by_input;
            by_target[j] = upstream[j] * term.by_target;
          });
          write<S>(p.grad_input, i, count, by_input);
          write<S>(p.grad_target, i, count, by_target);
        });
  }
}

}  // namespace
}  // namespace cuda

CudaError launch_bce(const BceParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return cuda::launch_reduction<S>(cuda::bce_kernel<S>, p, cuda::chunks(p.n), stream);
  });
}

CudaError launch_bce_backward(const BceBackwardParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return cuda::launch(cuda::bce_backward_kernel<S>, cuda::grid_of(cuda::chunks(p.n)), cuda::kThreads, 0, stream, p);
  });
}

}  // namespace sdgan
