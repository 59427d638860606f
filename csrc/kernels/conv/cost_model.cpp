#include "kernels/conv/cost_model.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "kernels/conv/cost_table.h"
#include "kernels/conv/small_channel.h"
#include "kernels/conv/winograd/winograd.h"

namespace sdgan {
namespace {

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
  const double pixels = static_cast<double>(p.geometry.batch) * p.geometry.vertical.y * p.geometry.horizontal.y;
  const double rate = p.pass == Pass::dgrad ? 16e9 : 8e9;
  return bytes / rate / (2 * pixels * p.taps() * p.taps() * p.geometry.y_channels * p.geometry.x_channels / 165e9);
}

// Library time / Winograd time by cost_table.h. It must not depend on the number of threads: another kernel has
// other bits. What the table leaves open, docs/ops/conv.md has the figures:
//   images below 8 x 8      cost the library more; from 8 tiles on, which the table has of such images alone
//   tiles across the edge   by what that costs 7 x 7, whose tiles cover 8 x 8, to the power of the pixels' logarithm
//   channels up to 16       the root of the share that is of use: the library has them too
//   wgrad, up to 32 x 16    one slice: half the speed-up is left with two threads
//   large filters           cold_filter
//   less than 8 tiles       the square of their share of 8: the transform of filter or gradient is all the time
double winograd_speedup(const WinogradParams& p, bool channels_last) {
  const Isa isa = cpu_isa();
  if (isa == Isa::generic || std::min(p.geometry.y_channels, p.geometry.x_channels) < kTableChannels[0]) return 0;
  const int product = p.pass == Pass::dgrad ? 0 : p.pass == Pass::fprop ? 1 : 2;  // the table's order
  const int layout = channels_last, scheme = p.stride() == 1 ? 0 : p.taps() - 2;
  const auto& table = kWinogradPercent[isa == Isa::avx512][layout][product][scheme];
  const auto& image = kImagePercent[isa == Isa::avx512][layout][product][scheme];
  const double padded = static_cast<double>(p.padded_y()) * p.padded_x();
  const Place coarse = place(kTableChannels, p.padded_y()), fine = place(kTableChannels, p.padded_x());
  const Place tiles = place(kTableTiles, p.tile_count()), both = place(kTableChannels, std::sqrt(padded));

  double speedup = 0;
  for (const auto& [c, c_part] : {std::pair(0, 1 - coarse.part), std::pair(1, coarse.part)}) {
    for (const auto& [t, t_part] : {std::pair(0, 1 - tiles.part), std::pair(1, tiles.part)}) {
      speedup += c_part * t_part * between(table[coarse.below + c][tiles.below + t], fine) / 100;
    }
  }

  const double small = between(image[0], both) / 100, seven = between(image[1], both) / 100;
  const double side = std::sqrt(static_cast<double>(p.geometry.vertical.y) * p.geometry.horizontal.y);
  const double smallness = std::clamp(std::log2(8 / side), 0.0, 1.0);
  const double from_8_tiles = tiles.below > 0 ? 1 : tiles.part;
  speedup *= std::pow(small, smallness * from_8_tiles);

  const bool dgrad = p.pass == Pass::dgrad;
  const int64_t pixels = dgrad ? p.geometry.vertical.x * p.geometry.horizontal.x : p.geometry.vertical.y * p.geometry.horizontal.y;
  const int64_t covered = p.tile_rows() * p.tile_columns() * (dgrad ? 4 * p.stride() * p.stride() : 4);
  const double edge = std::min(1.0, seven / std::pow(small, std::log2(8.0 / 7)));
  speedup *= std::pow(edge, std::log(static_cast<double>(pixels) / covered) / std::log(49.0 / 64));

  speedup *= std::sqrt(p.geometry.y_channels * p.geometry.x_channels / padded);
  if (p.pass == Pass::wgrad && p.padded_y() <= 32 && p.padded_x() <= 16) speedup /= 2;
  const double few = std::min(1.0, static_cast<double>(p.tile_count()) / kTableTiles[0]);
  speedup *= few * few;
  return dgrad || p.pass == Pass::fprop ? 1 / (1 / speedup + cold_filter(p)) : speedup;
}

// The least estimate that is followed: how far estimates were off, for one and two threads; docs/ops/conv.md.
double worthwhile(const WinogradParams& p) {
  double least = std::min(p.padded_y(), p.padded_x()) <= 32 ? 1.15 : 1.05;
  if (p.pass != Pass::wgrad) {  // from 64 tiles to 512
    const double few = 1 - std::clamp(std::log(p.tile_count() / 64.0) / std::log(8.0), 0.0, 1.0);
    least = std::max(least, 1.05 + 0.2 * few);
  }
  return least;
}

Estimate yes(const char* reason) { return {true, 0, 0, reason}; }
Estimate no(const char* reason) { return {false, 0, 0, reason}; }

}  // namespace

std::string Estimate::text() const {
  if (reason != nullptr) return reason;
  char text[128];
  std::snprintf(text, sizeof text, "estimated at %.2f times the library's speed, %s %.2f", speedup,
                worthwhile ? "at least" : "below", least);
  return text;
}

Estimate winograd_estimate(const ConvQuery& query) {
  const WinogradParams p{query.pass, query.problem.geometry};
  const double speedup = winograd_speedup(p, query.problem.channels_last), least = worthwhile(p);
  if (speedup == 0) {
    return no(cpu_isa() == Isa::generic ? "the Winograd kernels are slow without AVX2"
                                        : "fewer than 16 channels leave the Winograd kernels idle");
  }
  return {speedup >= least, speedup, least};
}

Estimate small_channel_estimate(const ConvQuery& query) {
  const ConvProblem& problem = query.problem;
  if (problem.cuda) return no("our kernels have not been measured against cuDNN on a GPU yet");
  const int64_t in = problem.input_channels(), out = problem.output_channels();
  if (std::max(in, out) < 16) return no("both sides have fewer than 16 channels");
  if (problem.dtype == DType::bf16 && cpu_has_bf16_matrix_units()) {
    return no("in bfloat16 the library uses the processor's matrix units");
  }
  if (out <= kSmallChannels) return yes("the output has 1 to 4 channels");
  if (!query.is_forward() && query.both_gradients) return yes("the gradient of the input has 1 to 4 channels");
  if (problem.dtype == DType::bf16) return no("from few channels to many the library is as fast in bfloat16");
  if (in > 3 || problem.geometry.taps() < 9) {
    return no("from 4 channels, or with less than 9 taps, the library is as fast");
  }
  return yes("the input has 1 to 3 channels");
}

}  // namespace sdgan
