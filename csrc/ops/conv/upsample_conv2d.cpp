// Nearest upsampling by 2 and a 3x3 convolution with one pixel of padding, in one kernel: the upsampled image of
// kernels/conv/winograd/f43.h. float32 on the CPU, channels_last; an NCHW image is copied. The other ways to compute
// it, and the derivatives, are those of sdgan_ext/ops/upsample_conv2d.py.
#include "ops/conv/kept_filters.h"
#include "ops/conv/winograd.h"

namespace sdgan {
namespace {

Tensor upsample_conv2d_op(Tensor input, Tensor weight, OptionalTensor bias, int64_t activation, double negative_slope) {
  SDGAN_CHECK(input.dim() == 4 && weight.dim() == 4, "input and weight must have 4 dimensions");
  SDGAN_CHECK(!input.is_cuda() && dtype_of(input, "input") == DType::f32, "input must be float32, on the CPU");
  check_same_dtype(input, weight, "input and weight");
  SDGAN_CHECK(weight.size(2) == 3 && weight.size(3) == 3, "the weight must have 3x3 taps");
  SDGAN_CHECK(weight.size(1) == input.size(1), "input has ", input.size(1), " channels, weight takes ", weight.size(1));
  SDGAN_CHECK(weight.numel() > 0 && input.size(2) > 0 && input.size(3) > 0, "input or weight is empty");
  const Sizes size{input.size(0), weight.size(0), 2 * input.size(2), 2 * input.size(3)};
  if (bias) {
    check_same_dtype(*bias, input, "bias and input");
    SDGAN_CHECK(bias->dim() == 1 && bias->size(0) == size[1], "bias must hold one value per output channel");
  }
  const bool channels_last = is_channels_last(input) || is_channels_last(weight);
  Tensor output = empty_image(size, input, true);
  const Tensor image = dense(input, true);
  const Tensor dense_bias = bias ? to_contiguous(*bias) : empty_none(input);

  WinogradParams p;
  p.pass = Pass::fprop;
  p.geometry = {{size[2], size[2], 3, 1, 1, 1}, {size[3], size[3], 3, 1, 1, 1}, size[0], input.size(1), size[1], 1};
  p.tile = 4;
  p.upsampled = true;
  p.x_in = static_cast<const float*>(image.const_data_ptr());
  p.y_out = static_cast<float*>(output.mutable_data_ptr());
  p.bias = bias ? static_cast<const float*>(dense_bias.const_data_ptr()) : nullptr;
  p.activation = enumerator(activation, Activation::elu, "activation");
  p.negative_slope = negative_slope;
  run_winograd(p, weight, take_offer(weight.const_data_ptr()));
  return channels_last ? output : dense(output, false);
}

}  // namespace
}  // namespace sdgan

SDGAN_IMPLEMENTATION(m) { m.impl("upsample_conv2d", TORCH_BOX(&sdgan::upsample_conv2d_op)); }
