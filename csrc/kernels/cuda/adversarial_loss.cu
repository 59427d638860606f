// One pass, as cpu/adversarial_loss.cpp: each logit is read once, its term added, its gradient written. Up to 4 chunks
// of 2048 elements are one launch, more are two (reduce.cuh); the backward pass is one for each half.
// Bytes: 2 per logit and element size (one read, one write), backward too.
#include "kernels/adversarial_loss.h"

#include "kernels/cuda/reduce.cuh"

namespace sdgan {
namespace cuda {
namespace {

template <class T>
SDGAN_DEVICE Term<T> softplus_of_minus(T x) {  // sp(-x), and its derivative
  const Term<T> s = softplus(-x);
  return {s.value, -s.gradient};
}

template <class T>
SDGAN_DEVICE Term<T> hinge(T x) {  // max(0, x)
  return {x > 0 || x != x ? x : T(0), x > 0 ? T(1) : T(0)};
}

// Calls body(term) with the function of one logit that the objective stands for: chosen once for a pack, so that the
// terms of its lanes overlap.
template <class T, class Body>
SDGAN_DEVICE void with_real_term(const AdversarialLossParams& p, Body body) {
  const T t = static_cast<T>(p.real_target);
  switch (p.objective) {
    case Objective::hinge:
      return body([](T r) {
        const Term<T> h = hinge(T(1) - r);
        return Term<T>{h.value, -h.gradient};
      });
    case Objective::least_squares:
      return body([t](T r) { return Term<T>{T(0.5) * (r - t) * (r - t), r - t}; });
    case Objective::wasserstein:
      return body([](T r) { return Term<T>{-r, T(-1)}; });
    default:  // t sp(-r) + (1 - t) sp(r) = sp(-r) + (1 - t) r
      return body([t](T r) {
        const Term<T> s = softplus_of_minus(r);
        return t == T(1) ? s : Term<T>{s.value + (T(1) - t) * r, s.gradient + (T(1) - t)};
      });
  }
}

template <class T, class Body>
SDGAN_DEVICE void with_fake_term(const AdversarialLossParams& p, Body body) {
  const bool discriminator = p.role == Role::discriminator;
  switch (p.objective) {
    case Objective::hinge:
      return body([=](T f) { return discriminator ? hinge(T(1) + f) : Term<T>{-f, T(-1)}; });
    case Objective::least_squares:
      return body([=](T f) {
        const T d = discriminator ? f : f - T(1);
        return Term<T>{T(0.5) * d * d, d};
      });
    case Objective::wasserstein:
      return body([=](T f) { return discriminator ? Term<T>{f, T(1)} : Term<T>{-f, T(-1)}; });
    default: {  // sp(f), -sp(f) or sp(-f)
      const bool minus_f = !discriminator && p.objective != Objective::minimax;
      const bool minus_loss = !discriminator && p.objective == Objective::minimax;
      return body([=](T f) {
        const Term<T> s = softplus(minus_f ? -f : f);
        return Term<T>{minus_loss ? -s.value : s.value, minus_f || minus_loss ? -s.gradient : s.gradient};
      });
    }
  }
}

// This thread's share of a chunk of one half.
template <class S>
SDGAN_DEVICE double half_chunk(const AdversarialLossParams& p, bool real, int64_t c) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(real ? p.scale_real : p.scale_fake);
  const void* logits = real ? p.real : p.fake;
  void* grad = real ? p.grad_real : p.grad_fake;
  T sum = 0;
  for_chunk<S>(
      c, real ? p.n_real : p.n_fake, [&](int64_t i, int count) { return read_raw<S>(logits, i, count); },
      [&](int64_t i, int count, const Raw<S>& raw) {
        const Pack<S> x = widen<S>(raw);
        Pack<S> gradient;
        const auto body = [&](auto term_of) {
          PRAGMA_UNROLL
          for (int j = 0; j < kPack<S>; ++j) {
            const Term<T> term = term_of(x[j]);
            gradient[j] = term.gradient * scale;
            if (j < count) sum += term.value;
          }
        };
        if (real) {
          with_real_term<T>(p, body);
        } else {
          with_fake_term<T>(p, body);
        }
        write<S>(grad, i, count, gradient);
      });
  return sum * (real ? p.scale_real : p.scale_fake);
}

template <class S>
struct Pair {
  Raw<S> real, fake;
};

template <class S>
SDGAN_DEVICE double paired_chunk(const AdversarialLossParams& p, int64_t c) {
  using T = compute_t<S>;
  const T scale = static_cast<T>(p.scale_fake);
  const T sign = p.role == Role::discriminator ? T(1) : T(-1);
  T sum = 0;
  for_chunk<S>(
      c, p.n_fake,
      [&](int64_t i, int count) { return Pair<S>{read_raw<S>(p.real, i, count), read_raw<S>(p.fake, i, count)}; },
      [&](int64_t i, int count, const Pair<S>& pair) {
        const Pack<S> r = widen<S>(pair.real), f = widen<S>(pair.fake);
        Pack<S> value, gradient_fake, gradient_real = splat<S>(T(0));
        if (p.objective == Objective::relativistic) {
          PRAGMA_UNROLL
          for (int j = 0; j < kPack<S>; ++j) {
            const Term<T> term = softplus(sign * (f[j] - r[j]));
            value[j] = term.value;
            gradient_fake[j] = sign * term.gradient;
            gradient_real[j] = -gradient_fake[j];
          }
        } else {
          with_fake_term<T>(p, [&](auto term_of) {
            PRAGMA_UNROLL
            for (int j = 0; j < kPack<S>; ++j) {
              const Term<T> term = term_of(f[j]);
              value[j] = term.value;
              gradient_fake[j] = term.gradient;
            }
          });
          if (p.real) {
            with_real_term<T>(p, [&](auto term_of) {
              PRAGMA_UNROLL
              for (int j = 0; j < kPack<S>; ++j) {
                const Term<T> term = term_of(r[j]);
                value[j] += term.value;
                gradient_real[j] = term.gradient;
              }
            });
          }
        }
        PRAGMA_UNROLL
        for (int j = 0; j < kPack<S>; ++j) {
          if (j < count) sum += value[j];
          gradient_fake[j] *= scale;
        }
        write<S>(p.loss, i, count, value);
        write<S>(p.grad_fake, i, count, gradient_fake);
        if (p.real) {
          PRAGMA_UNROLL
          for (int j = 0; j < kPack<S>; ++j) gradient_real[j] *= scale;
          write<S>(p.grad_real, i, count, gradient_real);
        }
      });
  return sum * p.scale_fake;
}

template <class S>
__global__ void __launch_bounds__(kThreads, kResident<S>) adversarial_loss_kernel(AdversarialLossParams p) {
  const bool paired = p.paired();
  const int64_t real_chunks = paired ? 0 : chunks(p.n_real), count = real_chunks + chunks(p.n_fake);
  double sum = 0;
  for (int64_t c = blockIdx.x; c < count; c += gridDim.x) {
    if (paired) {
      sum += paired_chunk<S>(p, c);
    } else {
      const bool real = c < real_chunks;
      sum += half_chunk<S>(p, real, real ? c : c - real_chunks);
    }
  }
  finish_block<S>(sum, p.partial, p.total);
}

template <class S>
__global__ void __launch_bounds__(kThreads, kResident<S>)
    adversarial_loss_backward_kernel(AdversarialLossBackwardParams p) {
  using T = compute_t<S>;
  const T one = p.reduced ? load_one<S>(p.grad_loss, 0) : T(0);
  const void* grad_loss = p.reduced ? nullptr : p.grad_loss;
  for (int64_t c = blockIdx.x; c < chunks(p.n); c += gridDim.x) {
    for_chunk<S>(
        c, p.n,
        [&](int64_t i, int count) { return Pair<S>{read_raw<S>(p.grad, i, count), read_raw<S>(grad_loss, i, count)}; },
        [&](int64_t i, int count, const Pair<S>& pair) {
          const Pack<S> grad = widen<S>(pair.real), upstream = p.reduced ? splat<S>(one) : widen<S>(pair.fake);
          Pack<S> out;
          PRAGMA_UNROLL
          for (int j = 0; j < kPack<S>; ++j) out[j] = upstream[j] * grad[j];
          write<S>(p.out, i, count, out);
        });
  }
}

}  // namespace
}  // namespace cuda

CudaError launch_adversarial_loss(const AdversarialLossParams& p, CudaStream stream) {
  const int64_t count = (p.paired() ? 0 : cuda::chunks(p.n_real)) + cuda::chunks(p.n_fake);
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return cuda::launch_reduction<S>(cuda::adversarial_loss_kernel<S>, p, count, stream);
  });
}

CudaError launch_adversarial_loss_backward(const AdversarialLossBackwardParams& p, CudaStream stream) {
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return cuda::launch(cuda::adversarial_loss_backward_kernel<S>, cuda::grid_of(cuda::chunks(p.n)), cuda::kThreads, 0,
                        stream, p);
  });
}

}  // namespace sdgan
