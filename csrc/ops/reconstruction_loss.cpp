#include "kernels/reconstruction_loss.h"

#include "ops/common.h"

namespace sdgan {
namespace {

Tensor reconstruction_loss_op(Tensor x_hat, Tensor x, int64_t kind, int64_t reduction_code) {
  const Reduction reduction = static_cast<Reduction>(reduction_code);
  const bool none = reduction == Reduction::none;
  check_like(x, x_hat, "x_hat and x");
  x_hat = dense(x_hat);
  x = in_layout_of(x_hat, x);
  Tensor loss = none ? empty_as(x_hat) : empty_scalar(x_hat);

  ReconstructionLossParams p;
  p.dtype = dtype_of(x_hat, "x_hat");
  p.kind = static_cast<Reconstruction>(kind);
  p.n = x_hat.numel();
  p.x_hat = x_hat.const_data_ptr();
  p.x = x.const_data_ptr();
  p.loss = none ? loss.mutable_data_ptr() : nullptr;
  p.scale = 1.0 / divisor(reduction, x_hat);
  run_reduction(
      p, slices(p.n), none ? nullptr : &loss, divisor(reduction, x_hat) == 0, x_hat,
      [](const auto& p, int64_t begin, int64_t end) { reconstruction_loss(p, begin, end); },
      launch_reconstruction_loss);
  return loss;
}

std::tuple<Tensor, Tensor> reconstruction_loss_backward_op(Tensor grad_loss, Tensor x_hat, Tensor x, int64_t kind,
                                                           int64_t reduction_code, bool need_x_hat, bool need_x) {
  const Reduction reduction = static_cast<Reduction>(reduction_code);
  const bool reduced = reduction != Reduction::none;
  check_like(x, x_hat, "x_hat and x");
  x_hat = dense(x_hat);
  x = in_layout_of(x_hat, x);
  grad_loss = loss_gradient(grad_loss, x_hat, reduced);
  Tensor grad_x_hat = need_x_hat ? empty_as(x_hat) : empty_none(x_hat);
  Tensor grad_x = need_x ? empty_as(x_hat) : empty_none(x_hat);

  ReconstructionLossBackwardParams p;
  p.dtype = dtype_of(x_hat, "x_hat");
  p.kind = static_cast<Reconstruction>(kind);
  p.n = x_hat.numel();
  p.grad_loss = grad_loss.const_data_ptr();
  p.x_hat = x_hat.const_data_ptr();
  p.x = x.const_data_ptr();
  p.grad_x_hat = need_x_hat ? grad_x_hat.mutable_data_ptr() : nullptr;
  p.grad_x = need_x ? grad_x.mutable_data_ptr() : nullptr;
  p.scale = 1.0 / divisor(reduction, x_hat);
  p.reduced = reduced;
  run_elementwise(
      p, slices(p.n), x_hat,
      [](const auto& p, int64_t begin, int64_t end) { reconstruction_loss_backward(p, begin, end); },
      launch_reconstruction_loss_backward);
  return {grad_x_hat, grad_x};
}

}  // namespace
}  // namespace sdgan

SDGAN_IMPLEMENTATION(m) {
  m.impl("reconstruction_loss", TORCH_BOX(&sdgan::reconstruction_loss_op));
  m.impl("reconstruction_loss_backward", TORCH_BOX(&sdgan::reconstruction_loss_backward_op));
}
