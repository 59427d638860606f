// Which kernel a convolution takes, and why: the one place where that is decided. No torch here.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/scalar.h"
#include "kernels/winograd.h"

namespace sdgan {

// The three products of a convolution and its derivative.
enum class ConvolutionPass { forward, grad_input, grad_weight };

struct ConvolutionCall {
  bool transposed = false;
  std::vector<int64_t> input;   // [N, C, H, W]
  std::vector<int64_t> weight;  // as torch's
  std::vector<int64_t> output;  // [N, C, H, W]
  std::vector<int64_t> stride;
  std::vector<int64_t> sides;  // padding of conv2d, crop of conv_transpose2d: top, bottom, left, right
  std::vector<int64_t> dilation;
  int64_t groups = 1;
  DType dtype = DType::f32;
  bool cuda = false;
  bool channels_last = false;
  ConvolutionPass pass = ConvolutionPass::forward;
  bool need_input = false;  // backward: the gradient of the input is wanted
};

enum class ConvolutionKernel { library, direct, winograd, gemm };

struct ConvolutionPath {
  ConvolutionKernel kernel = ConvolutionKernel::library;
  std::string reason;
  double speedup = 0;          // estimate of winograd's over the library, by convolution_table.h; 0: there is none
  double multiplications = 0;  // that the kernel makes; of the direct algorithm for all others than winograd

  const char* name() const {
    constexpr const char* names[] = {"library", "direct", "winograd", "gemm"};
    return names[static_cast<int>(kernel)];
  }
};

// SDGAN_CONV=direct|winograd|library|gemm asks for a path; auto, the default, follows measurements: those of
// docs/ops/conv.md, and convolution_table.h.
ConvolutionPath convolution_path(const ConvolutionCall& call);

// The geometry of a product, which Winograd's kernels and the choice of them start from.
WinogradParams winograd_geometry(bool transposed, ConvolutionPass pass, const std::vector<int64_t>& input,
                                 const std::vector<int64_t>& weight, const std::vector<int64_t>& output,
                                 const std::vector<int64_t>& stride, const std::vector<int64_t>& sides);

// Whether torch lets tf32 stand for float32 in convolutions. Its flag is Python's to read (the stable ABI does not know
// it): ask_tf32 receives the question once. Without an answer, no.
void ask_tf32(std::function<bool()> question);
bool tf32_allowed();

}  // namespace sdgan
