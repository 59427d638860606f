#include "kernels/bce.h"

#include "ops/common.h"

namespace sdgan {
namespace {

struct Inputs {
  Tensor input, target;
  OptionalTensor weight, pos_weight;

  // Gives all tensors one dense layout.
  Inputs(const Tensor& input_, const Tensor& target_, const OptionalTensor& weight_, const OptionalTensor& pos_weight_)
      : input(dense(input_)), target(laid_out(target_, "target")) {
    if (weight_) weight = laid_out(*weight_, "weight");
    if (pos_weight_) pos_weight = laid_out(*pos_weight_, "pos_weight");
  }

  Tensor laid_out(const Tensor& t, const char* name) const {
    check_like(t, input, name);
    return in_layout_of(input, t);
  }

  void fill(BceInputs& p, bool logits, Reduction reduction) const {
    SDGAN_CHECK(logits || !pos_weight, "pos_weight is for logits");
    p.dtype = dtype_of(input, "input");
    p.input = input.const_data_ptr();
    p.target = target.const_data_ptr();
    p.weight = pointer(weight);
    p.pos_weight = pointer(pos_weight);
    p.n = input.numel();
    p.scale = 1.0 / divisor(reduction, input);
    p.logits = logits;
    p.reduced = reduction != Reduction::none;
  }
};

std::tuple<Tensor, Tensor> bce_backward_op(Tensor grad_loss, Tensor input, Tensor target, OptionalTensor weight,
                                           OptionalTensor pos_weight, bool logits, int64_t reduction, bool need_input,
                                           bool need_target) {
  const Inputs inputs(input, target, weight, pos_weight);
  BceBackwardParams p;
  inputs.fill(p, logits, reduction_of(reduction));
  grad_loss = loss_gradient(grad_loss, inputs.input, p.reduced);
  Tensor grad_input = empty_if(need_input, inputs.input);
  Tensor grad_target = empty_if(need_target, inputs.input);
  p.grad_loss = grad_loss.const_data_ptr();
  p.grad_input = need_input ? grad_input.mutable_data_ptr() : nullptr;
  p.grad_target = need_target ? grad_target.mutable_data_ptr() : nullptr;
  run_elementwise(
      p, slices(p.n), inputs.input, {written(p.grad_input, grad_input), written(p.grad_target, grad_target)},
      [](const auto& params, int64_t begin, int64_t end) { bce_backward(params, begin, end); }, launch_bce_backward);
  return {grad_input, grad_target};
}

// weight and pos_weight have the shape of input.
std::tuple<Tensor, Tensor, Tensor> bce_op(Tensor input, Tensor target, OptionalTensor weight, OptionalTensor pos_weight,
                                          bool logits, int64_t reduction_code, bool need_input, bool need_target) {
  const Reduction reduction = reduction_of(reduction_code);
  const Inputs inputs(input, target, weight, pos_weight);
  BceParams p;
  inputs.fill(p, logits, reduction);
  SDGAN_CHECK(p.reduced || !(need_input || need_target), "only a reduced loss has gradients beside it");
  const bool cuda = on_cuda(inputs.input);
  Tensor loss = p.reduced ? empty_scalar(inputs.input) : empty_as(inputs.input);
  Tensor grad_input = empty_if(need_input && !cuda, inputs.input);
  Tensor grad_target = empty_if(need_target && !cuda, inputs.input);
  p.loss = p.reduced ? nullptr : loss.mutable_data_ptr();
  p.grad_input = need_input && !cuda ? grad_input.mutable_data_ptr() : nullptr;
  p.grad_target = need_target && !cuda ? grad_target.mutable_data_ptr() : nullptr;
  std::vector<int> outside(logits || cuda ? 0 : slices(p.n));
  p.outside = outside.empty() ? nullptr : outside.data();
  run_reduction(
      p, slices(p.n), p.reduced ? &loss : nullptr, divisor(reduction, inputs.input) == 0, inputs.input,
      {written(p.loss, loss), written(p.grad_input, grad_input), written(p.grad_target, grad_target)},
      [](const auto& params, int64_t begin, int64_t end) { bce(params, begin, end); }, launch_bce);
  for (int found : outside) {
    SDGAN_CHECK((found & 1) == 0, "input must hold probabilities, all between 0 and 1; for logits there is ",
                "binary_cross_entropy_with_logits");
    SDGAN_CHECK((found & 2) == 0, "target must hold probabilities, all between 0 and 1");
  }
  if (cuda && (need_input || need_target)) {
    std::tie(grad_input, grad_target) = bce_backward_op(scalar_one(input), input, target, weight, pos_weight, logits,
                                                        reduction_code, need_input, need_target);
  }
  return {loss, grad_input, grad_target};
}

}  // namespace
}  // namespace sdgan

SDGAN_IMPLEMENTATION(m) {
  m.impl("bce", TORCH_BOX(&sdgan::bce_op));
  m.impl("bce_backward", TORCH_BOX(&sdgan::bce_backward_op));
}
