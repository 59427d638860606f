// oneDNN or cuDNN through aten::convolution, then one pass for residual, scale and activation where there are some; on
// CUDA also for the bias, which cuDNN would leave to a pass of its own. The library has one padding for both ends of an
// axis; other sides cost a copy of the image (conv2d: the input is extended by zeros; conv_transpose2d: the output is
// trimmed in the pass of the activation).
#include <algorithm>

#include "ops/conv/aten.h"
#include "ops/conv/backend.h"
#include "ops/conv/epilogue.h"

namespace sdgan {
namespace {

// t with exactly the strides of a fresh tensor of that format, which is what the fake kernel promises.
Tensor with_format(const Tensor& t, bool channels_last) {
  if (has_format(t, channels_last)) return t;
  Tensor out = empty_image(sizes_of(t), t, channels_last);
  torch::stable::copy_(out, t);
  return out;
}

// ------------------------------------------------------------------------------------------------- the sides
// The four sides as the library's arguments, and what is left of them: zeros around the input of conv2d, or rows and
// columns to drop from the output of conv_transpose2d.
struct LibrarySides {
  std::array<int64_t, 2> padding{};
  std::array<int64_t, 2> output_padding{};
  Sizes rest{};  // top, bottom, left, right
  bool extends_input = false;
  bool trims_output = false;
};

LibrarySides library_sides(const Convolution& conv) {
  LibrarySides sides;
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t begin = conv.sides[2 * axis], end = conv.sides[2 * axis + 1];
    const int64_t limit = std::max(conv.stride[axis], conv.dilation[axis]);  // torch: output_padding is below it
    if (conv.transposed && end < begin && begin - end < limit) {
      sides.padding[axis] = begin;
      sides.output_padding[axis] = begin - end;
    } else {
      sides.padding[axis] = std::max<int64_t>(0, std::min(begin, end));
      sides.output_padding[axis] = std::max<int64_t>(0, -end);
    }
    sides.rest[2 * axis] = begin - sides.padding[axis];
    sides.rest[2 * axis + 1] = end - sides.padding[axis] + sides.output_padding[axis];
  }
  const bool exact = sides.rest == Sizes{};
  sides.extends_input = !exact && !conv.transposed;
  sides.trims_output = !exact && conv.transposed;
  return sides;
}

// A copy of t inside a border of zeros.
Tensor extended(const Tensor& t, const Sizes& border, bool channels_last) {
  Tensor out = empty_with_border(t, border, channels_last);
  Tensor inside = window(out, border);
  torch::stable::copy_(inside, t);
  return out;
}

AtenConvolution aten_arguments(const Convolution& conv, const LibrarySides& sides) {
  return {conv.stride, sides.padding, conv.dilation, conv.transposed, sides.output_padding, conv.groups};
}

Tensor library_input(const ConvCall& call, const LibrarySides& sides, const Tensor& input) {
  return sides.extends_input ? extended(input, sides.rest, call.problem.channels_last) : input;
}

// ------------------------------------------------------------------------------------------------ the passes
struct Product {
  Tensor output;          // convolution, with the bias on the CPU
  Activation activation;  // that is left to apply
};

Product product(const ConvCall& call, const LibrarySides& sides, const Tensor& image, const Tensor& weight,
                const OptionalTensor& bias) {
  const Convolution& conv = call.conv;
  if (call.problem.residual_or_scale && conv.activation != Activation::none) {
    ConvCall linear = call;  // the library would take the activation before the residual is added
    linear.conv.activation = Activation::none;
    return {product(linear, sides, image, weight, bias).output, conv.activation};
  }
  if (call.problem.cuda)
    return {aten_convolution(aten_arguments(conv, sides), image, weight, std::nullopt), conv.activation};
  const std::optional<Tensor> fused =
      onednn_convolution(call, image, weight, bias, sides.padding, sides.output_padding);
  if (!fused) return {aten_convolution(aten_arguments(conv, sides), image, weight, bias), conv.activation};
  return {*fused, onednn_fuses(conv.activation) ? Activation::none : conv.activation};
}

// act(scale (source + bias + residual)). Where the preactivation is not kept, the output overwrites source if it may;
// else it is source.
Outputs activated(const ConvCall& call, const Tensor& source, bool may_overwrite, Activation activation,
                  const OptionalTensor& cuda_bias) {
  const bool channels_last = call.problem.channels_last;
  const bool keeps = derivative_needs_input(activation);
  const auto fresh = [&] { return empty_image(sizes_of(source), source, channels_last); };
  Tensor output = may_overwrite && !keeps ? source : fresh();
  Tensor preactivation = empty_none(source);
  if (keeps) preactivation = may_overwrite ? source : fresh();

  ConvEpilogueParams p;
  p.shape = epilogue_shape(source, channels_last);
  p.dtype = call.problem.dtype;
  p.activation = activation;
  p.negative_slope = call.conv.negative_slope;
  p.output_scale = call.conv.output_scale;
  OptionalTensor residual;
  if (call.residual) residual = dense(*call.residual, channels_last);
  p.residual = pointer(residual);
  p.input = source.const_data_ptr();
  p.output = output.mutable_data_ptr();
  p.preactivation = keeps ? preactivation.mutable_data_ptr() : nullptr;
  if (!call.problem.cuda) {
    parallel_slices(p.shape.slice_count(), p.shape.slice_elements(),
                    [&](int64_t begin, int64_t end) { conv_epilogue(p, begin, end); });
  } else if (source.numel() > 0) {
    OptionalTensor dense_bias;
    if (cuda_bias) dense_bias = to_contiguous(*cuda_bias);
    p.bias = pointer(dense_bias);
    launch(source, [&](CudaStream stream) { return launch_conv_epilogue(p, stream); });
  }
  return {output, preactivation};
}

const char* supports(const ConvQuery&) { return nullptr; }
Estimate estimate(const ConvQuery&) { return {true, 1, 1}; }

Outputs forward(const ConvCall& call, const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  const bool channels_last = call.problem.channels_last;
  const LibrarySides sides = library_sides(call.conv);
  const auto [computed, activation] = product(call, sides, library_input(call, sides, input), weight, bias);
  const Tensor raw = with_format(computed, channels_last);
  const bool linear = activation == Activation::none && !call.problem.residual_or_scale;
  const bool adds_bias = call.problem.cuda && bias;
  if (!sides.trims_output && linear && !adds_bias) return {raw, empty_none(raw)};
  const Tensor source = sides.trims_output ? window(raw, sides.rest) : raw;
  return activated(call, source, !sides.trims_output, activation, bias);
}

Gradients backward(const ConvCall& call, const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                   const Tensor& saved, Wanted wanted) {
  const Convolution& conv = call.conv;
  const bool channels_last = call.problem.channels_last, cuda = call.problem.cuda;
  const LibrarySides sides = library_sides(conv);

  // The gradient of the library's own output: before the activation, and before the output was trimmed.
  Tensor grad = grad_output;
  Tensor grad_bias = empty_none(input);
  if (conv.activation != Activation::none || (cuda && (sides.trims_output || wanted.bias))) {
    const Sizes border = sides.trims_output ? sides.rest : Sizes{};
    std::tie(grad, grad_bias) = before_activation(conv, grad_output, saved, border, wanted.bias, channels_last);
    wanted.bias = false;
  } else if (sides.trims_output) {
    grad = extended(grad_output, sides.rest, channels_last);
  }

  Tensor grad_input = empty_none(input), grad_weight = empty_none(input);
  if (wanted.input || wanted.weight || wanted.bias) {
    const Tensor image = library_input(call, sides, input);
    const auto [image_grad, library_weight_grad, library_bias_grad] =
        aten_convolution_backward(aten_arguments(conv, sides), grad, image, weight, wanted);
    if (wanted.input) {
      grad_input = with_format(sides.extends_input ? window(image_grad, sides.rest) : image_grad, channels_last);
    }
    if (wanted.weight) grad_weight = with_format(library_weight_grad, is_channels_last(weight));
    if (wanted.bias) grad_bias = library_bias_grad;
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

const Backend kLibraryBackend{"library", supports, estimate, direct_multiplications, forward, backward};

}  // namespace sdgan
