// What conv2d and conv_transpose2d share in the binding: both are one linear map and its transpose.
//
//   convolution.cpp           checks, and follows convolution_path.h
//   convolution_library.cpp   oneDNN, or cuDNN, through aten
//   convolution_onednn.cpp    oneDNN with the activation inside, where it can
//   convolution_thin.cpp      kernels/thin_conv.h
//   convolution_winograd.cpp  kernels/winograd.h, CPU alone
//   convolution_gemm.cpp      kernels/conv_gemm.h, CUDA alone
//   convolution_epilogue.cpp  the passes beside a product, kernels/conv_epilogue.h
#pragma once

#include "kernels/activation.h"
#include "ops/common.h"
#include "ops/convolution_path.h"

namespace sdgan {

using IntList = std::vector<int64_t>;

struct Convolution {
  bool transposed = false;
  IntList stride;    // [2]
  IntList sides;     // [4] padding of conv2d, crop of conv_transpose2d: top, bottom, left, right
  IntList dilation;  // [2]
  int64_t groups = 1;
  Activation activation = Activation::none;
  double negative_slope = 0;
};

struct Wanted {
  bool input = false;
  bool weight = false;
  bool bias = false;
};

using Outputs = std::tuple<Tensor, Tensor>;            // output, preactivation ([0] except for silu)
using Gradients = std::tuple<Tensor, Tensor, Tensor>;  // of input, weight and bias, [0] where not wanted

Outputs convolution(const Convolution& conv, const Tensor& input, const Tensor& weight, const OptionalTensor& bias);
Gradients convolution_backward(const Convolution& conv, const Tensor& grad_output, const Tensor& input,
                               const Tensor& weight, const Tensor& saved, Wanted wanted);

// The paths. channels_last is the layout of the output and of the input's gradient.
Outputs library_convolution(const Convolution& conv, const Tensor& input, const Tensor& weight,
                            const OptionalTensor& bias, bool channels_last);
Gradients library_convolution_backward(const Convolution& conv, const Tensor& grad_output, const Tensor& input,
                                       const Tensor& weight, const Tensor& saved, Wanted wanted, bool channels_last);
// act(convolution + bias) by oneDNN, without the activations that it does not fuse; or nothing, where it would not pay.
bool onednn_fuses(Activation activation);
std::optional<Tensor> onednn_convolution(const Convolution& conv, const Tensor& input, const Tensor& weight,
                                         const OptionalTensor& bias, const IntList& padding,
                                         const IntList& output_padding, bool channels_last);
Outputs thin_convolution(const Convolution& conv, const Tensor& input, const Tensor& weight,
                         const OptionalTensor& bias, bool channels_last);
Gradients thin_convolution_backward(const Convolution& conv, const Tensor& grad_output, const Tensor& input,
                                    const Tensor& weight, const Tensor& saved, Wanted wanted, bool channels_last);
Outputs winograd_convolution(const Convolution& conv, const Tensor& input, const Tensor& weight,
                             const OptionalTensor& bias, bool channels_last);
// Each gradient by Winograd's kernel or by the library's.
Gradients winograd_convolution_backward(const Convolution& conv, const Tensor& grad_output, const Tensor& input,
                                        const Tensor& weight, const Tensor& saved, Wanted wanted, Wanted by_winograd,
                                        bool channels_last);
Outputs gemm_convolution(const Convolution& conv, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                         bool channels_last);
Gradients gemm_convolution_backward(const Convolution& conv, const Tensor& grad_output, const Tensor& input,
                                    const Tensor& weight, const Tensor& saved, Wanted wanted, bool channels_last);

// As Tensor::suggest_memory_format: channels_last when the strides say so; ambiguous ones are contiguous.
bool is_channels_last(const Tensor& t);
// Whether t has exactly the strides of a fresh tensor of that format.
bool has_format(const Tensor& t, bool channels_last);
Tensor empty_image(const IntList& sizes, const Tensor& like, bool channels_last);
Tensor dense(const Tensor& t, bool channels_last);
IntList sizes_of(const Tensor& t);
IntList output_sizes(const Convolution& conv, const Tensor& input, const Tensor& weight);

}  // namespace sdgan
