// oneDNN or cuDNN through aten::convolution, then one pass for the activation where there is one; on CUDA also for the
// bias, which cuDNN would leave to a pass of its own. The library knows symmetric padding only; an asymmetric side
// costs a copy of the image side (conv2d: the input is extended by zeros; conv_transpose2d: the output is trimmed in
// the pass of the activation).
#include <algorithm>
#include <array>

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

IntList list(const std::array<int64_t, 2>& pair) { return {pair[0], pair[1]}; }

// ---------------------------------------------------------------------------------------------- the library
Tensor aten_convolution(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, const IntList& stride,
                        const IntList& padding, const IntList& dilation, bool transposed,
                        const IntList& output_padding, int64_t groups) {
  using torch::stable::detail::from;
  std::array<StableIValue, 9> stack{from(input),   from(weight),     from(bias),           from(stride), from(padding),
                                    from(dilation), from(transposed), from(output_padding), from(groups)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

std::array<Tensor, 3> aten_convolution_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                                                const IntList& bias_sizes, const IntList& stride,
                                                const IntList& padding, const IntList& dilation, bool transposed,
                                                const IntList& output_padding, int64_t groups, Wanted wanted) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  const std::array<bool, 3> mask{wanted.input, wanted.weight, wanted.bias};
  std::array<StableIValue, 11> stack{from(grad_output),
                                     from(input),
                                     from(weight),
                                     from(std::optional<IntList>(bias_sizes)),
                                     from(stride),
                                     from(padding),
                                     from(dilation),
                                     from(transposed),
                                     from(output_padding),
                                     from(groups),
                                     from(torch::headeronly::HeaderOnlyArrayRef<bool>(mask))};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2])};
}

// What the library can do of a convolution, and what is left: zeros around the input of conv2d, or rows and columns to
// drop from the output of conv_transpose2d.
struct LibraryCall {
  IntList padding{0, 0};
  IntList output_padding{0, 0};
  Sizes rest{};  // top, bottom, left, right

  bool exact() const { return rest == Sizes{}; }
};

LibraryCall library_call(const Convolution& conv) {
  LibraryCall call;
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t begin = conv.sides[2 * axis], end = conv.sides[2 * axis + 1];
    const int64_t below = std::max(conv.stride[axis], conv.dilation[axis]);  // torch: output_padding < below
    if (conv.transposed && end < begin && begin - end < below) {
      call.padding[axis] = begin;
      call.output_padding[axis] = begin - end;
    } else {
      call.padding[axis] = std::max<int64_t>(0, std::min(begin, end));
      call.output_padding[axis] = std::max<int64_t>(0, -end);
    }
    call.rest[2 * axis] = begin - call.padding[axis];
    call.rest[2 * axis + 1] = end - call.padding[axis] + call.output_padding[axis];
  }
  return call;
}

Tensor extended(const Tensor& t, const Sizes& rest, bool channels_last) {
  Tensor out = empty_with_border(t, rest, channels_last);
  Tensor inside = window(out, rest);
  torch::stable::copy_(inside, t);
  return out;
}

const char* supports(const ConvQuery&) { return nullptr; }
Estimate estimate(const ConvQuery&) { return {true, 1, 1}; }

Outputs forward(const ConvCall& call, const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  const Convolution& conv = call.conv;
  const bool channels_last = call.problem.channels_last, cuda = call.problem.cuda;
  const LibraryCall library = library_call(conv);
  const bool trims = conv.transposed && !library.exact();
  const Tensor image = conv.transposed || library.exact() ? input : extended(input, library.rest, channels_last);
  const auto fused = cuda ? std::nullopt
                          : onednn_convolution(call, image, weight, bias, library.padding, library.output_padding);
  const Activation activation = fused && onednn_fuses(conv.activation) ? Activation::none : conv.activation;
  const Tensor raw = with_format(
      fused ? *fused
            : aten_convolution(image, weight, cuda ? std::nullopt : bias, list(conv.stride), library.padding,
                               list(conv.dilation), conv.transposed, library.output_padding, conv.groups),
      channels_last);
  if (!trims && activation == Activation::none && !(cuda && bias)) return {raw, empty_none(raw)};

  const Tensor source = trims ? window(raw, library.rest) : raw;
  const bool keeps = derivative_needs_input(activation);
  const auto fresh = [&] { return empty_image(sizes_of(source), source, channels_last); };
  Tensor output = trims || keeps ? fresh() : raw;
  Tensor preactivation = !keeps ? empty_none(raw) : trims ? fresh() : raw;

  ConvEpilogueParams p;
  p.shape = epilogue_shape(source, channels_last);
  p.dtype = dtype_of(source, "input");
  p.activation = activation;
  p.negative_slope = conv.negative_slope;
  p.input = source.const_data_ptr();
  p.output = output.mutable_data_ptr();
  p.preactivation = keeps ? preactivation.mutable_data_ptr() : nullptr;
  if (cuda) {
    OptionalTensor vector;
    if (bias) vector = to_contiguous(*bias);
    p.bias = pointer(vector);
    if (source.numel() > 0) launch(source, [&](CudaStream stream) { return launch_conv_epilogue(p, stream); });
  } else {
    parallel_slices(p.shape.slice_count(), p.shape.slice_elements(),
                    [&](int64_t begin, int64_t end) { conv_epilogue(p, begin, end); });
  }
  return {output, preactivation};
}

Gradients backward(const ConvCall& call, const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                   const Tensor& saved, Wanted wanted) {
  const Convolution& conv = call.conv;
  const bool channels_last = call.problem.channels_last, cuda = call.problem.cuda;
  const LibraryCall library = library_call(conv);
  const bool trims = conv.transposed && !library.exact();

  Tensor grad = grad_output;
  Tensor grad_bias = empty_none(input);
  if (conv.activation != Activation::none || (cuda && (trims || wanted.bias))) {
    std::tie(grad, grad_bias) =
        before_activation(conv, grad_output, saved, trims ? library.rest : Sizes{}, wanted.bias, channels_last);
    wanted.bias = false;
  } else if (trims) {
    grad = extended(grad_output, library.rest, channels_last);
  }

  Tensor grad_input = empty_none(input), grad_weight = empty_none(input);
  if (wanted.input || wanted.weight || wanted.bias) {
    const Tensor image = conv.transposed || library.exact() ? input : extended(input, library.rest, channels_last);
    auto grads = aten_convolution_backward(grad, image, weight, {grad_output.size(1)}, list(conv.stride), library.padding,
                                           list(conv.dilation), conv.transposed, library.output_padding, conv.groups, wanted);
    if (wanted.input) {
      grad_input = conv.transposed || library.exact() ? grads[0] : window(grads[0], library.rest);
      grad_input = with_format(grad_input, channels_last);
    }
    if (wanted.weight) grad_weight = with_format(grads[1], is_channels_last(weight));
    if (wanted.bias) grad_bias = grads[2];
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

const Backend kLibraryBackend{"library", supports, estimate, direct_multiplications, forward, backward};

}  // namespace sdgan
