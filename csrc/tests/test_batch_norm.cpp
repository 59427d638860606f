// The batch_norm kernels against the formulas of their header in double: both ways through memory, tails, given and own
// statistics, on memory that ends exactly where the data does; slices or threads in any order give the same bits.
#include "kernels/batch_norm.h"

#include <cmath>
#include <cstring>

#include "tests/check.h"
#include "tests/values.h"
#if SDGAN_CUDA_ON_HOST
#include "tests/cuda_on_host/cuda_host.h"
#endif

namespace sdgan::SDGAN_ISA {

void test_batch_norm();

namespace {

using testing::guarded;

struct Case {
  int64_t batch, channels, length;
  bool channels_last;
};

template <class S>
S* numbers(int64_t n, double offset, double spread, int salt) {
  S* data = static_cast<S*>(guarded(n * sizeof(S)));
  for (int64_t i = 0; i < n; ++i) {
    put<S>(data, i, offset + spread * std::sin(1.7 * static_cast<double>(i % 1009) + salt));
  }
  return data;
}

double silu(double x) { return x / (1 + std::exp(-x)); }
double silu_gradient(double x) {
  const double s = 1 / (1 + std::exp(-x));
  return s * (1 + x * (1 - s));
}

template <class P, class S>
void set_shape(P& p, const Case& c, DType dtype) {
  using T = compute_t<S>;
  p.batch = c.batch;
  p.channels = c.channels;
  p.length = c.length;
  p.in_rows = c.channels_last || c.length < BatchNormShape::kSmallPlane;
  p.repeat = p.in_rows && !c.channels_last ? c.length : 1;
  p.eps = 1e-3;
  p.activation = Activation::silu;
  p.dtype = dtype;
  p.input = numbers<S>(c.batch * c.channels * c.length, 3, 1, 0);
  p.weight = numbers<T>(c.channels, 1, 0.5, 1);
  p.bias = numbers<T>(c.channels, 0, 0.5, 2);
#if SDGAN_CUDA_ON_HOST
  p.partial = static_cast<double*>(guarded(p.cuda_partial_count() * sizeof(double)));
#else
  p.partial = static_cast<double*>(guarded(p.partial_count() * 2 * p.columns() * sizeof(double)));
  p.factors = static_cast<double*>(guarded(5 * (p.columns() + BatchNormShape::kFactorPad) * sizeof(double)));
#endif
}

#if SDGAN_CUDA_ON_HOST
// `another`: the threads in another order, and with the check for races, which takes its time.
void run(const BatchNormParams& p, const BatchNormBackwardParams& b, bool another) {
  cuhost::options.shuffle = another;
  cuhost::options.race_check = another && p.count() * p.channels < 20000;
  EXPECT(launch_batch_norm(p, nullptr) == 0);
  EXPECT(launch_batch_norm_backward(b, nullptr) == 0);
}
#else
// Calls run(begin, end) for all slices at once, or one by one from the last.
template <class Run>
void slices_of(int64_t count, bool at_once, Run run) {
  if (at_once) return run(0, count);
  for (int64_t s = count; s-- > 0;) run(s, s + 1);
}

// `another`: the slices one by one, from the last.
void run(const BatchNormParams& p, const BatchNormBackwardParams& b, bool another) {
  if (!p.given_mean) {
    slices_of(p.reduce_slices(), !another, [&](int64_t s, int64_t e) { SDGAN_ISA::batch_norm_reduce(p, s, e); });
  }
  SDGAN_ISA::batch_norm_finish(p, 0, p.channels);
  slices_of(p.map_slices(), !another, [&](int64_t s, int64_t e) { SDGAN_ISA::batch_norm_map(p, s, e); });
  SDGAN_ISA::batch_norm_backward_prepare(b);
  slices_of(b.reduce_slices(), !another, [&](int64_t s, int64_t e) { SDGAN_ISA::batch_norm_backward_reduce(b, s, e); });
  SDGAN_ISA::batch_norm_backward_finish(b, 0, b.channels);
  slices_of(b.map_slices(), !another, [&](int64_t s, int64_t e) { SDGAN_ISA::batch_norm_backward_map(b, s, e); });
}
#endif

template <class S>
void check(const Case& c, bool given, DType dtype) {
  using T = compute_t<S>;
  const double tolerance = dtype == DType::f32 ? 2e-5 : dtype == DType::f64 ? 1e-12 : 2e-2;
  const int64_t n = c.batch * c.length, total = n * c.channels;
  const auto index = [&](int64_t i, int64_t channel) {  // the i-th value of a channel
    return c.channels_last ? i * c.channels + channel : (i / c.length * c.channels + channel) * c.length + i % c.length;
  };

  BatchNormParams p;
  set_shape<BatchNormParams, S>(p, c, dtype);
  p.given_mean = given ? numbers<T>(c.channels, 2.5, 1, 3) : nullptr;
  p.given_var = given ? numbers<T>(c.channels, 2, 1, 4) : nullptr;
  p.mean = p.mean_out = guarded(c.channels * sizeof(T));
  p.var = p.var_out = guarded(c.channels * sizeof(T));
  BatchNormBackwardParams b;
  set_shape<BatchNormBackwardParams, S>(b, c, dtype);
  b.training = !given;
  b.mean = p.mean;
  b.var = p.var;
  b.grad_output = numbers<S>(total, 0.3, 1, 5);
  b.grad_weight = guarded(c.channels * sizeof(T));
  b.grad_bias = guarded(c.channels * sizeof(T));

  void* outputs[2];
  void* grads[2];
  for (bool another : {false, true}) {
    p.output = outputs[another] = guarded(total * sizeof(S));
    b.grad_input = grads[another] = guarded(total * sizeof(S));
    run(p, b, another);
  }
  EXPECT(std::memcmp(outputs[0], outputs[1], total * sizeof(S)) == 0);
  EXPECT(std::memcmp(grads[0], grads[1], total * sizeof(S)) == 0);

  for (int64_t channel = 0; channel < c.channels; ++channel) {
    double mean = 0, var = 0;
    for (int64_t i = 0; i < n; ++i) mean += at<S>(p.input, index(i, channel)) / static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) {
      const double d = at<S>(p.input, index(i, channel)) - mean;
      var += d * d / static_cast<double>(n);
    }
    if (given) {
      mean = at<T>(p.given_mean, channel);
      var = at<T>(p.given_var, channel);
    }
    const double inverse = 1 / std::sqrt(var + p.eps);
    const double weight = at<T>(p.weight, channel), bias = at<T>(p.bias, channel);
    const auto centred = [&](int64_t i) { return (at<S>(p.input, index(i, channel)) - mean) * inverse; };
    const auto grad = [&](int64_t i) {
      return at<S>(b.grad_output, index(i, channel)) * silu_gradient(centred(i) * weight + bias);
    };
    double grad_weight = 0, grad_bias = 0;
    for (int64_t i = 0; i < n; ++i) {
      grad_weight += grad(i) * centred(i);
      grad_bias += grad(i);
    }
    EXPECT_CLOSE(channel, at<T>(p.mean_out, channel), mean, 1e-6);
    EXPECT_CLOSE(channel, at<T>(p.var_out, channel), var, 1e-6);
    EXPECT_CLOSE(channel, at<T>(b.grad_weight, channel), grad_weight, 2e-5);
    EXPECT_CLOSE(channel, at<T>(b.grad_bias, channel), grad_bias, 2e-5);
    for (int64_t i = 0; i < n; ++i) {
      const double statistics = given ? 0 : (grad_bias + centred(i) * grad_weight) / static_cast<double>(n);
      EXPECT_CLOSE(i, at<S>(p.output, index(i, channel)), silu(centred(i) * weight + bias), tolerance);
      EXPECT_CLOSE(i, at<S>(b.grad_input, index(i, channel)), weight * inverse * (grad(i) - statistics), tolerance);
    }
  }
}

template <class S>
void check_all(DType dtype) {
  const Case cases[] = {{2, 1, 1, true},    {5, 3, 1, true},    {67, 5, 4, true},   {3, 150, 30, true},
                        {130, 16, 1, true}, {2, 1, 9, false},   {3, 2, 16, false},  {7, 40, 3, false},
                        {4, 3, 33, false},  {70, 3, 64, false}, {2, 2, 5000, false}};
  for (const Case& c : cases) {
    check<S>(c, false, dtype);
    check<S>(c, true, dtype);
  }
}

#if SDGAN_CUDA_ON_HOST
// Tiles cover the tensor, also one that no test can allocate.
void check_tiles() {
  for (DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    for (int64_t c : {1, 2, 3, 64, 529, 100000}) {
      for (int64_t n : {int64_t{1}, int64_t{1000}, int64_t{300} << 20}) {
        for (bool in_rows : {true, false}) {
          const ChannelTiles t = channel_tiles(dtype, n, c, 13, in_rows ? 13 : 1, in_rows);
          const int64_t at_once = ChannelTiles::kThreads / t.across;
          EXPECT(t.tiles_across * t.tile_columns() >= t.columns());
          EXPECT(t.tile_units * t.tiles_down >= t.units && t.tile_units * (t.tiles_down - 1) < t.units);
          EXPECT(t.tile_units % at_once == 0 && t.tile_units <= ChannelTiles::kMostPacks * at_once);
          EXPECT(t.tiles_down == 1 || t.tile_units >= 4 * at_once);
        }
      }
    }
  }
}
#endif

}  // namespace

void test_batch_norm() {
  check_all<float>(DType::f32);
  check_all<double>(DType::f64);
  check_all<bf16>(DType::bf16);
#if SDGAN_CUDA_ON_HOST
  check_all<f16>(DType::f16);
  // Many tiles, whose sums a launch of its own adds up.
  for (const Case& c : {Case{8500, 16, 1, true}, Case{8480, 3, 2, false}, Case{1, 1, 150001, false}}) {
    check<float>(c, false, DType::f32);
  }
  check<bf16>({17000, 8, 1, true}, false, DType::bf16);
  check_tiles();
#endif
}

}  // namespace sdgan::SDGAN_ISA
