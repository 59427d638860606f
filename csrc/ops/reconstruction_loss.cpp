#include "kernels/reconstruction_loss.h"

#include "ops/common.h"

namespace sdgan {
namespace {

std::tuple<Tensor, Tensor> reconstruction_loss_backward_op(Tensor grad_loss, Tensor x_hat, Tensor x, int64_t kind,
                                                           int64_t reduction_code, bool need_x_hat, bool need_x) {
  const Reduction reduction = reduction_of(reduction_code);
  const bool reduced = reduction != Reduction::none;
  check_like(x, x_hat, "x_hat and x");
  x_hat = dense(x_hat);
  x = in_layout_of(x_hat, x);
  grad_loss = loss_gradient(grad_loss, x_hat, reduced);
  Tensor grad_x_hat = empty_if(need_x_hat, x_hat);
  Tensor grad_x = empty_if(need_x, x_hat);

  ReconstructionLossBackwardParams p;
  p.dtype = dtype_of(x_hat, "x_hat");
  p.kind = enumerator(kind, Reconstruction::gaussian, "kind");
  p.n = x_hat.numel();
  p.grad_loss = grad_loss.const_data_ptr();
  p.x_hat = x_hat.const_data_ptr();
  p.x = x.const_data_ptr();
  p.grad_x_hat = need_x_hat ? grad_x_hat.mutable_data_ptr() : nullptr;
  p.grad_x = need_x ? grad_x.mutable_data_ptr() : nullptr;
  p.scale = 1.0 / divisor(reduction, x_hat);
  p.reduced = reduced;
  run_elementwise(
      p, slices(p.n), x_hat, {written(p.grad_x_hat, grad_x_hat), written(p.grad_x, grad_x)},
      [](const auto& params, int64_t begin, int64_t end) { reconstruction_loss_backward(params, begin, end); },
      launch_reconstruction_loss_backward);
  return {grad_x_hat, grad_x};
}

std::tuple<Tensor, Tensor, Tensor> reconstruction_loss_op(Tensor x_hat, Tensor x, int64_t kind, int64_t reduction_code,
                                                          bool need_x_hat, bool need_x) {
  const Reduction reduction = reduction_of(reduction_code);
  const bool none = reduction == Reduction::none;
  check_like(x, x_hat, "x_hat and x");
  SDGAN_CHECK(!none || !(need_x_hat || need_x), "only a reduced loss has gradients beside it");
  x_hat = dense(x_hat);
  x = in_layout_of(x_hat, x);
  const bool cuda = on_cuda(x_hat);
  Tensor loss = none ? empty_as(x_hat) : empty_scalar(x_hat);
  Tensor grad_x_hat = empty_if(need_x_hat && !cuda, x_hat);
  Tensor grad_x = empty_if(need_x && !cuda, x_hat);

  ReconstructionLossParams p;
  p.dtype = dtype_of(x_hat, "x_hat");
  p.kind = enumerator(kind, Reconstruction::gaussian, "kind");
  p.n = x_hat.numel();
  p.x_hat = x_hat.const_data_ptr();
  p.x = x.const_data_ptr();
  p.loss = none ? loss.mutable_data_ptr() : nullptr;
  p.grad_x_hat = need_x_hat && !cuda ? grad_x_hat.mutable_data_ptr() : nullptr;
  p.grad_x = need_x && !cuda ? grad_x.mutable_data_ptr() : nullptr;
  p.scale = 1.0 / divisor(reduction, x_hat);
  run_reduction(
      p, slices(p.n), none ? nullptr : &loss, divisor(reduction, x_hat) == 0, x_hat,
      {written(p.loss, loss), written(p.grad_x_hat, grad_x_hat), written(p.grad_x, grad_x)},
      [](const auto& params, int64_t begin, int64_t end) { reconstruction_loss(params, begin, end); },
      launch_reconstruction_loss);
  if (cuda && (need_x_hat || need_x)) {
    std::tie(grad_x_hat, grad_x) =
        reconstruction_loss_backward_op(scalar_one(x_hat), x_hat, x, kind, reduction_code, need_x_hat, need_x);
  }
  return {loss, grad_x_hat, grad_x};
}

}  // namespace
}  // namespace sdgan

SDGAN_IMPLEMENTATION(m) {
  m.impl("reconstruction_loss", TORCH_BOX(&sdgan::reconstruction_loss_op));
  m.impl("reconstruction_loss_backward", TORCH_BOX(&sdgan::reconstruction_loss_backward_op));
}
