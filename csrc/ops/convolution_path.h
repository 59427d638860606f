// Which kernel a convolution takes, and why: the one place where that is decided. No torch here.
#pragma once

#include <cstdint>
#include <functional>
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
  bool cuda = false;
  bool backward = false;
  bool need_input = false;  // backward: the gradient of the input is wanted
};

enum class ConvolutionKernel { library, direct, gemm };

struct ConvolutionPath {
  ConvolutionKernel kernel = ConvolutionKernel::library;
  std::string reason;

  const char* name() const {
    return kernel == ConvolutionKernel::direct ? "direct" : kernel == ConvolutionKernel::gemm ? "gemm" : "library";
  }
};

// SDGAN_CONV=direct|library|gemm asks for a path; auto, the default, follows the measurements of docs/ops/conv.md.
ConvolutionPath convolution_path(const ConvolutionCall& call);

// Whether torch lets tf32 stand for float32 in convolutions. Its flag is Python's to read (the stable ABI does not know
// it): ask_tf32 receives the question once. Without an answer, no.
void ask_tf32(std::function<bool()> question);
bool tf32_allowed();

}  // namespace sdgan
