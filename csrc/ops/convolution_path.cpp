#include "ops/convolution_path.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "kernels/thin_conv.h"
#include "kernels/winograd.h"
#include "ops/convolution_table.h"

namespace sdgan {

namespace {

constexpr auto kLibrary = ConvolutionKernel::library;
constexpr auto kDirect = ConvolutionKernel::direct;
constexpr auto kWinograd = ConvolutionKernel::winograd;
constexpr auto kGemm = ConvolutionKernel::gemm;

std::function<bool()>& tf32_question() {
  static auto* question = new std::function<bool()>;  // never destroyed: it holds an object of Python
  return *question;
}

// Where a value lies on a grid of the table, in the logarithm; the ends go on beyond it.
struct Place {
  int below = 0;
  double part = 0;  // of the way to the next
};

template <int n>
Place place(const int (&grid)[n], double value) {
  if (value <= grid[0]) return {0, 0};
  if (value >= grid[n - 1]) return {n - 2, 1};
  int below = 0;
  while (value >= grid[below + 1]) ++below;
  const double step = std::log(static_cast<double>(grid[below + 1]) / grid[below]);
  return {below, std::log(value / grid[below]) / step};
}

double between(const uint16_t* figures, Place at) {
  return figures[at.below] * (1 - at.part) + figures[at.below + 1] * at.part;
}

// What a filter that outgrows the caches costs, in library times: it is made anew in every call, and in a network, other
// than in the table's repeated calls, neither the weight nor its memory is at hand. The table's machine moves 16 GB of it
// while the library does 165 GFLOP, 8 GB where the weight is read across its layout.
double cold_filter(const WinogradParams& p) {
  const double bytes = std::max(0.0, sizeof(float) * static_cast<double>(winograd_filter_size(p)) - (2 << 20));
  const double pixels = static_cast<double>(p.batch) * p.vertical.coarse * p.horizontal.coarse;
  const double rate = p.product == WinogradProduct::to_fine ? 16e9 : 8e9;
  return bytes / rate / (2 * pixels * p.taps * p.taps * p.coarse_channels * p.fine_channels / 165e9);
}

// Library time / Winograd time by convolution_table.h. It must not depend on the number of threads: another kernel has
// other bits. What the table leaves open, docs/ops/conv.md has the figures:
//   images below 8 x 8      cost the library more; from 8 tiles on, which the table has of such images alone
//   tiles across the edge   by what that costs 7 x 7, whose tiles cover 8 x 8, to the power of the pixels' logarithm
//   channels up to 16       the root of the share that is of use: the library has them too
//   wgrad, up to 32 x 16    one slice: half the speed-up is left with two threads
//   large filters           cold_filter
//   less than 8 tiles       the square of their share of 8: the transform of filter or gradient is all the time
double winograd_speedup(const WinogradParams& p, bool channels_last) {
  const Isa isa = cpu_isa();
  if (isa == Isa::generic || std::min(p.coarse_channels, p.fine_channels) < kTableChannels[0]) return 0;
  const int layout = channels_last, product = static_cast<int>(p.product), scheme = p.stride == 1 ? 0 : p.taps - 2;
  const auto& table = kWinogradPercent[isa == Isa::avx512][layout][product][scheme];
  const auto& image = kImagePercent[isa == Isa::avx512][layout][product][scheme];
  const double padded = static_cast<double>(p.padded_coarse()) * p.padded_fine();
  const Place coarse = place(kTableChannels, p.padded_coarse()), fine = place(kTableChannels, p.padded_fine());
  const Place tiles = place(kTableTiles, p.tile_count()), both = place(kTableChannels, std::sqrt(padded));

  double speedup = 0;
  for (const auto& [c, c_part] : {std::pair(0, 1 - coarse.part), std::pair(1, coarse.part)}) {
    for (const auto& [t, t_part] : {std::pair(0, 1 - tiles.part), std::pair(1, tiles.part)}) {
      speedup += c_part * t_part * between(table[coarse.below + c][tiles.below + t], fine) / 100;
    }
  }

  const double small = between(image[0], both) / 100, seven = between(image[1], both) / 100;
  const double side = std::sqrt(static_cast<double>(p.vertical.coarse) * p.horizontal.coarse);
  const double smallness = std::clamp(std::log2(8 / side), 0.0, 1.0);
  const double from_8_tiles = tiles.below > 0 ? 1 : tiles.part;
  speedup *= std::pow(small, smallness * from_8_tiles);

  const bool to_fine = p.product == WinogradProduct::to_fine;
  const int64_t pixels = to_fine ? p.vertical.fine * p.horizontal.fine : p.vertical.coarse * p.horizontal.coarse;
  const int64_t covered = p.tile_rows() * p.tile_columns() * (to_fine ? 4 * p.stride * p.stride : 4);
  const double edge = std::min(1.0, seven / std::pow(small, std::log2(8.0 / 7)));
  speedup *= std::pow(edge, std::log(static_cast<double>(pixels) / covered) / std::log(49.0 / 64));

  speedup *= std::sqrt(p.coarse_channels * p.fine_channels / padded);
  if (p.product == WinogradProduct::wgrad && p.padded_coarse() <= 32 && p.padded_fine() <= 16) speedup /= 2;
  const double few = std::min(1.0, static_cast<double>(p.tile_count()) / kTableTiles[0]);
  speedup *= few * few;
  return to_fine || p.product == WinogradProduct::to_coarse ? 1 / (1 / speedup + cold_filter(p)) : speedup;
}

// The least estimate that is followed: how far estimates were off, for one and two threads; docs/ops/conv.md.
double worthwhile(const WinogradParams& p) {
  double least = std::min(p.padded_coarse(), p.padded_fine()) <= 32 ? 1.15 : 1.05;
  if (p.product != WinogradProduct::wgrad) {  // from 64 tiles to 512
    const double few = 1 - std::clamp(std::log(p.tile_count() / 64.0) / std::log(8.0), 0.0, 1.0);
    least = std::max(least, 1.05 + 0.2 * few);
  }
  return least;
}

WinogradParams winograd_params(const ConvolutionCall& call) {
  return winograd_geometry(call.transposed, call.pass, call.input, call.weight, call.output, call.stride, call.sides);
}

// Why there is no Winograd kernel for the call; nothing where there is one.
const char* no_winograd(const ConvolutionCall& call) {
  const auto& w = call.weight;
  if (call.cuda) return "the Winograd kernels are for the CPU";
  if (call.dtype != DType::f32) return "the Winograd kernels are for float32";
  if (call.groups != 1) return "the Winograd kernels have no groups";
  if (call.input[0] == 0) return "there are no images";
  if (call.dilation[0] != 1 || call.dilation[1] != 1) return "the Winograd kernels have no dilation";
  if (w[2] != w[3] || call.stride[0] != call.stride[1] ||
      !winograd_serves(w[2], call.stride[0], call.sides[0], call.sides[2])) {
    return "the Winograd kernels are for 3x3 of stride 1, and 3x3, 4x4 and 5x5 of stride 2";
  }
  return nullptr;
}

ConvolutionPath wide_path(const ConvolutionCall& call) {
  if (const char* reason = no_winograd(call)) return {kLibrary, reason};
  const WinogradParams p = winograd_params(call);
  const double speedup = winograd_speedup(p, call.channels_last), least = worthwhile(p);
  if (speedup == 0) {
    return {kLibrary, cpu_isa() == Isa::generic ? "the Winograd kernels are slow without AVX2"
                                                : "fewer than 16 channels leave the Winograd kernels idle"};
  }
  char reason[128];
  std::snprintf(reason, sizeof reason, "Winograd's kernel is estimated at %.2f times the library's speed, %s %.2f",
                speedup, speedup < least ? "below" : "at least", least);
  if (speedup < least) return {kLibrary, reason};
  return {kWinograd, reason, speedup};
}

double multiplications(const ConvolutionCall& call, ConvolutionKernel kernel) {
  const std::vector<int64_t>& coarse = call.transposed ? call.input : call.output;
  if (kernel == kWinograd) {
    const WinogradParams p = winograd_params(call);
    return static_cast<double>(p.tile_count()) * winograd_products(p.taps, p.stride) * p.padded_coarse() *
           p.padded_fine();
  }
  double count = coarse[0] * coarse[2] * coarse[3];
  for (const int64_t size : call.weight) count *= size;
  return count;
}

ConvolutionPath pick(const ConvolutionCall& call);

}  // namespace

ConvolutionPath convolution_path(const ConvolutionCall& call) {
  ConvolutionPath path = pick(call);
  path.multiplications = multiplications(call, path.kernel);
  return path;
}

namespace {

ConvolutionPath pick(const ConvolutionCall& call) {
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
  if (asked == "winograd") {
    const char* reason = no_winograd(call);
    if (reason) return {kLibrary, reason};
    return {kWinograd, "SDGAN_CONV=winograd", winograd_speedup(winograd_params(call), call.channels_last)};
  }
  if (!thin && asked == "auto") return wide_path(call);
  if (call.groups != 1) return {kLibrary, "the direct kernel has no groups"};
  if (!thin) return {kLibrary, "neither side has 1 to 4 channels"};
  if (asked == "direct") return {kDirect, "SDGAN_CONV=direct"};
  if (std::max(in, out) < 16) return {kLibrary, "both sides have fewer than 16 channels"};
  if (call.dtype == DType::bf16 && cpu_has_bf16_matrix_units()) {
    return {kLibrary, "in bfloat16 the library uses the processor's matrix units"};
  }
  if (out <= kThinChannels) return {kDirect, "the output has 1 to 4 channels"};
  if (call.pass != ConvolutionPass::forward && call.need_input) return {kDirect, "the gradient of the input has 1 to 4 channels"};
  if (call.dtype == DType::bf16) return {kLibrary, "from few channels to many the library is as fast in bfloat16"};
  if (in > 3 || taps < 9) return {kLibrary, "from 4 channels, or with less than 9 taps, the library is as fast"};
  return {kDirect, "the input has 1 to 3 channels"};
}

}  // namespace

WinogradParams winograd_geometry(bool transposed, ConvolutionPass pass, const std::vector<int64_t>& input,
                                 const std::vector<int64_t>& weight, const std::vector<int64_t>& output,
                                 const std::vector<int64_t>& stride, const std::vector<int64_t>& sides) {
  const std::vector<int64_t>& coarse = transposed ? input : output;
  const std::vector<int64_t>& fine = transposed ? output : input;
  WinogradParams p;
  p.product = pass == ConvolutionPass::grad_weight                    ? WinogradProduct::wgrad
              : transposed == (pass == ConvolutionPass::forward) ? WinogradProduct::to_fine
                                                                  : WinogradProduct::to_coarse;
  p.taps = weight[2];
  p.stride = stride[0];
  p.vertical = {coarse[2], fine[2], sides[0]};
  p.horizontal = {coarse[3], fine[3], sides[2]};
  p.batch = input[0];
  p.coarse_channels = coarse[1];
  p.fine_channels = fine[1];
  return p;
}

void ask_tf32(std::function<bool()> question) { tf32_question() = std::move(question); }
bool tf32_allowed() { return tf32_question() && tf32_question()(); }

}  // namespace sdgan
