// One pass each way. Bytes per element and element size: forward 2 (input, target) and the weights, and one for each
// gradient that is wanted beside the loss; backward, which computes them from the inputs, as many.
#include "kernels/bce.h"

#include "kernels/cpu/term.h"

namespace sdgan::SDGAN_ISA {
namespace {

template <class T>
struct BceTerm {
  Vec<T> value;
  Vec<T> by_input;
  Vec<T> by_target;
};

template <class T>
SDGAN_INLINE BceTerm<T> logit_term(Vec<T> x, Vec<T> t, Vec<T> pos) {
  const Term<T> s = softplus<T>(x);
  const Vec<T> extra = pos - T(1);
  const Vec<T> q = T(1) + extra * t;
  return {q * s.value - pos * t * x, q * s.gradient - pos * t, extra * s.value - pos * x};
}

template <class T>
SDGAN_INLINE BceTerm<T> probability_term(Vec<T> x, Vec<T> t) {
  const Vec<T> rest = T(1) - x;
  const Vec<T> lost = (T(1) - rest) - x;  // by rounding
  const Vec<T> log_rest = vlog(rest) + (rest > 0 ? lost / rest : Vec<T>{});
  const Vec<T> lowest = splat(T(-100));
  const Vec<T> a = vmax(vlog(x), lowest), b = vmax(log_rest, lowest);
  return {(t - T(1)) * b - t * a, (x - t) / vmax(rest * x, splat(T(1e-12))), b - a};
}

template <class S, bool logits>
SDGAN_INLINE BceTerm<compute_t<S>> term(const BceInputs& p, int64_t i, int count) {
  using T = compute_t<S>;
  const Vec<T> x = read_stream<S>(p.input, i, count), t = read_stream<S>(p.target, i, count);
  if constexpr (logits) {
    return logit_term<T>(x, t, p.pos_weight ? read_stream<S>(p.pos_weight, i, count) : splat(T(1)));
  } else {
    return probability_term<T>(x, t);
  }
}

template <class V>
SDGAN_INLINE auto in_unit_interval(V v) {  // NaN is not
  return (v >= 0) & (v <= 1);
}

template <class M>
SDGAN_INLINE bool all_lanes(M mask) {
  bool all = true;
  for (unsigned i = 0; i < sizeof(M) / sizeof(mask[0]); ++i) all &= mask[i] != 0;
  return all;
}

template <class S, bool logits>
void run(const BceParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(p.scale);
  for (int64_t s = begin; s < end; ++s) {
    Vec<T> sum{};
    Mask<T> input_inside = Mask<T>{} == 0, target_inside = input_inside;
    for_vectors<T>(s, p.n, [&](int64_t i, int count) SDGAN_INLINED {
      BceTerm<T> term = SDGAN_ISA::term<S, logits>(p, i, count);
      if (p.weight) {
        const Vec<T> weight = read_stream<S>(p.weight, i, count);
        term = {weight * term.value, weight * term.by_input, weight * term.by_target};
      }
      sum += first_lanes<T>(term.value, count);
      write_stream<S>(p.loss, i, count, term.value);
      write_stream<S>(p.grad_input, i, count, scale * term.by_input);
      write_stream<S>(p.grad_target, i, count, scale * term.by_target);
      if (!logits && p.outside) {
        input_inside &= in_unit_interval(read<S>(p.input, i, count));
        target_inside &= in_unit_interval(read<S>(p.target, i, count));
      }
    });
    if (p.partial) p.partial[s] = sum_lanes(sum) * p.scale;
    if (p.outside) p.outside[s] = (all_lanes(input_inside) ? 0 : 1) + (all_lanes(target_inside) ? 0 : 2);
  }
}

template <class S, bool logits>
void run_backward(const BceBackwardParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(p.scale);
  const Vec<T> one = splat(p.reduced ? load_one(static_cast<const S*>(p.grad_loss)) * scale : T(0));
  for (int64_t s = begin; s < end; ++s) {
    for_vectors<T>(s, p.n, [&](int64_t i, int count) SDGAN_INLINED {
      Vec<T> upstream = p.reduced ? one : read_stream<S>(p.grad_loss, i, count);
      if (p.weight) upstream *= read_stream<S>(p.weight, i, count);
      const BceTerm<T> term = SDGAN_ISA::term<S, logits>(p, i, count);
      write_stream<S>(p.grad_input, i, count, upstream * term.by_input);
      write_stream<S>(p.grad_target, i, count, upstream * term.by_target);
    });
  }
}

}  // namespace

void bce(const BceParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    p.logits ? run<S, true>(p, begin, end) : run<S, false>(p, begin, end);
  });
}

void bce_backward(const BceBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    p.logits ? run_backward<S, true>(p, begin, end) : run_backward<S, false>(p, begin, end);
  });
}

}  // namespace sdgan::SDGAN_ISA
