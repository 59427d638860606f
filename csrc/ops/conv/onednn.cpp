// oneDNN's convolution with the activation in it, as torch.compile calls it: a pass over the output less, and no search
// for an operator by name. For the activations of which oneDNN keeps a NaN; its relu makes 0 of one.
#include <dlfcn.h>

#include "kernels/isa.h"
#include "ops/conv/convolution.h"

namespace sdgan {
namespace {

// Of libtorch_cpu; a torch that was built without oneDNN has none.
template <class Function>
Function find(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

using Forward = AOTITorchError (*)(AtenTensorHandle input, AtenTensorHandle weight, AtenTensorHandle* bias,
                                   const int64_t* padding, int64_t, const int64_t* stride, int64_t,
                                   const int64_t* dilation, int64_t, int64_t groups, const char* activation,
                                   const double** arguments, int64_t, const char** algorithm, AtenTensorHandle* output);
using TransposedForward = AOTITorchError (*)(AtenTensorHandle input, AtenTensorHandle weight, AtenTensorHandle* bias,
                                             const int64_t* padding, int64_t, const int64_t* output_padding, int64_t,
                                             const int64_t* stride, int64_t, const int64_t* dilation, int64_t,
                                             int64_t groups, const char* activation, const double** arguments, int64_t,
                                             const char** algorithm, AtenTensorHandle* output);

bool serves(const Convolution& conv, const Tensor& input, const Tensor& weight, const IntList& output_padding) {
  const int64_t channels = conv.transposed ? weight.size(1) * conv.groups : weight.size(0);
  // It computes 16 channels at a time, and the activation of those that are not there as well.
  if (input.numel() == 0 || channels < 16) return false;
  for (int axis = 0; axis < 2; ++axis) {
    if (output_padding[axis] >= conv.stride[axis]) return false;
  }
  if (input.scalar_type() == ScalarType::BFloat16) return isa_usable(Isa::avx512);  // as torch decides
  // float32, transposed: three to five times slower than torch's own call for some shapes.
  return input.scalar_type() == ScalarType::Float && !conv.transposed && onednn_fuses(conv.activation);
}

}  // namespace

bool onednn_fuses(Activation activation) {
  return activation == Activation::leaky_relu || activation == Activation::tanh;
}

std::optional<Tensor> onednn_convolution(const ConvCall& call, const Tensor& input, const Tensor& weight,
                                         const OptionalTensor& bias, const IntList& padding,
                                         const IntList& output_padding) {
  const Convolution& conv = call.conv;
  const bool channels_last = call.problem.channels_last;
  static const auto forward = find<Forward>("aoti_torch_cpu_mkldnn__convolution_pointwise");
  static const auto transposed = find<TransposedForward>("aoti_torch_cpu_mkldnn__convolution_transpose_pointwise");
  if (forward == nullptr || transposed == nullptr || !serves(conv, input, weight, output_padding)) return std::nullopt;

  const Tensor image = dense(input, channels_last), filter = dense(weight, channels_last);
  const OptionalTensor vector = bias ? OptionalTensor(to_contiguous(*bias)) : std::nullopt;
  AtenTensorHandle of_bias = vector ? vector->get() : nullptr;
  AtenTensorHandle* bias_pointer = vector ? &of_bias : nullptr;
  const char* activation = conv.activation == Activation::leaky_relu ? "leaky_relu"
                           : conv.activation == Activation::tanh     ? "tanh"
                                                                     : "none";
  const double* slope = &conv.negative_slope;
  const int64_t arguments = conv.activation == Activation::leaky_relu ? 1 : 0;
  const char* algorithm = "";
  const int64_t *p = padding.data(), *o = output_padding.data(), *s = conv.stride.data(), *d = conv.dilation.data();
  AtenTensorHandle output;
  const AOTITorchError error =
      conv.transposed ? transposed(image.get(), filter.get(), bias_pointer, p, 2, o, 2, s, 2, d, 2, conv.groups,
                                   activation, &slope, arguments, &algorithm, &output)
                      : forward(image.get(), filter.get(), bias_pointer, p, 2, s, 2, d, 2, conv.groups, activation,
                                &slope, arguments, &algorithm, &output);
  if (error != AOTI_TORCH_SUCCESS) return std::nullopt;
  return Tensor(output);
}

}  // namespace sdgan
