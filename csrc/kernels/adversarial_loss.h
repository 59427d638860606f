// Both halves of a GAN objective, with their gradients, in one pass. C = D(x) are logits, sp is softplus, t the target
// that stands for "real" (1, or 0.9 with one-sided label smoothing).
//
//   objective       discriminator, real half        discriminator, fake half   generator
//   non_saturating  t sp(-r) + (1 - t) sp(r)        sp(f)                      sp(-f)             Goodfellow 2014, sec.
//   3 minimax         t sp(-r) + (1 - t) sp(r)        sp(f)                      -sp(f)             Goodfellow 2014,
//   eq. 1 hinge           max(0, 1 - r)                   max(0, 1 + f)              -f                 Lim & Ye 2017
//   least_squares   (r - t)^2 / 2                   f^2 / 2                    (f - 1)^2 / 2      Mao 2017, eq. 9
//   wasserstein     -r                              f                          -f                 Arjovsky 2017
//   relativistic    sp(f - r), one term a pair                                 sp(r - f)          Huang 2024 (R3GAN)
#pragma once

#include "kernels/isa.h"
#include "kernels/launcher.h"
#include "kernels/scalar.h"

namespace sdgan {

enum class Objective : int32_t { non_saturating, minimax, hinge, least_squares, wasserstein, relativistic };
enum class Role : int32_t { discriminator, generator };

struct AdversarialLossParams {
  const void* real = nullptr;  // [n_real] logits; null where the objective does not read them
  const void* fake = nullptr;  // [n_fake]
  void* grad_real = nullptr;   // [n_real] d loss / d real, or null: not wanted
  void* grad_fake = nullptr;   // [n_fake] or null
  void* loss = nullptr;        // [n_fake] loss of each pair when not reduced, else null
  double* partial = nullptr;   // [slices], on CUDA [kCudaPartials]: sums of terms, scaled; null when not reduced
  void* total = nullptr;       // CUDA: the sum of all, one element; null when not reduced
  int64_t n_real = 0;
  int64_t n_fake = 0;
  double scale_real = 1;  // what a term of the real half counts in the loss: 1 / n_real for a mean
  double scale_fake = 1;
  double real_target = 1;
  Objective objective = Objective::non_saturating;
  Role role = Role::discriminator;
  DType dtype = DType::f32;

  // Paired: one slice holds real and fake of the same index. Otherwise the real half's slices come first.
  SDGAN_HD bool paired() const { return loss != nullptr || objective == Objective::relativistic; }
  SDGAN_HD int64_t slice_count() const { return paired() ? slices(n_fake) : slices(n_real) + slices(n_fake); }
};

// Chain rule: out = grad_loss * grad, where grad is what the forward pass wrote.
struct AdversarialLossBackwardParams {
  const void* grad_loss = nullptr;  // [n], or one element when the loss was reduced
  const void* grad = nullptr;       // [n]
  void* out = nullptr;              // [n]
  int64_t n = 0;
  bool reduced = true;
  DType dtype = DType::f32;
};

SDGAN_CPU_KERNEL(adversarial_loss, const AdversarialLossParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(adversarial_loss_backward, const AdversarialLossBackwardParams& p, int64_t slice_begin,
                 int64_t slice_end)
SDGAN_CUDA_KERNEL(adversarial_loss, AdversarialLossParams)
SDGAN_CUDA_KERNEL(adversarial_loss_backward, AdversarialLossBackwardParams)

}  // namespace sdgan
