// On the CPU by the C functions that torch.compile's ahead-of-time output calls: a call of the dispatcher by name looks
// the operator up and boxes its arguments, which takes longer than the convolution of a pixel. Elsewhere, and in a
// torch that lacks them, by the dispatcher.
#include "ops/conv/aten.h"

namespace sdgan {
namespace {

using Forward = AOTITorchError (*)(AtenTensorHandle input, AtenTensorHandle weight, AtenTensorHandle* bias,
                                   const int64_t* stride, int64_t, const int64_t* padding, int64_t,
                                   const int64_t* dilation, int64_t, int32_t transposed, const int64_t* output_padding,
                                   int64_t, int64_t groups, AtenTensorHandle* output);
using Backward = AOTITorchError (*)(AtenTensorHandle grad_output, AtenTensorHandle input, AtenTensorHandle weight,
                                    const int64_t** bias_sizes, int64_t, const int64_t* stride, int64_t,
                                    const int64_t* padding, int64_t, const int64_t* dilation, int64_t,
                                    int32_t transposed, const int64_t* output_padding, int64_t, int64_t groups,
                                    const int32_t* mask, int64_t, AtenTensorHandle* grad_input,
                                    AtenTensorHandle* grad_weight, AtenTensorHandle* grad_bias);

IntList list(const std::array<int64_t, 2>& pair) { return {pair[0], pair[1]}; }

// A gradient that was not wanted has no tensor.
Tensor owned(AtenTensorHandle handle, const Tensor& like) { return handle ? Tensor(handle) : empty_none(like); }

}  // namespace

Tensor aten_convolution(const AtenConvolution& conv, const Tensor& input, const Tensor& weight,
                        const OptionalTensor& bias) {
  static const auto forward = libtorch_cpu_function<Forward>("aoti_torch_cpu_convolution");
  if (forward != nullptr && !input.is_cuda()) {
    AtenTensorHandle of_bias = bias ? bias->get() : nullptr;
    AtenTensorHandle output;
    TORCH_ERROR_CODE_CHECK(forward(input.get(), weight.get(), bias ? &of_bias : nullptr, conv.stride.data(), 2,
                                   conv.padding.data(), 2, conv.dilation.data(), 2, conv.transposed,
                                   conv.output_padding.data(), 2, conv.groups, &output));
    return Tensor(output);
  }
  using torch::stable::detail::from;
  std::array<StableIValue, 9> stack{from(input),
                                    from(weight),
                                    from(bias),
                                    from(list(conv.stride)),
                                    from(list(conv.padding)),
                                    from(list(conv.dilation)),
                                    from(conv.transposed),
                                    from(list(conv.output_padding)),
                                    from(conv.groups)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Gradients aten_convolution_backward(const AtenConvolution& conv, const Tensor& grad_output, const Tensor& input,
                                    const Tensor& weight, Wanted wanted) {
  static const auto backward = libtorch_cpu_function<Backward>("aoti_torch_cpu_convolution_backward");
  const int64_t bias_size = grad_output.size(1);
  if (backward != nullptr && !input.is_cuda()) {
    const int64_t* bias_sizes = &bias_size;
    const std::array<int32_t, 3> mask{wanted.input, wanted.weight, wanted.bias};
    AtenTensorHandle grads[3] = {};
    TORCH_ERROR_CODE_CHECK(backward(grad_output.get(), input.get(), weight.get(), &bias_sizes, 1, conv.stride.data(), 2,
                                    conv.padding.data(), 2, conv.dilation.data(), 2, conv.transposed,
                                    conv.output_padding.data(), 2, conv.groups, mask.data(), 3, &grads[0], &grads[1],
                                    &grads[2]));
    return {owned(grads[0], input), owned(grads[1], input), owned(grads[2], input)};
  }
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  const std::array<bool, 3> mask{wanted.input, wanted.weight, wanted.bias};
  std::array<StableIValue, 11> stack{from(grad_output),
                                     from(input),
                                     from(weight),
                                     from(std::optional<IntList>(IntList{bias_size})),
                                     from(list(conv.stride)),
                                     from(list(conv.padding)),
                                     from(list(conv.dilation)),
                                     from(conv.transposed),
                                     from(list(conv.output_padding)),
                                     from(conv.groups),
                                     from(torch::headeronly::HeaderOnlyArrayRef<bool>(mask))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2])};
}

}  // namespace sdgan
