// One pass each way. Bytes per element and element size: forward 2 (input, target) and the weights, backward one more
// for each gradient.
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
  return {q * s.value - pos * t * x, q * s.slope - pos * t, extra * s.value - pos * x};
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

template <class S>
SDGAN_INLINE BceTerm<compute_t<S>> term(const BceInputs& p, int64_t i, int count) {
  using T = compute_t<S>;
  const Vec<T> one = splat(T(1));
  const Vec<T> x = read<S>(p.input, i, count), t = read<S>(p.target, i, count);
  if (!p.logits) return probability_term<T>(x, t);
  return logit_term<T>(x, t, p.pos_weight ? read<S>(p.pos_weight, i, count) : one);
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

template <class S>
void run(const BceParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  for (int64_t s = begin; s < end; ++s) {
    Vec<T> sum{};
    Mask<T> input_inside = Mask<T>{} == 0, target_inside = input_inside;
    for_vectors<T>(s, p.n, [&](int64_t i, int count) {
      Vec<T> value = term<S>(p, i, count).value;
      if (p.weight) value *= read<S>(p.weight, i, count);
      sum += first_lanes<T>(value, count);
      write<S>(p.loss, i, count, value);
      if (p.outside) {
        input_inside &= in_unit_interval(read<S>(p.input, i, count));
        target_inside &= in_unit_interval(read<S>(p.target, i, count));
      }
    });
    if (p.partial) p.partial[s] = sum_lanes(sum) * p.scale;
    if (p.outside) p.outside[s] = (all_lanes(input_inside) ? 0 : 1) + (all_lanes(target_inside) ? 0 : 2);
  }
}

template <class S>
void run_backward(const BceBackwardParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(p.scale);
  const Vec<T> one = splat(p.reduced ? load_one(static_cast<const S*>(p.grad_loss)) * scale : T(0));
  for (int64_t s = begin; s < end; ++s) {
    for_vectors<T>(s, p.n, [&](int64_t i, int count) {
      Vec<T> upstream = p.reduced ? one : read<S>(p.grad_loss, i, count);
      if (p.weight) upstream *= read<S>(p.weight, i, count);
      const BceTerm<T> term = SDGAN_ISA::term<S>(p, i, count);
      write<S>(p.grad_input, i, count, upstream * term.by_input);
      write<S>(p.grad_target, i, count, upstream * term.by_target);
    });
  }
}

}  // namespace

void bce(const BceParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) { run<decltype(storage)>(p, begin, end); });
}

void bce_backward(const BceBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) { run_backward<decltype(storage)>(p, begin, end); });
}

}  // namespace sdgan::SDGAN_ISA
