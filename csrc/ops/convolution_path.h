// Which of the two paths a convolution takes, and why: the one place where that is decided. No torch here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/scalar.h"

namespace sdgan {

struct ConvolutionCall {
  bool transposed = false;
  std::vector<int64_t> input;   // [N, C, H, W]
  std::vector<int64_t> weight;  // as torch's
  int64_t groups = 1;
  DType dtype = DType::f32;
  bool backward = false;
  bool need_input = false;  // backward: the gradient of the input is wanted
};

struct ConvolutionPath {
  bool direct = false;
  std::string reason;
};

// SDGAN_CONV=direct|library asks for a path; auto, the default, follows the measurements of docs/ops/conv.md.
ConvolutionPath convolution_path(const ConvolutionCall& call);

}  // namespace sdgan
