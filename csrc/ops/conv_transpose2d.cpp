#include "ops/convolution.h"

namespace sdgan {
namespace {

Outputs conv_transpose2d_cpu(Tensor input, Tensor weight, OptionalTensor bias, IntList stride, IntList crop,
                             IntList dilation, int64_t groups, int64_t activation, double negative_slope) {
  const Convolution conv{true, stride, crop, dilation, groups, static_cast<Activation>(activation), negative_slope};
  return convolution(conv, input, weight, bias);
}

Gradients conv_transpose2d_backward_cpu(Tensor grad_output, Tensor input, Tensor weight, Tensor saved, IntList stride,
                                        IntList crop, IntList dilation, int64_t groups, int64_t activation,
                                        double negative_slope, bool need_input, bool need_weight, bool need_bias) {
  const Convolution conv{true, stride, crop, dilation, groups, static_cast<Activation>(activation), negative_slope};
  return convolution_backward(conv, grad_output, input, weight, saved, {need_input, need_weight, need_bias});
}

}  // namespace
}  // namespace sdgan

STABLE_TORCH_LIBRARY_IMPL(sdgan_ext, CPU, m) {
  m.impl("conv_transpose2d", TORCH_BOX(&sdgan::conv_transpose2d_cpu));
  m.impl("conv_transpose2d_backward", TORCH_BOX(&sdgan::conv_transpose2d_backward_cpu));
}
