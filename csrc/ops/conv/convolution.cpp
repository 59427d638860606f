#include "ops/conv/convolution.h"

#include <algorithm>

#include "ops/conv/dispatch.h"
#include "ops/conv/kept_filters.h"

namespace sdgan {
namespace {

constexpr auto kNhwc = torch::headeronly::MemoryFormat::ChannelsLast;
constexpr auto kNchw = torch::headeronly::MemoryFormat::Contiguous;

// Sums of products of two sizes below it fit 64 bits, and positions fit 32.
constexpr int64_t kMost = int64_t{1} << 30;

void check(const Convolution& conv, const Tensor& input, const Tensor& weight) {
  SDGAN_CHECK(input.dim() == 4 && weight.dim() == 4, "input and weight must have 4 dimensions");
  int64_t largest = conv.groups;
  for (int axis = 0; axis < 2; ++axis) largest = std::max({largest, conv.stride[axis], conv.dilation[axis]});
  for (int64_t side : conv.sides) largest = std::max(largest, side);
  for (int d = 0; d < 4; ++d) largest = std::max({largest, input.size(d), weight.size(d)});
  SDGAN_CHECK(largest < kMost, "sizes, stride, padding or crop, dilation and groups must be below 2^30");
  SDGAN_CHECK(
      conv.stride[0] > 0 && conv.stride[1] > 0 && conv.dilation[0] > 0 && conv.dilation[1] > 0 && conv.groups > 0,
      "stride, dilation and groups must be positive");
  for (int side = 0; side < 4; ++side) {  // a crop below 0 at the end is torch's output_padding
    const int64_t below = std::max(conv.stride[side / 2], conv.dilation[side / 2]);
    SDGAN_CHECK(conv.sides[side] >= 0 || (conv.transposed && side % 2 == 1 && -conv.sides[side] < below),
                "padding or crop has a negative side");
  }
  check_same_dtype(input, weight, "input and weight");
  const int64_t channels = conv.transposed ? weight.size(0) : weight.size(1) * conv.groups;
  SDGAN_CHECK(input.size(1) == channels, "input has ", input.size(1), " channels, weight takes ", channels);
  SDGAN_CHECK(weight.size(0) % conv.groups == 0, "groups must divide the weight's first size");
  SDGAN_CHECK(weight.numel() > 0, "the weight is empty");
  SDGAN_CHECK(input.size(2) > 0 && input.size(3) > 0, "the input is empty");
}

Sizes output_sizes(const Convolution& conv, const Sizes& input, const Sizes& weight) {
  Sizes sizes{input[0], conv.transposed ? weight[1] * conv.groups : weight[0], 0, 0};
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t size = input[2 + axis], reach = conv.dilation[axis] * (weight[2 + axis] - 1) + 1;
    const int64_t sides = conv.sides[2 * axis] + conv.sides[2 * axis + 1];
    if (conv.transposed) {
      sizes[2 + axis] = (size - 1) * conv.stride[axis] + reach - sides;
    } else {
      sizes[2 + axis] = size + sides < reach ? 0 : (size + sides - reach) / conv.stride[axis] + 1;
    }
  }
  return sizes;
}

ConvCall convolution_call(const Convolution& conv, const Tensor& input, const Tensor& weight) {
  check(conv, input, weight);
  const Sizes taps = sizes_of(weight);
  ConvCall call{conv, {}, sizes_of(input), {}};
  call.output = output_sizes(conv, call.input, taps);
  SDGAN_CHECK(call.output[2] > 0 && call.output[3] > 0, "the output would be empty");
  double elements = 1;
  for (int64_t size : call.output) elements *= static_cast<double>(size);
  SDGAN_CHECK(elements < 0x1p60, "the output would have more elements than can be counted");

  ConvProblem& problem = call.problem;
  problem.transposed = conv.transposed;
  problem.dtype = dtype_of(input, "input");
  problem.cuda = on_cuda(input);
  problem.channels_last = is_channels_last(input) || is_channels_last(weight);
  const Sizes &x = conv.transposed ? call.output : call.input, &y = conv.transposed ? call.input : call.output;
  ConvGeometry& g = problem.geometry;
  g.vertical = {x[2], y[2], taps[2], conv.stride[0], conv.dilation[0], conv.sides[0]};
  g.horizontal = {x[3], y[3], taps[3], conv.stride[1], conv.dilation[1], conv.sides[2]};
  g.batch = x[0];
  g.x_channels = x[1];
  g.y_channels = y[1];
  g.groups = conv.groups;
  problem.reduced_precision = reduced_precision(problem);
  return call;
}

std::array<int64_t, 4> strides_of(const Sizes& size, bool channels_last) {
  const int64_t c = size[1], h = size[2], w = size[3];
  if (channels_last) return {h * w * c, 1, w * c, c};
  return {c * h * w, h * w, w, 1};
}

}  // namespace

Convolution convolution_arguments(bool transposed, const IntList& stride, const IntList& sides, const IntList& dilation,
                                  int64_t groups, int64_t activation, double negative_slope) {
  SDGAN_CHECK(stride.size() == 2 && dilation.size() == 2 && sides.size() == 4,
              "stride and dilation must have 2 elements, padding or crop 4");
  return {transposed,
          {stride[0], stride[1]},
          {sides[0], sides[1], sides[2], sides[3]},
          {dilation[0], dilation[1]},
          groups,
          enumerator(activation, Activation::elu, "activation"),
          negative_slope};
}

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

Tensor empty_image(const Sizes& sizes, const Tensor& like, bool channels_last) {
  return empty(like, 4, sizes.data(), strides_of(sizes, channels_last).data());
}

Tensor dense(const Tensor& t, bool channels_last) {
  return has_format(t, channels_last) ? t : torch::stable::contiguous(t, channels_last ? kNhwc : kNchw);
}

Sizes sizes_of(const Tensor& t) { return {t.size(0), t.size(1), t.size(2), t.size(3)}; }

Outputs convolution(const Convolution& conv, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                    const OptionalTensor& residual) {
  ConvCall call = convolution_call(conv, input, weight);
  call.keeps_filter = take_offer(weight.const_data_ptr());
  if (bias) {
    check_same_dtype(*bias, input, "bias and input");
    SDGAN_CHECK(bias->dim() == 1 && bias->size(0) == call.output[1], "bias must hold one value per output channel");
  }
  if (residual) {
    check_same_dtype(*residual, input, "residual and input");
    SDGAN_CHECK(residual->dim() == 4 && sizes_of(*residual) == call.output,
                "residual does not have the output's shape");
    call.residual = residual;
  }
  call.problem.residual_or_scale = residual || conv.output_scale != 1;
  return dispatch_forward(call, input, weight, bias);
}

Gradients convolution_backward(const Convolution& conv, const Tensor& grad_output, const Tensor& input,
                               const Tensor& weight, const Tensor& saved, Wanted wanted) {
  const ConvCall call = convolution_call(conv, input, weight);
  check_same_dtype(grad_output, input, "grad_output and input");
  SDGAN_CHECK(grad_output.dim() == 4 && sizes_of(grad_output) == call.output,
              "grad_output does not have the output's shape");
  if (conv.activation != Activation::none) {
    check_same_dtype(saved, input, "saved and input");
    SDGAN_CHECK(saved.dim() == 4 && sizes_of(saved) == call.output, "saved does not have the output's shape");
  }
  return dispatch_backward(call, grad_output, input, weight, saved, wanted);
}

}  // namespace sdgan
