#include "ops/convolution_path.h"

#include <algorithm>
#include <cstdlib>

#include "kernels/thin_conv.h"

namespace sdgan {

ConvolutionPath convolution_path(const ConvolutionCall& call) {
  const char* variable = std::getenv("SDGAN_CONV");
  const std::string asked = variable ? variable : "auto";
  const int64_t in = call.input[1], out = call.transposed ? call.weight[1] : call.weight[0];
  const int64_t taps = call.weight[2] * call.weight[3];
  if (asked == "library") return {false, "SDGAN_CONV=library"};
  if (call.groups != 1) return {false, "the direct kernel has no groups"};
  if (std::min(in, out) > kThinChannels) return {false, "neither side has 1 to 4 channels"};
  if (asked == "direct") return {true, "SDGAN_CONV=direct"};
  if (std::max(in, out) < 16) return {false, "both sides have fewer than 16 channels"};
  if (out <= kThinChannels) return {true, "the output has 1 to 4 channels"};
  if (call.backward && call.need_input) return {true, "the gradient of the input has 1 to 4 channels"};
  if (call.dtype == DType::bf16) return {false, "from few channels to many the library is as fast in bfloat16"};
  if (in > 3 || taps < 9) return {false, "from 4 channels, or with less than 9 taps, the library is as fast"};
  return {true, "the input has 1 to 3 channels"};
}

}  // namespace sdgan
