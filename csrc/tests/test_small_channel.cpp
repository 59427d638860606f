// The small-channel kernels against the sums of their header in double: both directions, both sides, residues,
// dilation, crops, masks, channel counts that fill no vector; every buffer ends exactly where its data does. Compiled
// for the CPU kernel and for the CUDA kernels on the host.
#include "kernels/conv/small_channel.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "tests/check.h"
#include "tests/values.h"
#if SDGAN_CUDA_ON_HOST
#include "tests/cuda_on_host/cuda_host.h"
#endif

namespace sdgan::SDGAN_ISA {

void test_small_channel();

namespace {

using testing::guarded;

template <class S>
constexpr DType dtype_of = DType::f32;
template <>
constexpr DType dtype_of<double> = DType::f64;
template <>
constexpr DType dtype_of<bf16> = DType::bf16;
template <>
constexpr DType dtype_of<f16> = DType::f16;

template <class S>
constexpr double kTolerance = 2e-5;
template <>
constexpr double kTolerance<double> = 1e-12;
template <>
constexpr double kTolerance<bf16> = 1e-2;
template <>
constexpr double kTolerance<f16> = 2e-3;

constexpr double kNegativeSlope = 0.2;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;  // unoptimised: fewer cases
#else
constexpr bool kSanitized = false;
#endif

double act_derivative(Activation a, double saved) {
  const double sigmoid = 1 / (1 + std::exp(-saved));
  switch (a) {
    case Activation::relu:
      return saved > 0;
    case Activation::leaky_relu:
      return saved > 0 ? 1 : kNegativeSlope;
    case Activation::tanh:
      return 1 - saved * saved;
    case Activation::sigmoid:
      return saved * (1 - saved);
    case Activation::silu:
      return sigmoid * (1 + saved * (1 - sigmoid));
    case Activation::elu:
      return saved < 0 ? saved + 1 : 1;
    default:
      return 1;
  }
}

int64_t place(bool channels_last, int64_t n, int64_t c, int64_t h, int64_t w, int64_t channels, int64_t height,
              int64_t width) {
  return channels_last ? ((n * height + h) * width + w) * channels + c : ((n * channels + c) * height + h) * width + w;
}

// Calls body(large index, small index, weight index) for every product of the header.
template <class Body>
void for_products(const SmallChannelParams& p, Body body) {
  const ConvAxis &v = p.geometry.vertical, &h = p.geometry.horizontal;
  const SmallChannelSide large = p.large_side(), small = p.small_side();
  const auto for_channels = [&](int64_t n, int64_t large_row, int64_t large_column, int64_t small_row,
                                int64_t small_column, int64_t tap) {
    for (int64_t c = 0; c < large.channels; ++c) {
      for (int64_t k = 0; k < small.channels; ++k) {
        body(place(p.channels_last, n, c, large_row, large_column, large.channels, large.height, large.width),
             place(p.channels_last, n, k, small_row, small_column, small.channels, small.height, small.width),
             (c * small.channels + k) * v.taps * h.taps + tap);
      }
    }
  };
  for (int64_t n = 0; n < p.geometry.batch; ++n) {
    for (int64_t y_row = 0; y_row < v.y; ++y_row) {
      for (int64_t y_column = 0; y_column < h.y; ++y_column) {
        for (int64_t tap = 0; tap < v.taps * h.taps; ++tap) {
          const int64_t x_row = y_row * v.stride + tap / h.taps * v.dilation - v.pad;
          const int64_t x_column = y_column * h.stride + tap % h.taps * h.dilation - h.pad;
          if (x_row < 0 || x_row >= v.x || x_column < 0 || x_column >= h.x) continue;
          if (p.small_is_x) {
            for_channels(n, y_row, y_column, x_row, x_column, tap);
          } else {
            for_channels(n, x_row, x_column, y_row, y_column, tap);
          }
        }
      }
    }
  }
}

void launch_all(const SmallChannelParams& p, void* grad_weight, void* grad_bias) {
#if SDGAN_CUDA_ON_HOST
  EXPECT(launch_small_channel(p, nullptr) == 0);
  if (p.sums_over_batch) EXPECT(launch_small_channel_gradients({p, grad_weight, grad_bias}, nullptr) == 0);
#else
  small_channel(p, 0, p.slice_count());
  if (p.sums_over_batch) small_channel_gradients(p, grad_weight, grad_bias);
#endif
}

struct Out {
  void* data;
  size_t bytes;
};

// On CUDA twice, the second time with the threads in another order: the same bits.
template <class S>
void run(SmallChannelParams p, void* grad_weight, void* grad_bias, [[maybe_unused]] std::vector<Out> outs) {
#if SDGAN_CUDA_ON_HOST
  const size_t bytes = SmallChannelSums(p).partial_size(p.small_side().channels) * sizeof(compute_t<S>);
#else
  const size_t bytes = p.slice_count() * p.partial_size() * sizeof(compute_t<S>);
#endif
  if (p.sums_over_batch) p.partial = guarded(bytes);
#if SDGAN_CUDA_ON_HOST
  if (p.partial) std::memset(p.partial, 0xff, bytes);  // NaN: it is written before it is read
  launch_all(p, grad_weight, grad_bias);
  std::vector<std::vector<char>> first;
  for (const Out& o : outs) {
    first.emplace_back(static_cast<char*>(o.data), static_cast<char*>(o.data) + o.bytes);
    if (o.bytes > 0) std::memset(o.data, 0xff, o.bytes);
  }
  cuhost::options.shuffle = 7;
#endif
  launch_all(p, grad_weight, grad_bias);
#if SDGAN_CUDA_ON_HOST
  cuhost::options.shuffle = 0;
  for (size_t i = 0; i < outs.size(); ++i) {
    EXPECT(outs[i].bytes == 0 || std::memcmp(outs[i].data, first[i].data(), outs[i].bytes) == 0);
  }
#endif
}

template <class S>
void expect(const void* got, const std::vector<double>& want, double scale) {
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_CLOSE(static_cast<double>(i), at<S>(got, static_cast<int64_t>(i)), want[i], scale * kTolerance<S>);
  }
}

// What a forward pass does to one side, and what a backward pass does to both. `slack` elements follow the tensors,
// which moves where they start.
template <class S>
void check(SmallChannelParams p, Activation activation, bool with_sums, int64_t slack = 0) {
  p.dtype = dtype_of<S>;
  p.activation = activation;
  p.negative_slope = kNegativeSlope;
  const SmallChannelSide large_side = p.large_side(), small_side = p.small_side();
  const int64_t small_count = p.geometry.batch * small_side.pixels() * small_side.channels;
  const int64_t large_count = p.geometry.batch * large_side.pixels() * large_side.channels;
  const int64_t weight_count = large_side.channels * p.taps(), rs = p.geometry.taps();
  const auto buffer = [slack](int64_t count) { return guarded((count + slack) * sizeof(S)); };
  const S* large = waves<S>(large_count + slack, 1, 1);
  const S* small = waves<S>(small_count + slack, 2, 1);
  const S* weight = waves<S>(weight_count, 3, 0.5);
  void* large_out = buffer(large_count);
  void* small_out = buffer(small_count);
  void* grad_weight = buffer(weight_count);
  const int64_t strides[] = {small_side.channels * rs, rs, p.geometry.horizontal.taps, 1};
  for (int i = 0; i < 4; ++i) p.weight_stride[i] = strides[i];
  p.weight = weight;

  std::vector<double> want_large(large_count), want_small(small_count), want_weight(weight_count);
  const auto channel = [&](int64_t i, bool is_large) {
    const SmallChannelSide& side = is_large ? large_side : small_side;
    return p.channels_last ? i % side.channels : i / side.pixels() % side.channels;
  };
  const double scale = std::sqrt(static_cast<double>(large_side.channels));  // of the errors of sums over channels

  for (bool to_small : {true, false}) {  // forward
    const int64_t count = to_small ? small_count : large_count;
    const int64_t channels = to_small ? small_side.channels : large_side.channels;
    SmallChannelParams f = p;
    const S* bias = waves<S>(channels, 4, 1);
    const bool keeps = activation == Activation::silu;
    void* preactivation = keeps ? buffer(count) : nullptr;
    f.bias = with_sums ? bias : nullptr;
    f.preactivation = preactivation;
    (to_small ? f.large_in : f.small_in) = to_small ? large : small;
    (to_small ? f.small_out : f.large_out) = to_small ? small_out : large_out;
    run<S>(f, nullptr, nullptr, {{to_small ? small_out : large_out, count * sizeof(S)}});
    std::vector<double>& want = to_small ? want_small : want_large;
    for (int64_t i = 0; i < count; ++i) want[i] = with_sums ? at<S>(bias, channel(i, !to_small)) : 0;
    for_products(p, [&](int64_t x, int64_t y, int64_t w) {
      want[to_small ? y : x] += (to_small ? at<S>(large, x) : at<S>(small, y)) * at<S>(weight, w);
    });
    if (keeps) expect<S>(preactivation, want, scale);
    for (double& x : want) x = activated(activation, x, kNegativeSlope);
    expect<S>(to_small ? small_out : large_out, want, scale);
  }

  for (bool output_is_small : {true, false}) {  // backward
    const int64_t channels = output_is_small ? small_side.channels : large_side.channels;
    const bool masks = activation != Activation::none;
    const S* saved = waves<S>((output_is_small ? small_count : large_count) + slack, 5, 0.9);
    void* grad_bias = buffer(channels);
    SmallChannelParams b = p;
    b.large_in = large;
    b.small_in = small;
    if (masks) (output_is_small ? b.small_saved : b.large_saved) = saved;
    (output_is_small ? b.large_out : b.small_out) = output_is_small ? large_out : small_out;
    b.sums_over_batch = true;
    b.weight_gradient = true;
    (output_is_small ? b.small_sums : b.large_sums) = with_sums;
    const int64_t input_count = output_is_small ? large_count : small_count;
    std::vector<Out> outs{{grad_weight, weight_count * sizeof(S)},
                          {output_is_small ? large_out : small_out, input_count * sizeof(S)}};
    if (with_sums) outs.push_back({grad_bias, channels * sizeof(S)});
    run<S>(b, grad_weight, with_sums ? grad_bias : nullptr, outs);

    const auto large_at = [&](int64_t i) {
      return at<S>(large, i) * (b.large_saved ? act_derivative(activation, at<S>(saved, i)) : 1);
    };
    const auto small_at = [&](int64_t i) {
      return at<S>(small, i) * (b.small_saved ? act_derivative(activation, at<S>(saved, i)) : 1);
    };
    want_large.assign(large_count, 0);
    want_small.assign(small_count, 0);
    want_weight.assign(weight_count, 0);
    std::vector<double> want_bias(channels);
    for_products(p, [&](int64_t x, int64_t y, int64_t w) {
      if (output_is_small) {
        want_large[x] += small_at(y) * at<S>(weight, w);
      } else {
        want_small[y] += large_at(x) * at<S>(weight, w);
      }
      want_weight[w] += large_at(x) * small_at(y);
    });
    for (int64_t i = 0; i < (output_is_small ? small_count : large_count); ++i) {
      want_bias[channel(i, !output_is_small)] += output_is_small ? small_at(i) : large_at(i);
    }
    expect<S>(b.large_out ? large_out : small_out, b.large_out ? want_large : want_small, scale);
    expect<S>(grad_weight, want_weight, 4);
    if (!with_sums) continue;
    expect<S>(grad_bias, want_bias, 4);
    b.large_out = nullptr;  // the bias gradient alone
    b.small_out = nullptr;
    b.weight_gradient = false;
    (output_is_small ? b.large_in : b.small_in) = nullptr;
    run<S>(b, nullptr, grad_bias, {{grad_bias, channels * sizeof(S)}});
    expect<S>(grad_bias, want_bias, 4);
  }
}

struct Case {
  ConvAxis vertical, horizontal;  // x, y, taps, stride, dilation, pad
  bool small_is_x;
};

SmallChannelParams params(const Case& c, int64_t batch, int64_t large_channels, int64_t small_channels,
                          bool channels_last) {
  SmallChannelParams p;
  p.geometry.vertical = c.vertical;
  p.geometry.horizontal = c.horizontal;
  p.geometry.batch = batch;
  p.geometry.x_channels = c.small_is_x ? small_channels : large_channels;
  p.geometry.y_channels = c.small_is_x ? large_channels : small_channels;
  p.small_is_x = c.small_is_x;
  p.channels_last = channels_last;
  return p;
}

const Case kCases[] = {
    {{7, 7, 5, 1, 1, 2}, {9, 9, 5, 1, 1, 2}, false},   // conv 5x5
    {{8, 4, 4, 2, 1, 1}, {10, 5, 4, 2, 1, 1}, true},   // transposed 4x4
    {{8, 4, 5, 2, 1, 1}, {10, 5, 5, 2, 1, 1}, false},  // Keras' same
    {{9, 3, 2, 3, 1, 0}, {16, 17, 3, 1, 2, 2}, true},  // rows that no tap reaches; dilation, crop
    {{7, 3, 1, 2, 1, 0}, {6, 2, 2, 3, 2, 1}, false},   // residues without a tap
};

// What the 5 geometries times channels cover least: taps, pixels and channels that need more than one block or round.
template <class S>
void check_large(Activation activation) {
  const Case patches{{12, 3, 4, 4, 1, 0}, {11, 3, 4, 4, 1, 0}, true};
  const Case dilated{{13, 9, 3, 2, 2, 0}, {11, 6, 5, 3, 6, 10}, false};  // stride and dilation share a divisor
  const Case apart{{13, 3, 2, 5, 2, 1}, {12, 2, 3, 6, 1, 0}, false};     // more residues than CUDA has at hand
  const Case many_taps{{6, 4, 7, 1, 1, 2}, {7, 3, 9, 1, 1, 2}, false};   // 4 * 63 taps
  const Case to_one{{4, 1, 4, 1, 1, 0}, {4, 1, 4, 1, 1, 0}, false};
  const Case image{{28, 28, 5, 1, 1, 2}, {28, 28, 5, 1, 1, 2}, false};
  const Case row{{2, 3, 2, 1, 1, 0}, {142, 71, 4, 2, 1, 1}, true};
  const Case down{{28, 14, 5, 2, 1, 1}, {31, 16, 5, 2, 1, 1}, true};
  for (bool channels_last : {false, true}) {
    check<S>(params(patches, 2, 21, 3, channels_last), activation, true);
    check<S>(params(dilated, 3, 17, 2, channels_last), activation, true);
    check<S>(params(apart, 2, 19, 2, channels_last), activation, true);
    check<S>(params(many_taps, 1, 20, 4, channels_last), activation, true);
    check<S>(params(many_taps, 1, 8, 3, channels_last), Activation::none, false);
    check<S>(params(to_one, 5, 150, 1, channels_last), activation, true);
    check<S>(params(row, 1, 6, 3, channels_last), activation, true);
    check<S>(params(down, 2, 70, 1, channels_last), activation, false);
  }
  check<S>(params(image, 2, 24, 1, true), activation, true);
  check<S>(params(image, 1, 8, 1, true), activation, true, 1);
  check<S>(params(image, 1, 8, 1, false), activation, true, 3);
  check<S>(params(to_one, 300, 9, 1, false), activation, true);
  check<S>(params(to_one, 0, 16, 1, false), activation, true);
}

}  // namespace

void test_small_channel() {
#if SDGAN_CUDA_ON_HOST
  cuhost::options.race_check = true;
  for (const Case& c : kCases) {
    for (bool channels_last : {false, true}) {
      check<float>(params(c, 2, 18, 2, channels_last), Activation::tanh, true);
      if (!kSanitized) check<bf16>(params(c, 1, 40, 3, channels_last), Activation::relu, true);
    }
  }
  cuhost::options.race_check = false;
#endif
  for (const Case& c : kCases) {
    for (int64_t channels : {1, 5, 16, 37, 128}) {
      if (kSanitized && channels != 37) continue;
      for (int64_t small_channels : {1, 3}) {
        if (kSanitized && small_channels == 1) continue;
        for (bool channels_last : {false, true}) {
          check<float>(params(c, 2, channels, small_channels, channels_last), Activation::none, false);
        }
      }
    }
    for (bool channels_last : {false, true}) {
      for (Activation a : {Activation::relu, Activation::leaky_relu, Activation::tanh, Activation::sigmoid,
                           Activation::silu, Activation::elu}) {
        if (kSanitized && a != Activation::silu && a != Activation::tanh) continue;
        check<float>(params(c, 3, 19, 2, channels_last), a, true);
      }
      if (kSanitized) continue;
      check<double>(params(c, 3, 70, 4, channels_last), Activation::silu, true);
      check<bf16>(params(c, 1, 16, 4, channels_last), Activation::silu, true);
      check<bf16>(params(c, 3, 64, 1, channels_last), Activation::leaky_relu, true);
#if SDGAN_CUDA_ON_HOST
      check<f16>(params(c, 1, 16, 3, channels_last), Activation::silu, true);
      check<f16>(params(c, 3, 128, 1, channels_last), Activation::leaky_relu, true);
#endif
    }
  }
  check_large<float>(Activation::leaky_relu);
  if (kSanitized) return;
  check_large<double>(Activation::tanh);
  check_large<bf16>(Activation::silu);
}

}  // namespace sdgan::SDGAN_ISA
