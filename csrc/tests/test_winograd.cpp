// The Winograd kernels against the sums of their header in double. With small whole numbers every step of them is
// exact (transforms of 0, 1, -1; filters in quarters), so geometry, channels and layouts are held to equality; rounding
// has its own test.
#include "kernels/conv/winograd/winograd.h"

#include "kernels/conv/winograd/scheme.h"
#include "tests/winograd_problem.h"

namespace sdgan::SDGAN_ISA {

void test_winograd();

namespace {

using winograd::Scheme;

// ----------------------------------------------------------------------------------------------- what is known early
template <class S, int64_t dgrad_plane_count, int64_t fprop_plane_count>
constexpr bool counts() {
  constexpr int64_t dgrad = S::dgrad.map.planes, fprop = S::fprop.planes;
  constexpr int64_t products = winograd_products(S::taps, S::stride);
  return S::dgrad.map.products() == products && S::fprop.products() == products && dgrad * dgrad == dgrad_plane_count &&
         fprop * fprop == fprop_plane_count && S::window() <= winograd::kMaxWindow && dgrad <= winograd::kMaxPlanes;
}
static_assert(counts<Scheme<3, 1, 0>, 16, 16>() && winograd_products(3, 1) == 16);
static_assert(counts<Scheme<3, 2, 0>, 16, 9>() && counts<Scheme<3, 2, 1>, 16, 9>() && winograd_products(3, 2) == 25);
static_assert(counts<Scheme<4, 2, 0>, 9, 9>() && counts<Scheme<4, 2, 1>, 25, 9>() && winograd_products(4, 2) == 36);
static_assert(counts<Scheme<5, 2, 0>, 36, 16>() && counts<Scheme<5, 2, 1>, 36, 16>() && winograd_products(5, 2) == 49);

// The gradient of the weight as [r][s][c][d].
std::vector<float> weight_gradient(const Problem& problem, const Options& options) {
  Memory& m = memory();
  WinogradParams p = problem.params(Pass::wgrad);
  p.y_in = m.y.copy(problem.y);
  p.x_in = m.x.copy(problem.x);
  p.grad_weight = m.grad_weight.take(problem.weight_count);
  p.block = options.block;
  p.y_block = options.y_block;
  p.x_block = options.x_block;
  spoil_workspace();
  backwards(p.slice_count(), [&](int64_t begin, int64_t end) { winograd_wgrad(p, begin, end); });
  EXPECT(m.grad_weight.clean_before());
  std::vector<float> out(p.taps() * p.taps() * p.geometry.y_channels * p.geometry.x_channels);
  for (int64_t tap = 0; tap < p.taps() * p.taps(); ++tap)
    for (int64_t c = 0; c < p.geometry.y_channels; ++c)
      for (int64_t d = 0; d < p.geometry.x_channels; ++d) {
        float& from = p.grad_weight[problem.place(c, d, tap)];
        out[(tap * p.geometry.y_channels + c) * p.geometry.x_channels + d] = from;
        from = kNaN;
      }
  if (problem.layout == Layout::gaps) {  // what lies between is not written
    EXPECT(std::all_of(p.grad_weight, p.grad_weight + problem.weight_count, [](float x) { return std::isnan(x); }));
  }
  return out;
}

// All three products; exact with whole numbers unless the activation is not.
void check(const Problem& problem, const Options& options, double tolerance = 0) {
  if (!problem.valid()) return;
  const Activation a = options.activation;
  const bool exact = a == Activation::none || a == Activation::relu || a == Activation::leaky_relu;
  for (Pass pass : {Pass::dgrad, Pass::fprop}) {
    const int64_t channels = pass == Pass::dgrad ? problem.x_channels : problem.y_channels;
    std::vector<double> want = problem.wanted(pass);
    for (size_t i = 0; options.bias && i < want.size(); ++i) {
      want[i] += number(problem.values, static_cast<int64_t>(i) % channels, 4);
    }
    for (size_t i = 0; options.residual && pass == Pass::fprop && i < want.size(); ++i) {
      want[i] = kScale * (want[i] + number(problem.values, static_cast<int64_t>(i), 5));
    }
    std::vector<float> preactivation;
    const std::vector<float> got = convolve(problem, pass, options, &preactivation);
    if (derivative_needs_input(a)) expect(preactivation, want, tolerance);
    for (double& x : want) x = activated(a, x, kSlope);
    expect(got, want, exact ? tolerance : std::max(tolerance, 1e-5));
  }
  if (a == Activation::none) expect(weight_gradient(problem, options), problem.wanted(Pass::wgrad), tolerance);
}

struct Taps {
  int64_t taps, stride;
};
constexpr Taps kTaps[] = {{3, 1}, {3, 2}, {4, 2}, {5, 2}};

// ------------------------------------------------------------------------------------------------------------ tests
// Pads of both parities and both sides, sizes odd and even and 1; an end padded by less than nothing is a row of x that
// no tap reaches.
void test_geometry() {
  const int64_t sizes[][2] = {{1, 1}, {1, 6}, {5, 1}, {2, 3}, {3, 2}, {4, 4}, {5, 7}, {6, 9}};
  int64_t turn = 0;
  for (const Taps& t : kTaps)
    for (int64_t top = 0; top <= 4; ++top)
      for (int64_t left = 0; left <= 4; ++left) {
        EXPECT(winograd_serves(t.taps, t.stride, top, left) == (t.stride == 1 || top % 2 == left % 2));
        if (!winograd_serves(t.taps, t.stride, top, left)) continue;
        for (const auto& size : sizes) {
          ++turn;
          if (kSanitized && turn % 8 != 0) continue;
          const int64_t least = t.stride == 1 ? 0 : -1, ends = 5 - least;
          const Geometry g{t.taps, t.stride, top, least + turn % ends, left, least + turn / 2 % ends, size[0], size[1]};
          const int64_t batch = turn % 3 == 0 ? 3 : 1;
          check({g, batch, 5, 3}, {Activation::none, turn % 2 == 0, 1 + turn % 7, 16, 16, 2, false, turn % 4 < 2});
        }
      }
  EXPECT(!winograd_serves(2, 2, 0, 0) && !winograd_serves(6, 2, 0, 0) && !winograd_serves(5, 1, 0, 0));
  EXPECT(!winograd_serves(4, 3, 0, 0));
}

void test_channels() {
  const int64_t channels[] = {1, 5, 16, 17, 33, 130};
  for (const Taps& t : kTaps)
    for (int64_t pad : {1, 2})
      for (int64_t c : channels)
        for (int64_t d : channels) {
          if (kSanitized && (pad == 2 || c * d > 33 * 17 || c * d < 5)) continue;
          const Geometry g{t.taps, t.stride, pad, 1, pad, 1, 3, 3};
          check({g, c * d < 1000 ? 2 : 1, c, d}, {Activation::relu, true, 4, 128, 32, 2, false, pad == 2});
          check({g, 1, c, d}, {Activation::none, false, 3, 32, 16});
        }
  if (kSanitized) check({{4, 2, 1, 1, 1, 1, 2, 2}, 1, 130, 33}, {});  // more than kDepth
}

void test_layouts() {
  for (const Taps& t : kTaps)
    for (Layout layout : {Layout::channels_last, Layout::y_last, Layout::gaps}) {
      const Geometry g{t.taps, t.stride, 1, 0, 1, 1, 3, 4};
      check({g, 1, 19, 21, layout}, {});
      check({g, 1, 3, 18, layout}, {});
      if (!kSanitized) check({g, 2, 33, 5, layout}, {});
    }
}

void test_activations() {
  for (const Taps& t : kTaps)
    for (Activation a : {Activation::relu, Activation::leaky_relu, Activation::tanh, Activation::sigmoid,
                         Activation::silu, Activation::elu}) {
      for (bool bias : {false, true}) {
        if (kSanitized && bias != (t.taps % 2 == 0)) continue;
        const Geometry g{t.taps, t.stride, 2, 1, 2, 1, 3, 5};
        check({g, 2, 6, 18, Layout::contiguous, Values::real}, {a, bias, 5}, 1e-5);
        check({g, 2, 6, 18, Layout::contiguous, Values::real}, {a, bias, 5, 128, 32, 2, false, true}, 1e-5);
        check({g, 1, 17, 7}, {a, bias, 2});
      }
    }
}

void test_no_images() {
  for (const Taps& t : kTaps) check({{t.taps, t.stride, 1, 1, 1, 1, 3, 4}, 0, 18, 5}, {Activation::none, true});
}

// The size of blocks changes no bit; wgrad adds the tiles in an order that depends on `block` alone.
void test_blocks() {
  for (const Taps& t : kTaps) {
    const Problem problem({t.taps, t.stride, 1, 1, 1, 1, 6, 7}, kSanitized ? 2 : 5, 33, 40, Layout::contiguous,
                          Values::real);
    for (Pass pass : {Pass::dgrad, Pass::fprop}) {
      const std::vector<float> first = convolve(problem, pass, {Activation::tanh, true, 32});
      for (int64_t block : {1, 7, 64, 1000}) {
        if (kSanitized && block != 7) continue;
        EXPECT(same(convolve(problem, pass, {Activation::tanh, true, block}), first));
      }
    }
    for (int64_t block : {7, 64}) {
      const std::vector<float> first = weight_gradient(problem, {Activation::none, false, block, 128, 64});
      for (int64_t y_block : {16, 32, 128})
        for (int64_t x_block : {16, 32}) {
          if (kSanitized && (y_block != 32 || x_block != 16)) continue;
          EXPECT(same(weight_gradient(problem, {Activation::none, false, block, y_block, x_block}), first));
        }
    }
  }
}

// Reals: the error beside the largest sum of the products' magnitudes, which is what the direct algorithm is bound by.
void test_rounding() {
  for (const Taps& t : kTaps)
    for (int64_t channels : {16, 130}) {
      if (kSanitized && channels == 130) continue;
      const Problem problem({t.taps, t.stride, 1, 1, 1, 1, 7, 8}, 3, channels, 48, Layout::contiguous, Values::real);
      Problem magnitude = problem;
      for (auto* numbers : {&magnitude.y, &magnitude.x, &magnitude.weight})
        for (double& x : *numbers) x = std::fabs(x);
      for (Pass pass : {Pass::dgrad, Pass::fprop, Pass::wgrad}) {
        const std::vector<double> want = problem.wanted(pass), sums = magnitude.wanted(pass);
        const double largest = *std::max_element(sums.begin(), sums.end());
        const std::vector<float> got = pass == Pass::wgrad ? weight_gradient(problem, {}) : convolve(problem, pass, {});
        double error = 0;
        for (size_t i = 0; i < want.size(); ++i) error = std::max(error, std::fabs(got[i] - want[i]));
        EXPECT_CLOSE(static_cast<double>(10 * t.taps + t.stride), error / largest, 0, 3e-7);
      }
    }
}

// A pixel that is not finite reaches whole tiles, in the products of all channels: those of which the sums reach one
// pixel. Every other bit is as before. An infinity may come out as NaN, where the tile subtracts it from itself.
void test_nonfinite() {
  for (const Taps& t : kTaps)
    for (float bad : {kNaN, __builtin_inff()})
      for (int64_t turn = 0; turn < (kSanitized ? 2 : 6); ++turn) {
        const Geometry g{t.taps, t.stride, turn % 3, turn % 2, turn % 3 + (t.stride == 1) * turn, 1, 9, 8};
        const Problem before(g, 2, 5, 6, Layout::contiguous, Values::real);
        const bool odd = turn % 2 != 0;
        for (Pass pass : {Pass::dgrad, Pass::fprop}) {
          const bool dgrad = pass == Pass::dgrad;
          Problem after = before;
          std::vector<double>& in = dgrad ? after.y : after.x;
          const int64_t in_channels = dgrad ? 5 : 6, out_channels = dgrad ? 6 : 5;
          const int64_t pixel = odd ? static_cast<int64_t>(in.size()) / in_channels - 12 : 3 * (turn + 4);
          in[pixel * in_channels + turn % in_channels] = bad;
          const auto clean = convolve(before, pass, {}), got = convolve(after, pass, {});

          const int64_t height = dgrad ? before.x_height : g.height, width = dgrad ? before.x_width : g.width;
          const int64_t tile = dgrad ? 2 * g.stride : 2;
          const int64_t rows = (height + tile - 1) / tile, columns = (width + tile - 1) / tile;
          std::vector<char> reached(clean.size() / out_channels), tiles(before.batch * rows * columns);
          const auto tile_of = [&](int64_t at) {
            return (at / width / height * rows + at / width % height / tile) * columns + at % width / tile;
          };
          before.for_pairs([&](int64_t x, int64_t y, int64_t) {
            if ((dgrad ? x : y) != pixel) return;
            reached[dgrad ? y : x] = 1;
            tiles[tile_of(dgrad ? y : x)] = 1;
          });
          for (size_t i = 0; i < clean.size(); ++i) {
            const int64_t at = static_cast<int64_t>(i) / out_channels;
            EXPECT(!reached[at] || !std::isfinite(got[i]));
            EXPECT(tiles[tile_of(at)] || std::memcmp(&got[i], &clean[i], sizeof(float)) == 0);
          }
        }
        Problem other_y = before, other_x = before;  // wgrad: the pixel's own channel
        other_y.y[5 * 30 + 2] = bad;
        other_x.x[6 * 47 + 3] = bad;
        const auto clean = weight_gradient(before, {}), by_y = weight_gradient(other_y, {}),
                   by_x = weight_gradient(other_x, {});
        for (size_t i = 0; i < clean.size(); ++i) {
          const auto as_before = [&](float got) { return std::memcmp(&got, &clean[i], sizeof got) == 0; };
          EXPECT(i / 6 % 5 == 2 || as_before(by_y[i]));
          EXPECT(i % 6 == 3 || as_before(by_x[i]));
        }
        const auto spoilt = [](const std::vector<float>& values) {
          return !std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
        };
        bool y_counts = false, x_counts = false;  // or no tap reaches the pixel
        before.for_pairs([&](int64_t at_y, int64_t at_x, int64_t) {
          y_counts |= at_y == 30;
          x_counts |= at_x == 47;
        });
        EXPECT(!y_counts || spoilt(by_y));
        EXPECT(!x_counts || spoilt(by_x));
      }
}

}  // namespace

void test_winograd() {
  test_geometry();
  test_channels();
  test_layouts();
  test_activations();
  test_no_images();
  test_blocks();
  test_rounding();
  test_nonfinite();
}

}  // namespace sdgan::SDGAN_ISA
