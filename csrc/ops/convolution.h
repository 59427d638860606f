// What conv2d and conv_transpose2d share in the binding: both are one linear map and its transpose.
#pragma once

#include "kernels/activation.h"
#include "ops/common.h"

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

// (output, preactivation); see csrc/ops/library.cpp.
std::tuple<Tensor, Tensor> convolution(const Convolution& conv, const Tensor& input, const Tensor& weight,
                                       const OptionalTensor& bias);

// (grad_input, grad_weight, grad_bias), [0] where not wanted.
std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Convolution& conv, const Tensor& grad_output,
                                                        const Tensor& input, const Tensor& weight,
                                                        const Tensor& saved, Wanted wanted);

}  // namespace sdgan
