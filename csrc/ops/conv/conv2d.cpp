#include "ops/conv/convolution.h"

namespace sdgan {
namespace {

Outputs conv2d_op(Tensor input, Tensor weight, OptionalTensor bias, IntList stride, IntList padding, IntList dilation,
                  int64_t groups, int64_t activation, double negative_slope, OptionalTensor residual,
                  double output_scale) {
  Convolution conv = convolution_arguments(false, stride, padding, dilation, groups, activation, negative_slope);
  conv.output_scale = output_scale;
  return convolution(conv, input, weight, bias, residual);
}

Gradients conv2d_backward_op(Tensor grad_output, Tensor input, Tensor weight, Tensor saved, IntList stride,
                             IntList padding, IntList dilation, int64_t groups, int64_t activation,
                             double negative_slope, bool need_input, bool need_weight, bool need_bias) {
  const Convolution conv = convolution_arguments(false, stride, padding, dilation, groups, activation, negative_slope);
  return convolution_backward(conv, grad_output, input, weight, saved, {need_input, need_weight, need_bias});
}

}  // namespace
}  // namespace sdgan

SDGAN_IMPLEMENTATION(m) {
  m.impl("conv2d", TORCH_BOX(&sdgan::conv2d_op));
  m.impl("conv2d_backward", TORCH_BOX(&sdgan::conv2d_backward_op));
}
