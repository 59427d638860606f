// F(4 x 4, 3 x 3) against the sums of geometry.h in double. Its transforms round, but with small whole numbers far less
// than by the 1/2 that a wrong pixel, tap or channel would make.
#include "tests/winograd_problem.h"

namespace sdgan::SDGAN_ISA {

void test_winograd_f43();

namespace {

constexpr Pass kPasses[] = {Pass::fprop, Pass::dgrad};

static_assert(winograd_f43_products(false) == 36 && winograd_f43_products(true) == 25);

void check(const Problem& problem, Pass pass, Options options, double tolerance) {
  if (!problem.valid()) return;
  options.tile = 4;
  std::vector<double> want = problem.wanted(pass);
  const int64_t channels = pass == Pass::dgrad ? problem.x_channels : problem.y_channels;
  for (size_t i = 0; options.bias && i < want.size(); ++i) {
    want[i] += number(problem.values, static_cast<int64_t>(i) % channels, 4);
  }
  for (size_t i = 0; options.residual && pass == Pass::fprop && i < want.size(); ++i) {
    want[i] = kScale * (want[i] + number(problem.values, static_cast<int64_t>(i), 5));
  }
  std::vector<float> preactivation;
  const std::vector<float> got = convolve(problem, pass, options, &preactivation);
  if (derivative_needs_input(options.activation)) expect(preactivation, want, tolerance);
  for (double& x : want) x = activated(options.activation, x, kSlope);
  expect(got, want, tolerance);
}

Problem upsampled(int64_t height, int64_t width, int64_t batch, int64_t y_channels, int64_t x_channels,
                  Layout layout = Layout::contiguous, Values values = Values::whole) {
  Problem problem({3, 1, 1, 1, 1, 1, 2 * height, 2 * width}, batch, y_channels, x_channels, layout, values);
  problem.upsample();
  return problem;
}

void test_geometry() {
  int64_t turn = 0;
  for (int64_t top = 0; top <= 4; ++top)
    for (int64_t left = 0; left <= 4; ++left)
      for (int64_t height : {1, 2, 3, 4, 5, 9})
        for (int64_t width : {1, 3, 4, 6, 7, 8}) {
          ++turn;
          if (kSanitized && turn % 8 != 0) continue;
          const Problem problem({3, 1, top, turn % 3, left, turn / 3 % 3, height, width}, 1 + turn % 2, 5, 3);
          for (Pass pass : kPasses) check(problem, pass, {Activation::none, turn % 2 == 0, 1 + turn % 7}, 1e-3);
        }
  for (int64_t height = 1; height <= 5; ++height)
    for (int64_t width = 1; width <= 5; ++width) {
      check(upsampled(height, width, 2, 3, 5), Pass::fprop, {Activation::none, true, 1 + width, 0, 0, 4, true}, 0);
    }
}

void test_channels() {
  const int64_t channels[] = {1, 5, 16, 17, 33, 130};
  for (int64_t c : channels)
    for (int64_t d : channels) {
      if (kSanitized && (c * d > 33 * 17 || c * d < 5)) continue;
      const Problem problem({3, 1, 1, 1, 1, 1, 5, 6}, 2, c, d);
      for (Pass pass : kPasses) check(problem, pass, {Activation::relu, true, 4}, 4e-3);
      check(upsampled(2, 3, 2, c, d), Pass::fprop, {Activation::relu, true, 4, 0, 0, 4, true}, 0);
    }
}

void test_layouts() {
  for (Layout layout : {Layout::channels_last, Layout::y_last, Layout::gaps})
    for (const auto& [c, d] : {std::pair{19, 21}, std::pair{3, 18}, std::pair{33, 5}}) {
      const Problem problem({3, 1, 1, 0, 2, 1, 5, 4}, 1, c, d, layout);
      for (Pass pass : kPasses) check(problem, pass, {}, 1e-3);
      check(upsampled(2, 1, 1, c, d, layout), Pass::fprop, {Activation::none, false, 32, 0, 0, 4, true}, 0);
    }
}

void test_activations() {
  for (Activation a : {Activation::relu, Activation::leaky_relu, Activation::tanh, Activation::sigmoid,
                       Activation::silu, Activation::elu}) {
    const Problem problem({3, 1, 2, 1, 2, 1, 6, 5}, 2, 17, 6, Layout::contiguous, Values::real);
    for (Pass pass : kPasses) {
      check(problem, pass, {a, a != Activation::relu, 5}, 1e-5);
      check(problem, pass, {a, true, 5, 0, 0, 4, false, true}, 1e-5);
    }
    check(upsampled(3, 2, 2, 6, 18, Layout::contiguous, Values::real), Pass::fprop, {a, true, 3, 0, 0, 4, true}, 1e-5);
  }
}

// The size of blocks, and with it the number of threads, changes no bit.
void test_blocks() {
  const Problem problem({3, 1, 1, 1, 1, 1, 10, 7}, kSanitized ? 2 : 5, 33, 40, Layout::contiguous, Values::real);
  const Problem large = upsampled(5, 4, 5, 40, 33, Layout::contiguous, Values::real);
  for (bool upsampled : {false, true})
    for (Pass pass : kPasses) {
      if (upsampled && pass == Pass::dgrad) continue;
      const auto run = [&](int64_t block) {
        return convolve(upsampled ? large : problem, pass, {Activation::tanh, true, block, 0, 0, 4, upsampled});
      };
      const std::vector<float> first = run(32);
      for (int64_t block : {1, 7, 64, 1000}) EXPECT(same(run(block), first));
    }
}

// The error beside the largest sum of the products' magnitudes: 3e-7 of F(2 x 2, 3 x 3), see test_winograd.cpp, and
// here thrice that; of the upsampled image as of F(2 x 2, 3 x 3).
void test_rounding() {
  for (int64_t channels : {16, 130})
    for (bool is_upsampled : {false, true})
      for (Pass pass : kPasses) {
        if ((is_upsampled && pass == Pass::dgrad) || (kSanitized && channels == 130)) continue;
        const Problem problem =
            is_upsampled ? upsampled(4, 6, 3, 48, channels, Layout::contiguous, Values::real)
                         : Problem({3, 1, 1, 1, 1, 1, 7, 12}, 3, channels, 48, Layout::contiguous, Values::real);
        Problem magnitude = problem;
        for (auto* numbers : {&magnitude.y, &magnitude.x, &magnitude.weight})
          for (double& x : *numbers) x = std::fabs(x);
        const std::vector<double> want = problem.wanted(pass), sums = magnitude.wanted(pass);
        const double largest = *std::max_element(sums.begin(), sums.end());
        const auto got = convolve(problem, pass, {Activation::none, false, 32, 0, 0, 4, is_upsampled});
        double error = 0;
        for (size_t i = 0; i < want.size(); ++i) error = std::max(error, std::fabs(got[i] - want[i]));
        EXPECT_CLOSE(static_cast<double>(channels), error / largest, 0, is_upsampled ? 3e-7 : 9e-7);
      }
}

// A pixel that is not finite reaches whole tiles and nothing else.
void test_nonfinite() {
  for (float bad : {kNaN, __builtin_inff()})
    for (Pass pass : kPasses) {
      const Problem before({3, 1, 1, 1, 1, 1, 11, 10}, 2, 5, 6, Layout::contiguous, Values::real);
      Problem after = before;
      std::vector<double>& in = pass == Pass::dgrad ? after.y : after.x;
      const int64_t in_channels = pass == Pass::dgrad ? 5 : 6, out_channels = 11 - in_channels;
      const int64_t pixel = 2 * 10 + 3;  // rows 1 to 3 and columns 2 to 4: the first two tiles
      in[pixel * in_channels + 2] = bad;
      Options options;
      options.tile = 4;
      const auto clean = convolve(before, pass, options), got = convolve(after, pass, options);
      for (size_t i = 0; i < clean.size(); ++i) {
        const int64_t at = static_cast<int64_t>(i) / out_channels, row = at / 10 % 11, column = at % 10;
        const bool touched = at < 110 && row >= 1 && row <= 3 && column >= 2 && column <= 4;
        const bool tiles = at < 110 && row < 4 && column < 8;
        EXPECT(!touched || !std::isfinite(got[i]));
        EXPECT(tiles || std::memcmp(&got[i], &clean[i], sizeof(float)) == 0);
      }
    }
}

}  // namespace

void test_winograd_f43() {
  test_geometry();
  test_channels();
  test_layouts();
  test_activations();
  test_blocks();
  test_rounding();
  test_nonfinite();
}

}  // namespace sdgan::SDGAN_ISA
