// One pass, as cpu/adversarial_loss.cpp: each logit is read once, its term added, its gradient written. A block works
// on a slice; up to two slices are one launch of one block, since a launch costs as much as 10,000 logits.
// Bytes: 2 per logit and element size (one read, one write).
#include "kernels/adversarial_loss.h"

#include "kernels/cuda/reduce.cuh"

namespace sdgan {
namespace cuda {
namespace {

template <class T>
SDGAN_DEVICE Term<T> softplus_of_minus(T x) {  // sp(-x), and its derivative
  const Term<T> s = softplus(-x);
  return {s.value, -s.slope};
}

template <class T>
SDGAN_DEVICE Term<T> hinge(T x) {  // max(0, x)
  return {x > 0 || x != x ? x : T(0), x > 0 ? T(1) : T(0)};
}

template <class T>
SDGAN_DEVICE Term<T> real_term(const AdversarialLossParams& p, T r) {
  const T t = static_cast<T>(p.real_target);
  switch (p.objective) {
    case Objective::hinge: {
      const Term<T> h = hinge(T(1) - r);
      return {h.value, -h.slope};
    }
    case Objective::least_squares:
      return {T(0.5) * (r - t) * (r - t), r - t};
    case Objective::wasserstein:
      return {-r, T(-1)};
    default: {  // t sp(-r) + (1 - t) sp(r) = sp(r) - t r
      if (t == T(1)) return softplus_of_minus(r);
      const Term<T> s = softplus(r);
      return {s.value - t * r, s.slope - t};
    }
  }
}

template <class T>
SDGAN_DEVICE Term<T> fake_term(const AdversarialLossParams& p, T f) {
  const bool discriminator = p.role == Role::discriminator;
  switch (p.objective) {
    case Objective::hinge:
      return discriminator ? hinge(T(1) + f) : Term<T>{-f, T(-1)};
    case Objective::least_squares: {
      const T d = discriminator ? f : f - T(1);
      return {T(0.5) * d * d, d};
    }
    case Objective::wasserstein:
      return discriminator ? Term<T>{f, T(1)} : Term<T>{-f, T(-1)};
    case Objective::minimax: {
      const Term<T> s = softplus(f);
      return discriminator ? s : Term<T>{-s.value, -s.slope};
    }
    default:
      return discriminator ? softplus(f) : softplus_of_minus(f);
  }
}

// This thread's share of a slice of one half.
template <class S>
SDGAN_DEVICE double half_slice(const AdversarialLossParams& p, bool real, int64_t s) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(real ? p.scale_real : p.scale_fake);
  T sum = 0;
  for_packs<S>(s, real ? p.n_real : p.n_fake, [&](int64_t i, int count) {
    const Pack<S> x = read<S>(real ? p.real : p.fake, i, count);
    Pack<S> slope;
    PRAGMA_UNROLL
    for (int j = 0; j < kPack<S>; ++j) {
      const Term<T> term = real ? real_term(p, x[j]) : fake_term(p, x[j]);
      slope[j] = term.slope * scale;
      if (j < count) sum += term.value;
    }
    write<S>(real ? p.grad_real : p.grad_fake, i, count, slope);
  });
  return sum * (real ? p.scale_real : p.scale_fake);
}

template <class S>
SDGAN_DEVICE double paired_slice(const AdversarialLossParams& p, int64_t s) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(p.scale_fake);
  const bool discriminator = p.role == Role::discriminator;
  T sum = 0;
  for_packs<S>(s, p.n_fake, [&](int64_t i, int count) {
    const Pack<S> f = read<S>(p.fake, i, count);
    const Pack<S> r = p.real ? read<S>(p.real, i, count) : Pack<S>{};
    Pack<S> value, slope_real, slope_fake;
    PRAGMA_UNROLL
    for (int j = 0; j < kPack<S>; ++j) {
      Term<T> on_real{}, on_fake{};
      if (p.objective == Objective::relativistic) {
        on_fake = softplus(discriminator ? f[j] - r[j] : r[j] - f[j]);
        on_real.slope = discriminator ? -on_fake.slope : on_fake.slope;
        on_fake.slope = -on_real.slope;
      } else {
        on_fake = fake_term(p, f[j]);
        if (p.real) on_real = real_term(p, r[j]);
      }
      value[j] = on_real.value + on_fake.value;
      slope_real[j] = on_real.slope * scale;
      slope_fake[j] = on_fake.slope * scale;
      if (j < count) sum += value[j];
    }
    write<S>(p.loss, i, count, value);
    write<S>(p.grad_real, i, count, slope_real);
    write<S>(p.grad_fake, i, count, slope_fake);
  });
  return sum * p.scale_fake;
}

template <class S>
__global__ void __launch_bounds__(kThreads) adversarial_loss_kernel(AdversarialLossParams p) {
  const int64_t count = p.slice_count();
  double sum = 0;
  for (int64_t s = blockIdx.x; s < count; s += gridDim.x) {
    if (p.paired()) {
      sum += paired_slice<S>(p, s);
    } else {
      const bool real = s < slices(p.n_real);
      sum += half_slice<S>(p, real, real ? s : s - slices(p.n_real));
    }
  }
  finish_block<S>(sum, p.partial, p.total);
}

template <class S>
__global__ void __launch_bounds__(kThreads) adversarial_loss_backward_kernel(AdversarialLossBackwardParams p) {
  using T = compute_t<S>;
  const T one = p.reduced ? load_one<S>(p.grad_loss, 0) : T(0);
  for (int64_t s = blockIdx.x; s < slices(p.n); s += gridDim.x) {
    for_packs<S>(s, p.n, [&](int64_t i, int count) {
      const Pack<S> grad = read<S>(p.grad, i, count);
      Pack<S> upstream{};
      if (!p.reduced) upstream = read<S>(p.grad_loss, i, count);
      Pack<S> out;
      PRAGMA_UNROLL
      for (int j = 0; j < kPack<S>; ++j) out[j] = (p.reduced ? one : upstream[j]) * grad[j];
      write<S>(p.out, i, count, out);
    });
  }
}

}  // namespace
}  // namespace cuda

CudaError launch_adversarial_loss(const AdversarialLossParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return cuda::launch_reduction<S>(cuda::adversarial_loss_kernel<S>, p, p.slice_count(), stream);
  });
}

CudaError launch_adversarial_loss_backward(const AdversarialLossBackwardParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return cuda::launch(cuda::adversarial_loss_backward_kernel<S>, cuda::grid_of(slices(p.n)), cuda::kThreads, 0,
                        stream, p);
  });
}

}  // namespace sdgan
