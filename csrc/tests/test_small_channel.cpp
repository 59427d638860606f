// The small-channel kernels against the sums of their header in double: both directions, both sides, phases, dilation,
// crops, masks, channel counts that fill no vector; every buffer ends exactly where its data does. Compiled for the CPU
// kernel and for the CUDA kernels on the host.
#include "kernels/conv/small_channel.h"

#include <cmath>
#include <cstring>
#include <type_traits>
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
constexpr DType dtype_of = std::is_same_v<S, float>    ? DType::f32
                           : std::is_same_v<S, double> ? DType::f64
                           : std::is_same_v<S, bf16>   ? DType::bf16
                                                       : DType::f16;
template <class S>
constexpr double kTolerance = std::is_same_v<S, float>    ? 2e-5
                              : std::is_same_v<S, double> ? 1e-12
                              : std::is_same_v<S, bf16>   ? 1e-2
                                                          : 2e-3;

constexpr double kSlope = 0.2;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;  // unoptimised: fewer cases
#else
constexpr bool kSanitized = false;
#endif

double act_slope(Activation a, double saved) {
  const double sigmoid = 1 / (1 + std::exp(-saved));
  switch (a) {
    case Activation::relu:
      return saved > 0;
    case Activation::leaky_relu:
      return saved > 0 ? 1 : kSlope;
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

// Calls body(wide index, thin index, weight index) for every product of the header.
template <class Body>
void for_products(const SmallChannelParams& p, Body body) {
  const SmallChannelAxis &v = p.vertical, &u = p.horizontal;
  const int64_t rows = p.wide_is_fine ? v.thin : v.wide, columns = p.wide_is_fine ? u.thin : u.wide;
  for (int64_t n = 0; n < p.batch; ++n)
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j)
        for (int64_t r = 0; r < v.taps; ++r)
          for (int64_t s = 0; s < u.taps; ++s) {
            const int64_t y = i * v.stride + r * v.dilation - v.pad, x = j * u.stride + s * u.dilation - u.pad;
            const int64_t h = p.wide_is_fine ? y : i, w = p.wide_is_fine ? x : j;
            const int64_t a = p.wide_is_fine ? i : y, b = p.wide_is_fine ? j : x;
            if (h < 0 || h >= v.wide || w < 0 || w >= u.wide || a < 0 || a >= v.thin || b < 0 || b >= u.thin) continue;
            for (int64_t c = 0; c < p.channels; ++c)
              for (int64_t k = 0; k < p.thin_channels; ++k)
                body(place(p.channels_last, n, c, h, w, p.channels, v.wide, u.wide),
                     place(p.channels_last, n, k, a, b, p.thin_channels, v.thin, u.thin),
                     ((c * p.thin_channels + k) * v.taps + r) * u.taps + s);
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
  const size_t bytes = SmallChannelSums(p).partial_size(p.thin_channels) * sizeof(compute_t<S>);
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
  p.negative_slope = kSlope;
  const int64_t thin_count = p.batch * p.vertical.thin * p.horizontal.thin * p.thin_channels;
  const int64_t wide_count = p.batch * p.vertical.wide * p.horizontal.wide * p.channels;
  const int64_t weight_count = p.channels * p.taps(), rs = p.vertical.taps * p.horizontal.taps;
  const auto buffer = [slack](int64_t count) { return guarded((count + slack) * sizeof(S)); };
  const S *wide = waves<S>(wide_count + slack, 1, 1), *thin = waves<S>(thin_count + slack, 2, 1);
  const S* weight = waves<S>(weight_count, 3, 0.5);
  void *wide_out = buffer(wide_count), *thin_out = buffer(thin_count), *grad_weight = buffer(weight_count);
  const int64_t strides[] = {p.thin_channels * rs, rs, p.horizontal.taps, 1};
  for (int i = 0; i < 4; ++i) p.weight_stride[i] = strides[i];
  p.weight = weight;

  std::vector<double> want_wide(wide_count), want_thin(thin_count), want_weight(weight_count);
  const auto channel = [&](int64_t i, bool is_wide) {
    const SmallChannelAxis &v = p.vertical, &u = p.horizontal;
    const int64_t channels = is_wide ? p.channels : p.thin_channels;
    const int64_t plane = is_wide ? v.wide * u.wide : v.thin * u.thin;
    return p.channels_last ? i % channels : i / plane % channels;
  };
  const double scale = std::sqrt(static_cast<double>(p.channels));  // of the errors of sums over channels

  for (bool to_thin : {true, false}) {  // forward
    const int64_t count = to_thin ? thin_count : wide_count, channels = to_thin ? p.thin_channels : p.channels;
    SmallChannelParams f = p;
    const S* bias = waves<S>(channels, 4, 1);
    const bool keeps = activation == Activation::silu;
    void* preactivation = keeps ? buffer(count) : nullptr;
    f.bias = with_sums ? bias : nullptr;
    f.preactivation = preactivation;
    (to_thin ? f.wide_in : f.thin_in) = to_thin ? wide : thin;
    (to_thin ? f.thin_out : f.wide_out) = to_thin ? thin_out : wide_out;
    run<S>(f, nullptr, nullptr, {{to_thin ? thin_out : wide_out, count * sizeof(S)}});
    std::vector<double>& want = to_thin ? want_thin : want_wide;
    for (int64_t i = 0; i < count; ++i) want[i] = with_sums ? at<S>(bias, channel(i, !to_thin)) : 0;
    for_products(p, [&](int64_t x, int64_t y, int64_t w) {
      want[to_thin ? y : x] += (to_thin ? at<S>(wide, x) : at<S>(thin, y)) * at<S>(weight, w);
    });
    if (keeps) expect<S>(preactivation, want, scale);
    for (double& x : want) x = activated(activation, x, kSlope);
    expect<S>(to_thin ? thin_out : wide_out, want, scale);
  }

  for (bool output_is_thin : {true, false}) {  // backward
    const int64_t channels = output_is_thin ? p.thin_channels : p.channels;
    const bool masks = activation != Activation::none;
    const S* saved = waves<S>((output_is_thin ? thin_count : wide_count) + slack, 5, 0.9);
    void* grad_bias = buffer(channels);
    SmallChannelParams b = p;
    b.wide_in = wide;
    b.thin_in = thin;
    if (masks) (output_is_thin ? b.thin_saved : b.wide_saved) = saved;
    (output_is_thin ? b.wide_out : b.thin_out) = output_is_thin ? wide_out : thin_out;
    b.sums_over_batch = true;
    b.weight_gradient = true;
    (output_is_thin ? b.thin_sums : b.wide_sums) = with_sums;
    const int64_t input_count = output_is_thin ? wide_count : thin_count;
    std::vector<Out> outs{{grad_weight, weight_count * sizeof(S)},
                          {output_is_thin ? wide_out : thin_out, input_count * sizeof(S)}};
    if (with_sums) outs.push_back({grad_bias, channels * sizeof(S)});
    run<S>(b, grad_weight, with_sums ? grad_bias : nullptr, outs);

    const auto wide_at = [&](int64_t i) {
      return at<S>(wide, i) * (b.wide_saved ? act_slope(activation, at<S>(saved, i)) : 1);
    };
    const auto thin_at = [&](int64_t i) {
      return at<S>(thin, i) * (b.thin_saved ? act_slope(activation, at<S>(saved, i)) : 1);
    };
    want_wide.assign(wide_count, 0);
    want_thin.assign(thin_count, 0);
    want_weight.assign(weight_count, 0);
    std::vector<double> want_bias(channels);
    for_products(p, [&](int64_t x, int64_t y, int64_t w) {
      if (output_is_thin) {
        want_wide[x] += thin_at(y) * at<S>(weight, w);
      } else {
        want_thin[y] += wide_at(x) * at<S>(weight, w);
      }
      want_weight[w] += wide_at(x) * thin_at(y);
    });
    for (int64_t i = 0; i < (output_is_thin ? thin_count : wide_count); ++i) {
      want_bias[channel(i, !output_is_thin)] += output_is_thin ? thin_at(i) : wide_at(i);
    }
    expect<S>(b.wide_out ? wide_out : thin_out, b.wide_out ? want_wide : want_thin, scale);
    expect<S>(grad_weight, want_weight, 4);
    if (!with_sums) continue;
    expect<S>(grad_bias, want_bias, 4);
    b.wide_out = b.thin_out = nullptr;  // the bias gradient alone
    b.weight_gradient = false;
    (output_is_thin ? b.wide_in : b.thin_in) = nullptr;
    run<S>(b, nullptr, grad_bias, {{grad_bias, channels * sizeof(S)}});
    expect<S>(grad_bias, want_bias, 4);
  }
}

struct Case {
  SmallChannelAxis vertical, horizontal;  // wide, thin, taps, stride, dilation, pad
  bool wide_is_fine;
};

SmallChannelParams params(const Case& c, int64_t batch, int64_t channels, int64_t thin_channels, bool channels_last) {
  SmallChannelParams p;
  p.vertical = c.vertical;
  p.horizontal = c.horizontal;
  p.wide_is_fine = c.wide_is_fine;
  p.batch = batch;
  p.channels = channels;
  p.thin_channels = thin_channels;
  p.channels_last = channels_last;
  return p;
}

const Case kCases[] = {
    {{7, 7, 5, 1, 1, 2}, {9, 9, 5, 1, 1, 2}, true},     // conv 5x5
    {{4, 8, 4, 2, 1, 1}, {5, 10, 4, 2, 1, 1}, false},   // transposed 4x4
    {{8, 4, 5, 2, 1, 1}, {10, 5, 5, 2, 1, 1}, true},    // Keras' same
    {{3, 9, 2, 3, 1, 0}, {17, 16, 3, 1, 2, 2}, false},  // rows that no tap reaches; dilation, crop
    {{7, 3, 1, 2, 1, 0}, {6, 2, 2, 3, 2, 1}, true},     // phases without a tap
};

// What the 5 geometries times channels cover least: taps, pixels and channels that need more than one block or round.
template <class S>
void check_large(Activation activation) {
  const Case patches{{3, 12, 4, 4, 1, 0}, {3, 11, 4, 4, 1, 0}, false};
  const Case dilated{{13, 9, 3, 2, 2, 0}, {11, 6, 5, 3, 6, 10}, true};  // stride and dilation share a divisor
  const Case large{{6, 4, 7, 1, 1, 2}, {7, 3, 9, 1, 1, 2}, true};       // 4 * 63 taps
  const Case to_one{{4, 1, 4, 1, 1, 0}, {4, 1, 4, 1, 1, 0}, true};
  const Case image{{28, 28, 5, 1, 1, 2}, {28, 28, 5, 1, 1, 2}, true};
  const Case row{{3, 2, 2, 1, 1, 0}, {71, 142, 4, 2, 1, 1}, false};
  const Case down{{14, 28, 5, 2, 1, 1}, {16, 31, 5, 2, 1, 1}, false};
  for (bool channels_last : {false, true}) {
    check<S>(params(patches, 2, 21, 3, channels_last), activation, true);
    check<S>(params(dilated, 3, 17, 2, channels_last), activation, true);
    check<S>(params(large, 1, 20, 4, channels_last), activation, true);
    check<S>(params(large, 1, 8, 3, channels_last), Activation::none, false);
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
      for (int64_t thin_channels : {1, 3}) {
        if (kSanitized && thin_channels == 1) continue;
        for (bool channels_last : {false, true}) {
          check<float>(params(c, 2, channels, thin_channels, channels_last), Activation::none, false);
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
