// oneDNN's convolution with the activation in it, as torch.compile calls it: one pass over the output less, and no
// search for an operator by name. Only for the activations in which oneDNN keeps a NaN; its relu turns a NaN into 0.
#include "kernels/isa.h"
#include "ops/conv/aten.h"

namespace sdgan {
namespace {

using Forward = AOTITorchError (*)(AtenTensorHandle input, AtenTensorHandle weight, AtenTensorHandle* bias,
                                   const int64_t* padding, int64_t, const int64_t* stride, int64_t,
                                   const int64_t* dilation, int64_t, int64_t groups, const char* activation,
                                   const double** arguments, int64_t, const char** algorithm, AtenTensorHandle* output);
using TransposedForward = AOTITorchError (*)(AtenTensorHandle input, AtenTensorHandle weight, AtenTensorHandle* bias,
                                             const int64_t* padding, int64_t, const int64_t* output_padding, int64_t,
                                             const int64_t* stride, int64_t, const int64_t* dilation, int64_t,
                                             int64_t groups, const char* activation, const double** arguments, int64_t,
                                             const char** algorithm, AtenTensorHandle* output);

// Whether a call of oneDNN is possible, and not slower than aten's.
bool serves(const Convolution& conv, const Tensor& input, const Tensor& weight,
            const std::array<int64_t, 2>& output_padding) {
  const int64_t channels = conv.transposed ? weight.size(1) * conv.groups : weight.size(0);
  // It computes 16 output channels at a time, also where there are fewer.
  if (input.numel() == 0 || channels < 16) return false;
  for (int axis = 0; axis < 2; ++axis) {
    if (output_padding[axis] >= conv.stride[axis]) return false;
  }
  if (input.scalar_type() == ScalarType::BFloat16) return isa_usable(Isa::avx512);  // as torch decides
  // float32, transposed: three to five times slower than torch's own call for some shapes.
  return input.scalar_type() == ScalarType::Float && !conv.transposed && onednn_fuses(conv.activation);
}

struct FusedActivation {
  const char* name;
  int64_t arguments;  // how many: leaky_relu has its negative_slope
};

FusedActivation fused_activation(Activation activation) {
  switch (activation) {
    case Activation::leaky_relu:
      return {"leaky_relu", 1};
    case Activation::tanh:
      return {"tanh", 0};
    default:
      return {"none", 0};
  }
}

}  // namespace

bool onednn_fuses(Activation activation) {
  return activation == Activation::leaky_relu || activation == Activation::tanh;
}

std::optional<Tensor> onednn_convolution(const ConvCall& call, const Tensor& input, const Tensor& weight,
                                         const OptionalTensor& bias, const std::array<int64_t, 2>& padding,
                                         const std::array<int64_t, 2>& output_padding) {
  static const auto forward = libtorch_cpu_function<Forward>("aoti_torch_cpu_mkldnn__convolution_pointwise");
  static const auto transposed_forward =
      libtorch_cpu_function<TransposedForward>("aoti_torch_cpu_mkldnn__convolution_transpose_pointwise");
  const Convolution& conv = call.conv;
  if (forward == nullptr || transposed_forward == nullptr) return std::nullopt;
  if (!serves(conv, input, weight, output_padding)) return std::nullopt;

  const bool channels_last = call.problem.channels_last;
  const Tensor dense_input = dense(input, channels_last), dense_weight = dense(weight, channels_last);
  OptionalTensor dense_bias;
  if (bias) dense_bias = to_contiguous(*bias);
  AtenTensorHandle bias_handle = dense_bias ? dense_bias->get() : nullptr;
  AtenTensorHandle* optional_bias = dense_bias ? &bias_handle : nullptr;
  const FusedActivation activation = fused_activation(conv.activation);
  const double* negative_slope = &conv.negative_slope;
  const char* algorithm = "";
  AtenTensorHandle output;
  AOTITorchError error;
  if (conv.transposed) {
    error = transposed_forward(dense_input.get(), dense_weight.get(), optional_bias, padding.data(), 2,
                               output_padding.data(), 2, conv.stride.data(), 2, conv.dilation.data(), 2, conv.groups,
                               activation.name, &negative_slope, activation.arguments, &algorithm, &output);
  } else {
    error = forward(dense_input.get(), dense_weight.get(), optional_bias, padding.data(), 2, conv.stride.data(), 2,
                    conv.dilation.data(), 2, conv.groups, activation.name, &negative_slope, activation.arguments,
                    &algorithm, &output);
  }
  if (error != AOTI_TORCH_SUCCESS) return std::nullopt;
  return Tensor(output);
}

}  // namespace sdgan
