// torch's own convolution of a tensor's device, as aten::convolution and aten::convolution_backward.
#pragma once

#include <dlfcn.h>

#include "ops/conv/convolution.h"

namespace sdgan {

// A C function of the torch that is running; null where it has none of that name.
template <class Function>
Function libtorch_cpu_function(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

// What aten takes beside the tensors; `padding` holds for both ends of an axis.
struct AtenConvolution {
  std::array<int64_t, 2> stride{1, 1};
  std::array<int64_t, 2> padding{};
  std::array<int64_t, 2> dilation{1, 1};
  bool transposed = false;
  std::array<int64_t, 2> output_padding{};
  int64_t groups = 1;
};

Tensor aten_convolution(const AtenConvolution& conv, const Tensor& input, const Tensor& weight,
                        const OptionalTensor& bias);
Gradients aten_convolution_backward(const AtenConvolution& conv, const Tensor& grad_output, const Tensor& input,
                                    const Tensor& weight, Wanted wanted);

}  // namespace sdgan
