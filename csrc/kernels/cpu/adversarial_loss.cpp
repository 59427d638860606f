// One pass: each logit is read once, its term added, its gradient written.
// Bytes: 2 per logit and element size (one read, one write).
#include "kernels/adversarial_loss.h"

#include "kernels/cpu/term.h"

namespace sdgan::SDGAN_ISA {
namespace {

// sp(-x), and its derivative.
template <class T>
SDGAN_INLINE Term<T> softplus_of_minus(Vec<T> x) {
  const Term<T> s = softplus<T>(-x);
  return {s.value, -s.slope};
}

template <class T>
SDGAN_INLINE Term<T> hinge(Vec<T> x) {  // max(0, x)
  return {vmax(x, Vec<T>{}), x > 0 ? splat(T(1)) : Vec<T>{}};
}

template <class T>
SDGAN_INLINE Term<T> real_term(const AdversarialLossParams& p, Vec<T> r) {
  const T t = static_cast<T>(p.real_target);
  switch (p.objective) {
    case Objective::hinge: {
      const Term<T> h = hinge<T>(T(1) - r);
      return {h.value, -h.slope};
    }
    case Objective::least_squares:
      return {T(0.5) * (r - t) * (r - t), r - t};
    case Objective::wasserstein:
      return {-r, splat(T(-1))};
    default: {  // t sp(-r) + (1 - t) sp(r) = sp(r) - t r
      const Term<T> s = t == T(1) ? softplus_of_minus<T>(r) : softplus<T>(r);
      return t == T(1) ? s : Term<T>{s.value - t * r, s.slope - t};
    }
  }
}

template <class T>
SDGAN_INLINE Term<T> fake_term(const AdversarialLossParams& p, Vec<T> f) {
  const bool discriminator = p.role == Role::discriminator;
  switch (p.objective) {
    case Objective::hinge:
      return discriminator ? hinge<T>(T(1) + f) : Term<T>{-f, splat(T(-1))};
    case Objective::least_squares: {
      const Vec<T> d = discriminator ? f : f - T(1);
      return {T(0.5) * d * d, d};
    }
    case Objective::wasserstein:
      return discriminator ? Term<T>{f, splat(T(1))} : Term<T>{-f, splat(T(-1))};
    case Objective::minimax: {
      const Term<T> s = softplus<T>(f);
      return discriminator ? s : Term<T>{-s.value, -s.slope};
    }
    default:
      return discriminator ? softplus<T>(f) : softplus_of_minus<T>(f);
  }
}

template <class S>
void half_slice(const AdversarialLossParams& p, bool real, int64_t s, double* partial) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(real ? p.scale_real : p.scale_fake);
  Vec<T> sum{};
  for_vectors<T>(s, real ? p.n_real : p.n_fake, [&](int64_t i, int count) {
    const Vec<T> x = read<S>(real ? p.real : p.fake, i, count);
    const Term<T> term = real ? real_term<T>(p, x) : fake_term<T>(p, x);
    sum += first_lanes<T>(term.value, count);
    write<S>(real ? p.grad_real : p.grad_fake, i, count, term.slope * scale);
  });
  *partial = sum_lanes(sum) * (real ? p.scale_real : p.scale_fake);
}

template <class S>
void paired_slice(const AdversarialLossParams& p, int64_t s) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(p.scale_fake);
  Vec<T> sum{};
  for_vectors<T>(s, p.n_fake, [&](int64_t i, int count) {
    const Vec<T> f = read<S>(p.fake, i, count);
    const Vec<T> r = p.real ? read<S>(p.real, i, count) : Vec<T>{};
    Term<T> on_real{}, on_fake{};
    if (p.objective == Objective::relativistic) {
      const bool discriminator = p.role == Role::discriminator;
      on_fake = softplus<T>(discriminator ? f - r : r - f);
      on_real.slope = discriminator ? -on_fake.slope : on_fake.slope;
      on_fake.slope = -on_real.slope;
    } else {
      on_fake = fake_term<T>(p, f);
      if (p.real) on_real = real_term<T>(p, r);
    }
    const Vec<T> value = on_real.value + on_fake.value;
    sum += first_lanes<T>(value, count);
    write<S>(p.loss, i, count, value);
    write<S>(p.grad_real, i, count, on_real.slope * scale);
    write<S>(p.grad_fake, i, count, on_fake.slope * scale);
  });
  if (p.partial) p.partial[s] = sum_lanes(sum) * p.scale_fake;
}

template <class S>
void run(const AdversarialLossParams& p, int64_t begin, int64_t end) {
  for (int64_t s = begin; s < end; ++s) {
    if (p.paired()) {
      paired_slice<S>(p, s);
    } else {
      const bool real = s < slices(p.n_real);
      half_slice<S>(p, real, real ? s : s - slices(p.n_real), p.partial + s);
    }
  }
}

template <class S>
void run_backward(const AdversarialLossBackwardParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const Vec<T> one = splat(p.reduced ? load_one(static_cast<const S*>(p.grad_loss)) : T(0));
  for (int64_t s = begin; s < end; ++s) {
    for_vectors<T>(s, p.n, [&](int64_t i, int count) {
      const Vec<T> upstream = p.reduced ? one : read<S>(p.grad_loss, i, count);
      write<S>(p.out, i, count, upstream * read<S>(p.grad, i, count));
    });
  }
}

}  // namespace

void adversarial_loss(const AdversarialLossParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) { run<decltype(storage)>(p, begin, end); });
}

void adversarial_loss_backward(const AdversarialLossBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) { run_backward<decltype(storage)>(p, begin, end); });
}

}  // namespace sdgan::SDGAN_ISA
