#include "kernels/adversarial_loss.h"

#include "ops/common.h"

namespace sdgan {
namespace {

// real, fake: logits of any shape, contiguous. A gradient that is not needed is empty.
std::tuple<Tensor, Tensor, Tensor> adversarial_loss_op(OptionalTensor real, Tensor fake, int64_t objective,
                                                       int64_t role, double real_target, int64_t reduction,
                                                       bool need_real, bool need_fake) {
  const bool none = reduction_of(reduction) == Reduction::none;
  const bool mean = reduction_of(reduction) == Reduction::mean;
  fake = to_contiguous(fake);
  if (real) {
    real = to_contiguous(*real);
    check_same_dtype(*real, fake, "real_logits and fake_logits");
  }

  AdversarialLossParams p;
  p.dtype = dtype_of(fake, "fake_logits");
  p.objective = enumerator(objective, Objective::relativistic, "objective");
  p.role = enumerator(role, Role::generator, "role");
  const bool reads_real = p.role == Role::discriminator || p.objective == Objective::relativistic;
  SDGAN_CHECK(real.has_value() == reads_real, "real_logits are read by the discriminator's loss and by relativistic");
  const bool pairs = real && (none || p.objective == Objective::relativistic);
  if (pairs) check_like(*real, fake, "real_logits and fake_logits, which pair one to one,");
  p.real_target = real_target;
  p.n_real = real ? real->numel() : 0;
  p.n_fake = fake.numel();
  p.scale_real = mean ? 1.0 / static_cast<double>(p.n_real) : 1.0;
  p.scale_fake = mean ? 1.0 / static_cast<double>(p.n_fake) : 1.0;

  Tensor loss = none ? empty_as(fake) : empty_scalar(fake);
  need_real = need_real && real.has_value();
  Tensor grad_real = need_real ? empty_as(*real) : empty_none(fake);
  Tensor grad_fake = empty_if(need_fake, fake);
  p.real = pointer(real);
  p.fake = fake.const_data_ptr();
  p.loss = none ? loss.mutable_data_ptr() : nullptr;
  p.grad_real = need_real ? grad_real.mutable_data_ptr() : nullptr;
  p.grad_fake = need_fake ? grad_fake.mutable_data_ptr() : nullptr;

  run_reduction(
      p, p.slice_count(), none ? nullptr : &loss, mean && (p.n_fake == 0 || (real && p.n_real == 0)), fake,
      {written(p.loss, loss), written(p.grad_real, grad_real),
       written(p.grad_fake, grad_fake, p.paired() ? 0 : slices(p.n_real))},
      [](const auto& params, int64_t begin, int64_t end) { adversarial_loss(params, begin, end); },
      launch_adversarial_loss);
  return {loss, grad_real, grad_fake};
}

// Of a gradient that was not wanted nothing comes, as of one of no logits.
Tensor chain(Tensor grad_loss, Tensor grad, bool reduced) {
  grad = dense(grad);
  Tensor out = empty_as(grad);
  if (grad.numel() == 0) return out;
  grad_loss = loss_gradient(grad_loss, grad, reduced);
  AdversarialLossBackwardParams p;
  p.dtype = dtype_of(grad, "its gradient");
  p.grad_loss = grad_loss.const_data_ptr();
  p.grad = grad.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.n = grad.numel();
  p.reduced = reduced;
  run_elementwise(
      p, slices(p.n), grad, {written(p.out, out)},
      [](const auto& params, int64_t begin, int64_t end) { adversarial_loss_backward(params, begin, end); },
      launch_adversarial_loss_backward);
  return out;
}

// real, fake and what follows the gradients are not read here: the second derivative (Python) needs them.
std::tuple<Tensor, Tensor> adversarial_loss_backward_op(Tensor grad_loss, OptionalTensor, Tensor, Tensor grad_real,
                                                        Tensor grad_fake, int64_t, int64_t, double, int64_t reduction) {
  const bool reduced = reduction_of(reduction) != Reduction::none;
  return {chain(grad_loss, grad_real, reduced), chain(grad_loss, grad_fake, reduced)};
}

}  // namespace
}  // namespace sdgan

SDGAN_IMPLEMENTATION(m) {
  m.impl("adversarial_loss", TORCH_BOX(&sdgan::adversarial_loss_op));
  m.impl("adversarial_loss_backward", TORCH_BOX(&sdgan::adversarial_loss_backward_op));
}
