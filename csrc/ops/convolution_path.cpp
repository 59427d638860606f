#include "ops/convolution_path.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "kernels/thin_conv.h"

namespace sdgan {

namespace {

constexpr auto kLibrary = ConvolutionKernel::library;
constexpr auto kDirect = ConvolutionKernel::direct;
constexpr auto kGemm = ConvolutionKernel::gemm;

std::function<bool()>& tf32_question() {
  static auto* question = new std::function<bool()>;  // never destroyed: it holds an object of Python
  return *question;
}

}  // namespace

ConvolutionPath convolution_path(const ConvolutionCall& call) {
  const char* variable = std::getenv("SDGAN_CONV");
  const std::string asked = variable ? variable : "auto";
  const int64_t in = call.input[1], out = call.transposed ? call.weight[1] : call.weight[0];
  const int64_t taps = call.weight[2] * call.weight[3];
  const bool thin = call.groups == 1 && std::min(in, out) <= kThinChannels;
  if (asked == "library") return {kLibrary, "SDGAN_CONV=library"};
  if (asked == "gemm" && call.cuda) return {kGemm, "SDGAN_CONV=gemm"};
  if (asked == "gemm") return {kLibrary, "SDGAN_CONV=gemm is for CUDA"};
  if (call.cuda && asked == "auto") {
    return {kLibrary, thin ? "our kernels have not been measured against cuDNN on a GPU yet; SDGAN_CONV=direct or gemm "
                             "forces them"
                           : "our kernel has not been measured against cuDNN on a GPU yet; SDGAN_CONV=gemm forces it"};
  }
  if (call.groups != 1) return {kLibrary, "the direct kernel has no groups"};
  if (!thin) return {kLibrary, "neither side has 1 to 4 channels"};
  if (asked == "direct") return {kDirect, "SDGAN_CONV=direct"};
  if (std::max(in, out) < 16) return {kLibrary, "both sides have fewer than 16 channels"};
  if (out <= kThinChannels) return {kDirect, "the output has 1 to 4 channels"};
  if (call.backward && call.need_input) return {kDirect, "the gradient of the input has 1 to 4 channels"};
  if (call.dtype == DType::bf16) return {kLibrary, "from few channels to many the library is as fast in bfloat16"};
  if (in > 3 || taps < 9) return {kLibrary, "from 4 channels, or with less than 9 taps, the library is as fast"};
  return {kDirect, "the input has 1 to 3 channels"};
}

void ask_tf32(std::function<bool()> question) { tf32_question() = std::move(question); }
bool tf32_allowed() { return tf32_question() && tf32_question()(); }

}  // namespace sdgan
