#include "ops/convolution.h"

#include <algorithm>
#include <array>

namespace sdgan {
namespace {

constexpr auto kNhwc = torch::headeronly::MemoryFormat::ChannelsLast;
constexpr auto kNchw = torch::headeronly::MemoryFormat::Contiguous;

void check(const Convolution& conv, const Tensor& input, const Tensor& weight) {
  SDGAN_CHECK(input.dim() == 4 && weight.dim() == 4, "input and weight must have 4 dimensions");
  SDGAN_CHECK(conv.stride.size() == 2 && conv.dilation.size() == 2 && conv.sides.size() == 4,
              "stride and dilation must have 2 elements, padding or crop 4");
  SDGAN_CHECK(conv.stride[0] > 0 && conv.stride[1] > 0 && conv.dilation[0] > 0 && conv.dilation[1] > 0 &&
                  conv.groups > 0,
              "stride, dilation and groups must be positive");
  for (int side = 0; side < 4; ++side) {  // a crop below 0 at the end is torch's output_padding
    const int64_t below = std::max(conv.stride[side / 2], conv.dilation[side / 2]);
    SDGAN_CHECK(conv.sides[side] >= 0 || (conv.transposed && side % 2 == 1 && -conv.sides[side] < below),
                "padding or crop has a negative side");
  }
  check_same_dtype(input, weight, "input and weight");
  const int64_t channels = conv.transposed ? weight.size(0) : weight.size(1) * conv.groups;
  SDGAN_CHECK(input.size(1) == channels, "input has ", input.size(1), " channels, weight takes ", channels);
  const IntList sizes = output_sizes(conv, input, weight);
  SDGAN_CHECK(input.size(2) > 0 && input.size(3) > 0, "the input is empty");
  SDGAN_CHECK(sizes[2] > 0 && sizes[3] > 0, "the output would be empty");
}

ConvolutionKernel kernel(const Convolution& conv, const Tensor& input, const Tensor& weight, bool channels_last,
                         ConvolutionPass pass, bool need_input = false) {
  return convolution_path({conv.transposed, sizes_of(input), sizes_of(weight), output_sizes(conv, input, weight),
                           conv.stride, conv.sides, conv.dilation, conv.groups, dtype_of(input, "input"),
                           on_cuda(input), channels_last, pass, need_input})
      .kernel;
}

std::array<int64_t, 4> strides_of(const IntList& size, bool channels_last) {
  const int64_t c = size[1], h = size[2], w = size[3];
  if (channels_last) return {h * w * c, 1, w * c, c};
  return {c * h * w, h * w, w, 1};
}

}  // namespace

bool is_channels_last(const Tensor& t) {
  if (t.stride(1) == 0) return false;
  int64_t at_least = 0;
  for (int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) == 0 || t.stride(d) < at_least) return false;
    if (d == 0 && at_least == t.stride(1)) return false;
    at_least = t.stride(d) * t.size(d);
  }
  return true;
}

bool has_format(const Tensor& t, bool channels_last) {
  const auto strides = strides_of(sizes_of(t), channels_last);
  return std::equal(strides.begin(), strides.end(), t.strides().begin());
}

Tensor empty_image(const IntList& sizes, const Tensor& like, bool channels_last) {
  return empty(like, 4, sizes.data(), strides_of(sizes, channels_last).data());
}

Tensor dense(const Tensor& t, bool channels_last) {
  return has_format(t, channels_last) ? t : torch::stable::contiguous(t, channels_last ? kNhwc : kNchw);
}

IntList sizes_of(const Tensor& t) { return IntList(t.sizes().begin(), t.sizes().end()); }

IntList output_sizes(const Convolution& conv, const Tensor& input, const Tensor& weight) {
  IntList sizes{input.size(0), conv.transposed ? weight.size(1) * conv.groups : weight.size(0), 0, 0};
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t size = input.size(2 + axis), reach = conv.dilation[axis] * (weight.size(2 + axis) - 1) + 1;
    const int64_t sides = conv.sides[2 * axis] + conv.sides[2 * axis + 1];
    sizes[2 + axis] = conv.transposed ? (size - 1) * conv.stride[axis] + reach - sides
                      : size + sides < reach ? 0 : (size + sides - reach) / conv.stride[axis] + 1;
  }
  return sizes;
}

Outputs convolution(const Convolution& conv, const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  check(conv, input, weight);
  if (bias) check_same_dtype(*bias, input, "bias and input");
  const bool channels_last = is_channels_last(input) || is_channels_last(weight);
  switch (kernel(conv, input, weight, channels_last, ConvolutionPass::forward)) {
    case ConvolutionKernel::direct:
      return thin_convolution(conv, input, weight, bias, channels_last);
    case ConvolutionKernel::winograd:
      return winograd_convolution(conv, input, weight, bias, channels_last);
    case ConvolutionKernel::gemm:
      return gemm_convolution(conv, input, weight, bias, channels_last);
    default:
      return library_convolution(conv, input, weight, bias, channels_last);
  }
}

Gradients convolution_backward(const Convolution& conv, const Tensor& grad_output, const Tensor& input,
                               const Tensor& weight, const Tensor& saved, Wanted wanted) {
  check(conv, input, weight);
  check_same_dtype(grad_output, input, "grad_output and input");
  SDGAN_CHECK(sizes_of(grad_output) == output_sizes(conv, input, weight),
              "grad_output does not have the output's shape");
  if (conv.activation != Activation::none) {
    check_same_dtype(saved, input, "saved and input");
    SDGAN_CHECK(sizes_of(saved) == sizes_of(grad_output), "saved does not have the output's shape");
  }
  const bool channels_last = is_channels_last(input) || is_channels_last(weight);
  const auto path = [&](ConvolutionPass pass) {
    return kernel(conv, input, weight, channels_last, pass, wanted.input);
  };
  const ConvolutionKernel for_weight = path(ConvolutionPass::grad_weight);
  const ConvolutionKernel for_input = wanted.input ? path(ConvolutionPass::grad_input) : for_weight;
  const auto any = [&](ConvolutionKernel k) { return for_input == k || for_weight == k; };
  if (any(ConvolutionKernel::winograd)) {
    const Wanted by_winograd{for_input == ConvolutionKernel::winograd, for_weight == ConvolutionKernel::winograd};
    return winograd_convolution_backward(conv, grad_output, input, weight, saved, wanted, by_winograd, channels_last);
  }
  if (any(ConvolutionKernel::direct)) {
    return thin_convolution_backward(conv, grad_output, input, weight, saved, wanted, channels_last);
  }
  if (any(ConvolutionKernel::gemm)) {
    return gemm_convolution_backward(conv, grad_output, input, weight, saved, wanted, channels_last);
  }
  return library_convolution_backward(conv, grad_output, input, weight, saved, wanted, channels_last);
}

}  // namespace sdgan
