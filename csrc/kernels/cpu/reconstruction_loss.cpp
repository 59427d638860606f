// One pass each way. Bytes per element and element size: forward 2 (x_hat, x) and one for each gradient that is wanted
// beside the loss; backward, which computes them from the inputs, as many.
#include "kernels/reconstruction_loss.h"

#include "kernels/cpu/term.h"

namespace sdgan::SDGAN_ISA {
namespace {

// The term and its derivative with respect to y.
template <Reconstruction kind, class T>
SDGAN_INLINE Term<T> term(Vec<T> y, Vec<T> x) {
  const Vec<T> d = y - x;
  if constexpr (kind == Reconstruction::mse) {
    return {d * d, T(2) * d};
  } else if constexpr (kind == Reconstruction::l1) {
    const Vec<T> sign = d > 0 ? splat(T(1)) : d < 0 ? splat(T(-1)) : d;  // 0 at 0, NaN at NaN
    return {vabs(d), sign};
  } else if constexpr (kind == Reconstruction::bce) {
    const Term<T> s = softplus<T>(y);
    return {s.value - x * y, s.gradient - x};
  } else {
    return {T(0.5) * (d * d + T(1.8378770664093453)), d};
  }
}

template <class S, Reconstruction kind>
void run(const ReconstructionLossParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(p.scale);
  for (int64_t s = begin; s < end; ++s) {
    Vec<T> sum{};
    for_vectors<T>(s, p.n, [&](int64_t i, int count) SDGAN_INLINED {
      const Vec<T> y = read_stream<S>(p.x_hat, i, count);
      const Term<T> term = SDGAN_ISA::term<kind, T>(y, read_stream<S>(p.x, i, count));
      sum += first_lanes<T>(term.value, count);
      write_stream<S>(p.loss, i, count, term.value);
      write_stream<S>(p.grad_x_hat, i, count, scale * term.gradient);
      write_stream<S>(p.grad_x, i, count, -scale * (kind == Reconstruction::bce ? y : term.gradient));
    });
    if (p.partial) p.partial[s] = sum_lanes(sum) * p.scale;
  }
}

template <class S, Reconstruction kind>
void run_backward(const ReconstructionLossBackwardParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(p.scale);
  const Vec<T> one = splat(p.reduced ? load_one(static_cast<const S*>(p.grad_loss)) * scale : T(0));
  for (int64_t s = begin; s < end; ++s) {
    for_vectors<T>(s, p.n, [&](int64_t i, int count) SDGAN_INLINED {
      const Vec<T> upstream = p.reduced ? one : read_stream<S>(p.grad_loss, i, count);
      const Vec<T> y = read_stream<S>(p.x_hat, i, count);
      const Vec<T> gradient = term<kind, T>(y, read_stream<S>(p.x, i, count)).gradient;
      write_stream<S>(p.grad_x_hat, i, count, upstream * gradient);
      write_stream<S>(p.grad_x, i, count, upstream * -(kind == Reconstruction::bce ? y : gradient));
    });
  }
}

// Calls body(std::integral_constant<Reconstruction, kind>{}): the loop is compiled once per kind.
template <class Body>
void dispatch_kind(Reconstruction kind, Body body) {
  switch (kind) {
    case Reconstruction::mse:
      return body(std::integral_constant<Reconstruction, Reconstruction::mse>{});
    case Reconstruction::l1:
      return body(std::integral_constant<Reconstruction, Reconstruction::l1>{});
    case Reconstruction::bce:
      return body(std::integral_constant<Reconstruction, Reconstruction::bce>{});
    case Reconstruction::gaussian:
      return body(std::integral_constant<Reconstruction, Reconstruction::gaussian>{});
  }
}

}  // namespace

void reconstruction_loss(const ReconstructionLossParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    dispatch_kind(p.kind, [&](auto kind) { run<decltype(storage), kind()>(p, begin, end); });
  });
}

void reconstruction_loss_backward(const ReconstructionLossBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    dispatch_kind(p.kind, [&](auto kind) { run_backward<decltype(storage), kind()>(p, begin, end); });
  });
}

}  // namespace sdgan::SDGAN_ISA
