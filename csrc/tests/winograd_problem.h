// Problems for the Winograd kernels: the sums of geometry.h in double, and the kernels on guarded memory. Every buffer
// ends where an unmapped page begins and is NaN before its data; outputs and the thread's workspace are NaN to begin
// with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/conv/winograd/winograd.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/workspace.h"
#include "tests/check.h"
#include "tests/values.h"

namespace sdgan::SDGAN_ISA {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;  // unoptimised: fewer cases
#else
constexpr bool kSanitized = false;
#endif

constexpr double kSlope = 0.25, kScale = 0.5;
constexpr float kNaN = __builtin_nanf("");

// ----------------------------------------------------------------------------------------------------------- memory
// Guarded floats, used again and again; the last `n` of them, NaN, after at least one vector of NaN.
class Pool {
 public:
  explicit Pool(int64_t capacity)
      : capacity_(capacity), data_(static_cast<float*>(testing::guarded(capacity * sizeof(float)))) {}
  float* take(int64_t n) {
    n_ = n;
    if (n + kBefore > capacity_) std::abort();
    float* from = data_ + capacity_ - n;
    std::fill(from - kBefore, from + n, kNaN);
    return from;
  }
  float* copy(const std::vector<double>& values) {
    float* out = take(static_cast<int64_t>(values.size()));
    for (size_t i = 0; i < values.size(); ++i) out[i] = static_cast<float>(values[i]);
    return out;
  }
  bool clean_before() const {
    const float* from = data_ + capacity_ - n_;
    return std::all_of(from - kBefore, from, [](float x) { return std::isnan(x); });
  }

 private:
  static constexpr int64_t kBefore = 16;
  const int64_t capacity_;
  float* const data_;
  int64_t n_ = 0;
};

struct Memory {
  Pool y{1 << 18}, x{1 << 19}, weight{1 << 20}, filter{1 << 21}, y_out{1 << 18}, x_out{1 << 19}, preactivation{1 << 19},
      grad_weight{1 << 20}, bias{1 << 10}, residual{1 << 18};
};
Memory& memory() {
  static auto* all = new Memory;
  return *all;
}

// -------------------------------------------------------------------------------------------------------- reference
enum class Values { whole, real };  // whole numbers of [-3, 3]; reals of (-1, 1)
enum class Layout { contiguous, channels_last, y_last, gaps };

double number(Values values, int64_t i, uint64_t salt) {
  uint64_t x = (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15u + salt * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  if (values == Values::whole) return static_cast<double>(x % 7) - 3;
  return static_cast<float>(static_cast<double>(x >> 11) * 0x1p-52 - 1);
}
std::vector<double> numbers(Values values, int64_t n, uint64_t salt) {
  std::vector<double> out(n);
  for (int64_t i = 0; i < n; ++i) out[i] = number(values, i, salt);
  return out;
}

struct Geometry {
  int64_t taps, stride;
  int64_t top, bottom, left, right;  // pads of x
  int64_t height, width;             // of y
};

struct Problem {
  Geometry g;
  int64_t batch, y_channels, x_channels;
  Layout layout = Layout::contiguous;
  Values values = Values::whole;
  int64_t x_height = 0, x_width = 0, y_count = 0, x_count = 0, weight_count = 0;  // the last with gaps
  int64_t stride[4] = {};
  std::vector<double> y, x, weight;  // the weight as [r][s][c][d]

  Problem(const Geometry& geometry, int64_t n, int64_t c, int64_t d, Layout how = Layout::contiguous,
          Values what = Values::whole)
      : g(geometry), batch(n), y_channels(c), x_channels(d), layout(how), values(what) {
    const int64_t k = g.taps;
    x_height = (g.height - 1) * g.stride + k - g.top - g.bottom;
    x_width = (g.width - 1) * g.stride + k - g.left - g.right;
    if (!valid()) return;
    y_count = n * g.height * g.width * c;
    x_count = n * x_height * x_width * d;
    const int64_t strides[4][4] = {{d * k * k, k * k, k, 1},
                                   {d * k * k, 1, k * d, d},
                                   {1, c * k * k, k * c, c},
                                   {d * (2 * k * k + 3) + 1, 2 * k * k + 3, 2 * k, 2}};
    std::copy_n(strides[static_cast<int>(layout)], 4, stride);
    weight_count = 1 + (c - 1) * stride[0] + (d - 1) * stride[1] + (k - 1) * (stride[2] + stride[3]);
    y = numbers(values, y_count, 1);
    x = numbers(values, x_count, 2);
    weight = numbers(values, k * k * c * d, 3);
  }
  bool valid() const { return x_height > 0 && x_width > 0; }

  // body(pixel of y, pixel of x, tap) for all that meet.
  template <class Body>
  void for_pairs(Body body) const {
    for (int64_t n = 0; n < batch; ++n)
      for (int64_t h = 0; h < g.height; ++h)
        for (int64_t r = 0; r < g.taps; ++r) {
          const int64_t p = g.stride * h + r - g.top;
          if (p < 0 || p >= x_height) continue;
          for (int64_t w = 0; w < g.width; ++w)
            for (int64_t s = 0; s < g.taps; ++s) {
              const int64_t q = g.stride * w + s - g.left;
              if (q < 0 || q >= x_width) continue;
              body((n * g.height + h) * g.width + w, (n * x_height + p) * x_width + q, r * g.taps + s);
            }
        }
  }
  // x upsampled by 2 from its pixels of even places, and those pixels.
  void upsample() {
    for (int64_t i = 0; i < x_count; ++i) x[i] = x[of_even_place(i)];
  }
  std::vector<double> every_second_pixel() const {
    std::vector<double> out;
    for (int64_t i = 0; i < x_count; ++i) {
      if (of_even_place(i) == i) out.push_back(x[i]);
    }
    return out;
  }
  int64_t of_even_place(int64_t i) const {
    const int64_t column = i / x_channels % x_width, row = i / x_channels / x_width % x_height;
    return i - (column % 2 + row % 2 * x_width) * x_channels;
  }
  int64_t place(int64_t c, int64_t d, int64_t tap) const {
    return c * stride[0] + d * stride[1] + tap / g.taps * stride[2] + tap % g.taps * stride[3];
  }

  std::vector<double> wanted(Pass pass) const {
    const int64_t Cy = y_channels, Cx = x_channels;
    int64_t count = g.taps * g.taps * Cy * Cx;
    if (pass == Pass::dgrad) count = x_count;
    if (pass == Pass::fprop) count = y_count;
    std::vector<double> out(count);
    for_pairs([&](int64_t at_y, int64_t at_x, int64_t tap) {
      for (int64_t c = 0; c < Cy; ++c) {
        const double* w = weight.data() + (tap * Cy + c) * Cx;
        double* of = pass == Pass::dgrad ? out.data() + at_x * Cx : out.data() + (tap * Cy + c) * Cx;
        if (pass == Pass::fprop) {
          double sum = 0;
          for (int64_t d = 0; d < Cx; ++d) sum += w[d] * x[at_x * Cx + d];
          out[at_y * Cy + c] += sum;
        } else if (pass == Pass::dgrad) {
          for (int64_t d = 0; d < Cx; ++d) of[d] += w[d] * y[at_y * Cy + c];
        } else {
          for (int64_t d = 0; d < Cx; ++d) of[d] += x[at_x * Cx + d] * y[at_y * Cy + c];
        }
      }
    });
    return out;
  }

  WinogradParams params(Pass pass) const {
    WinogradParams p;
    p.pass = pass;
    p.geometry.vertical = {x_height, g.height, g.taps, g.stride, 1, g.top};
    p.geometry.horizontal = {x_width, g.width, g.taps, g.stride, 1, g.left};
    p.geometry.batch = batch;
    p.geometry.y_channels = y_channels;
    p.geometry.x_channels = x_channels;
    std::copy_n(stride, 4, p.weight_stride);
    p.negative_slope = kSlope;
    return p;
  }
};

// ------------------------------------------------------------------------------------------------------------- runs
// The slices one by one, the last first: they know nothing of each other.
template <class Kernel>
void backwards(int64_t count, Kernel kernel) {
  for (int64_t slice = count; slice-- > 0;) kernel(slice, slice + 1);
}

// What an earlier call left in the thread's memory may be NaN.
void spoil_workspace() {
  constexpr int64_t kFloats = 1 << 16;
  std::memset(workspace(Workspace::planes, kFloats), 0xff, kFloats * sizeof(float));
}

struct Options {
  Activation activation = Activation::none;
  bool bias = false;
  int64_t block = 32, y_block = 128, x_block = 32;
  int64_t tile = 2;
  bool upsampled = false;  // fprop, of an x whose pixels are equal in squares of 2 x 2
  bool residual = false;   // of fprop, and the output's scale with it
};

std::vector<float> copied(const float* from, int64_t n) { return std::vector<float>(from, from + n); }

// dgrad or fprop; `preactivation` receives what the kernel keeps for silu.
std::vector<float> convolve(const Problem& problem, Pass pass, const Options& options,
                            std::vector<float>* preactivation = nullptr) {
  const bool dgrad = pass == Pass::dgrad;
  const int64_t count = dgrad ? problem.x_count : problem.y_count;
  Memory& m = memory();
  WinogradParams p = problem.params(pass);
  p.tile = options.tile;
  p.upsampled = options.upsampled;
  float* weight = m.weight.take(problem.weight_count);
  for (int64_t tap = 0; tap < p.taps() * p.taps(); ++tap)
    for (int64_t c = 0; c < p.geometry.y_channels; ++c)
      for (int64_t d = 0; d < p.geometry.x_channels; ++d)
        weight[problem.place(c, d, tap)] =
            static_cast<float>(problem.weight[(tap * p.geometry.y_channels + c) * p.geometry.x_channels + d]);
  p.weight = weight;
  p.filter = m.filter.take(winograd_filter_size(p));
  (dgrad ? p.y_in : p.x_in) =
      dgrad ? m.y.copy(problem.y) : m.x.copy(options.upsampled ? problem.every_second_pixel() : problem.x);
  Pool& out = dgrad ? m.x_out : m.y_out;
  (dgrad ? p.x_out : p.y_out) = out.take(count);
  if (options.bias) {
    p.bias = m.bias.copy(numbers(problem.values, dgrad ? p.geometry.x_channels : p.geometry.y_channels, 4));
  }
  if (options.residual && !dgrad) {
    p.residual = m.residual.copy(numbers(problem.values, count, 5));
    p.output_scale = kScale;
  }
  p.activation = options.activation;
  if (derivative_needs_input(p.activation)) p.preactivation = m.preactivation.take(count);
  p.block = options.block;
  spoil_workspace();
  const bool f43 = p.tile == 4;
  backwards((dgrad ? p.padded_y() : p.padded_x()) / 16, [&](int64_t begin, int64_t end) {
    f43 ? winograd_f43_filter(p, begin, end) : winograd_filter(p, begin, end);
  });
  backwards(p.slice_count(), [&](int64_t begin, int64_t end) {
    if (f43) return winograd_f43(p, begin, end);
    dgrad ? winograd_dgrad(p, begin, end) : winograd_fprop(p, begin, end);
  });
  EXPECT(out.clean_before() && m.filter.clean_before());
  EXPECT(!p.preactivation || m.preactivation.clean_before());
  if (preactivation && p.preactivation) *preactivation = copied(p.preactivation, count);
  return copied(dgrad ? p.x_out : p.y_out, count);
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

void expect(const std::vector<float>& got, const std::vector<double>& want, double tolerance) {
  EXPECT(got.size() == want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_CLOSE(static_cast<double>(i), got[i], want[i], tolerance);
}

}  // namespace
}  // namespace sdgan::SDGAN_ISA
