// One pass: each logit is read once, its term added, its gradient written.
// Bytes: 2 per logit and element size (one read, one write), 1 where the gradient is not wanted.
#include "kernels/adversarial_loss.h"

#include "kernels/cpu/term.h"

namespace sdgan::SDGAN_ISA {
namespace {

// Every term is sign * g(factor * x + shift) + tilt * x; the loop is compiled once per g.
enum class Form { softplus, tilted_softplus, relu, square, identity };

template <class T>
struct Shape {
  T factor = 1, shift = 0, sign = 1, tilt = 0;
};

template <Form form, class T>
SDGAN_INLINE Term<T> term(const Shape<T>& shape, Vec<T> x) {
  const Vec<T> y = shape.factor * x + shape.shift;
  Term<T> g;
  if constexpr (form == Form::relu) {
    g = {vmax(Vec<T>{}, y), y > 0 ? splat(T(1)) : Vec<T>{}};  // NaN at NaN
  } else if constexpr (form == Form::square) {
    g = {T(0.5) * y * y, y};
  } else if constexpr (form == Form::identity) {
    g = {y, splat(T(1))};
  } else {
    g = softplus<T>(y);
  }
  g = {shape.sign * g.value, shape.sign * shape.factor * g.gradient};
  if constexpr (form != Form::tilted_softplus) return g;
  return {g.value + shape.tilt * x, g.gradient + shape.tilt};
}

Form form_of(const AdversarialLossParams& p) {
  switch (p.objective) {
    case Objective::hinge:
      return p.role == Role::discriminator ? Form::relu : Form::identity;
    case Objective::least_squares:
      return Form::square;
    case Objective::wasserstein:
      return Form::identity;
    default:
      return p.real_target == 1 ? Form::softplus : Form::tilted_softplus;
  }
}

template <class T>
Shape<T> real_shape(const AdversarialLossParams& p) {
  const T t = static_cast<T>(p.real_target);
  switch (p.objective) {
    case Objective::hinge:
      return {-1, 1};
    case Objective::least_squares:
      return {1, -t};
    case Objective::wasserstein:
      return {-1};
    default:  // t sp(-r) + (1 - t) sp(r) = sp(-r) + (1 - t) r
      return {-1, 0, 1, T(1) - t};
  }
}

template <class T>
Shape<T> fake_shape(const AdversarialLossParams& p) {
  const bool discriminator = p.role == Role::discriminator;
  switch (p.objective) {
    case Objective::hinge:
      return discriminator ? Shape<T>{1, 1} : Shape<T>{-1};
    case Objective::least_squares:
      return {1, discriminator ? T(0) : T(-1)};
    case Objective::minimax:
      return {1, 0, discriminator ? T(1) : T(-1)};
    default:
      return {discriminator ? T(1) : T(-1)};
  }
}

template <class S, Form form, bool with_grad>
void half_slice(const AdversarialLossParams& p, bool real, int64_t s, double* partial) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(real ? p.scale_real : p.scale_fake);
  const Shape<T> shape = real ? real_shape<T>(p) : fake_shape<T>(p);
  const void* logits = real ? p.real : p.fake;
  void* grad = real ? p.grad_real : p.grad_fake;
  Vec<T> sum{};
  for_vectors<T>(s, real ? p.n_real : p.n_fake, [&](int64_t i, int count) SDGAN_INLINED {
    const Term<T> t = term<form, T>(shape, read_stream<S>(logits, i, count));
    sum += first_lanes<T>(t.value, count);
    if constexpr (with_grad) write_stream<S>(grad, i, count, t.gradient * scale);
  });
  *partial = sum_lanes(sum) * (real ? p.scale_real : p.scale_fake);
}

template <class S, Form form>
void paired_slice(const AdversarialLossParams& p, int64_t s) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(p.scale_fake);
  const T sign = p.role == Role::discriminator ? T(1) : T(-1);
  const Shape<T> of_real = real_shape<T>(p), of_fake = fake_shape<T>(p);
  Vec<T> sum{};
  for_vectors<T>(s, p.n_fake, [&](int64_t i, int count) SDGAN_INLINED {
    const Vec<T> f = read_stream<S>(p.fake, i, count);
    const Vec<T> r = p.real ? read_stream<S>(p.real, i, count) : Vec<T>{};
    Term<T> on_real{}, on_fake{};
    if (p.objective == Objective::relativistic) {
      on_fake = softplus<T>(sign * (f - r));
      on_fake.gradient *= sign;
      on_real.gradient = -on_fake.gradient;
    } else {
      on_fake = term<form, T>(of_fake, f);
      if (p.real) on_real = term<form, T>(of_real, r);
    }
    const Vec<T> value = on_real.value + on_fake.value;
    sum += first_lanes<T>(value, count);
    write_stream<S>(p.loss, i, count, value);
    write_stream<S>(p.grad_real, i, count, on_real.gradient * scale);
    write_stream<S>(p.grad_fake, i, count, on_fake.gradient * scale);
  });
  if (p.partial) p.partial[s] = sum_lanes(sum) * p.scale_fake;
}

template <class S, Form form>
void run(const AdversarialLossParams& p, int64_t begin, int64_t end) {
  for (int64_t s = begin; s < end; ++s) {
    if (p.paired()) {
      paired_slice<S, form>(p, s);
    } else {
      const bool real = s < slices(p.n_real);
      const int64_t of_half = real ? s : s - slices(p.n_real);
      if ((real ? p.grad_real : p.grad_fake) != nullptr) {
        half_slice<S, form, true>(p, real, of_half, p.partial + s);
      } else {
        half_slice<S, form, false>(p, real, of_half, p.partial + s);
      }
    }
  }
}

template <class S>
void run(const AdversarialLossParams& p, int64_t begin, int64_t end) {
  switch (form_of(p)) {
    case Form::softplus:
      return run<S, Form::softplus>(p, begin, end);
    case Form::tilted_softplus:
      return run<S, Form::tilted_softplus>(p, begin, end);
    case Form::relu:
      return run<S, Form::relu>(p, begin, end);
    case Form::square:
      return run<S, Form::square>(p, begin, end);
    case Form::identity:
      return run<S, Form::identity>(p, begin, end);
  }
}

template <class S>
void run_backward(const AdversarialLossBackwardParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const Vec<T> one = splat(p.reduced ? load_one(static_cast<const S*>(p.grad_loss)) : T(0));
  for (int64_t s = begin; s < end; ++s) {
    for_vectors<T>(s, p.n, [&](int64_t i, int count) SDGAN_INLINED {
      const Vec<T> upstream = p.reduced ? one : read_stream<S>(p.grad_loss, i, count);
      write_stream<S>(p.out, i, count, upstream * read_stream<S>(p.grad, i, count));
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
