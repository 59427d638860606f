// What conv2d and conv_transpose2d share in the binding: both are one linear map and its transpose.
//
//   convolution.cpp     checks the arguments and derives a ConvCall from them, once
//   dispatch.cpp        chooses a backend of backend.h for each pass, and runs it
//   small_channel.cpp   kernels/conv/small_channel.h
//   winograd.cpp        kernels/conv/winograd/, CPU alone
//   implicit_gemm.cpp   kernels/conv/implicit_gemm.h, CUDA alone
//   library.cpp         oneDNN or cuDNN: through aten.cpp, or onednn.cpp with the activation inside, where it can
//   kept_filters.cpp    transformed filters of weights that do not change
//   epilogue.cpp        the passes beside a product, kernels/conv/epilogue.h
#pragma once

#include <array>

#include "kernels/activation.h"
#include "kernels/conv/problem.h"
#include "ops/common.h"

namespace sdgan {

using IntList = std::vector<int64_t>;
using Sizes = std::array<int64_t, 4>;  // n, c, h, w; or top, bottom, left, right

// The arguments of an op.
struct Convolution {
  bool transposed = false;
  std::array<int64_t, 2> stride{1, 1};
  Sizes sides{};  // padding of conv2d, crop of conv_transpose2d
  std::array<int64_t, 2> dilation{1, 1};
  int64_t groups = 1;
  Activation activation = Activation::none;
  double negative_slope = 0;
  double output_scale = 1;  // of the forward pass
};

struct ConvCall {
  Convolution conv;
  ConvProblem problem;
  Sizes input, output;
  bool keeps_filter = false;               // what is made of the weight, for the next call with it: kept_filters.h
  OptionalTensor residual = std::nullopt;  // of the forward pass, as the output
};

struct Wanted {
  bool input = false;
  bool weight = false;
  bool bias = false;
};

using Outputs = std::tuple<Tensor, Tensor>;            // output, preactivation ([0] except for silu)
using Gradients = std::tuple<Tensor, Tensor, Tensor>;  // of input, weight and bias, [0] where not wanted

// The arguments as they come from the dispatcher; raises where the lists have wrong lengths.
Convolution convolution_arguments(bool transposed, const IntList& stride, const IntList& sides, const IntList& dilation,
                                  int64_t groups, int64_t activation, double negative_slope);

// act(output_scale (convolution + bias + residual)).
Outputs convolution(const Convolution& conv, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                    const OptionalTensor& residual = std::nullopt);
// Of act(convolution + bias) alone.
Gradients convolution_backward(const Convolution& conv, const Tensor& grad_output, const Tensor& input,
                               const Tensor& weight, const Tensor& saved, Wanted wanted);

// The same, checked, by the backends that dispatch.h chooses.
Outputs dispatch_forward(const ConvCall& call, const Tensor& input, const Tensor& weight, const OptionalTensor& bias);
Gradients dispatch_backward(const ConvCall& call, const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                            const Tensor& saved, Wanted wanted);

// act(convolution + bias) by oneDNN, without the activations that it does not fuse; or nothing, where it would not pay.
bool onednn_fuses(Activation activation);
std::optional<Tensor> onednn_convolution(const ConvCall& call, const Tensor& input, const Tensor& weight,
                                         const OptionalTensor& bias, const std::array<int64_t, 2>& padding,
                                         const std::array<int64_t, 2>& output_padding);

// As Tensor::suggest_memory_format: channels_last when the strides say so; ambiguous ones are contiguous.
bool is_channels_last(const Tensor& t);
// Whether t has exactly the strides of a fresh tensor of that format.
bool has_format(const Tensor& t, bool channels_last);
Tensor empty_image(const Sizes& sizes, const Tensor& like, bool channels_last);
Tensor dense(const Tensor& t, bool channels_last);
Sizes sizes_of(const Tensor& t);

}  // namespace sdgan
