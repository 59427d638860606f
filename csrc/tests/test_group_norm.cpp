// The group_norm kernels against the formulas of their header in double: both ways through memory, tails, one channel a
// group and one group, a mean that dwarfs the deviation, on memory that ends exactly where the data does; slices or
// threads in any order give the same bits.
#include "kernels/group_norm.h"

#include <cmath>
#include <cstring>

#include "tests/check.h"
#include "tests/values.h"
#if SDGAN_CUDA_ON_HOST
#include "tests/cuda_on_host/cuda_host.h"
#endif

namespace sdgan::SDGAN_ISA {

void test_group_norm();

namespace {

using testing::guarded;

struct Case {
  int64_t batch, channels, groups, length;
  bool in_rows;
};

template <class P>
double* doubles(int64_t n, P*& pointer) {
  return pointer = static_cast<double*>(guarded(n * sizeof(double)));
}

template <class P, class S>
void set_shape(P& p, const Case& c, Activation activation, DType dtype, double mean, double deviation) {
  using T = compute_t<S>;
  p.batch = c.batch;
  p.channels = c.channels;
  p.groups = c.groups;
  p.length = c.length;
  p.in_rows = c.in_rows;
  p.eps = 1e-3 * deviation * deviation;
  p.negative_slope = 0.25;
  p.activation = activation;
  p.dtype = dtype;
  p.input = waves<S>(c.batch * c.channels * c.length, 0, deviation, mean);
  p.weight = waves<T>(c.channels, 1, 0.5, 1);
  p.bias = waves<T>(c.channels, 2, 0.5);
#if SDGAN_CUDA_ON_HOST
  doubles(p.cuda_partial_count(), p.partial);
#else
  doubles(p.partial_count(), p.partial);
  doubles(p.factor_count(), p.factors);
#endif
}

#if SDGAN_CUDA_ON_HOST
// `another`: the threads in another order, and with the check for races, which takes its time.
void run(const GroupNormParams& p, const GroupNormBackwardParams& b, bool another) {
  cuhost::options.shuffle = another;
  cuhost::options.race_check = another && p.batch * p.channels * p.length < 20000;
  EXPECT(launch_group_norm(p, nullptr) == 0);
  EXPECT(launch_group_norm_backward(b, nullptr) == 0);
}
#else
// Calls run(begin, end) for all slices at once, or one by one from the last.
template <class Run>
void slices_of(int64_t count, bool at_once, Run run) {
  if (at_once) return run(0, count);
  for (int64_t s = count; s-- > 0;) run(s, s + 1);
}

// `another`: the slices one by one, from the last.
void run(const GroupNormParams& p, const GroupNormBackwardParams& b, bool another) {
  const auto pass = [&](int64_t count, const auto& kernel, const auto& params) {
    slices_of(count, !another, [&](int64_t begin, int64_t end) { kernel(params, begin, end); });
  };
  pass(p.reduce_slices(), SDGAN_ISA::group_norm_reduce, p);
  pass(p.all_groups(), SDGAN_ISA::group_norm_finish, p);
  pass(p.map_slices(), SDGAN_ISA::group_norm_map, p);
  pass(b.all_groups(), SDGAN_ISA::group_norm_backward_prepare, b);
  pass(b.reduce_slices(), SDGAN_ISA::group_norm_backward_reduce, b);
  pass(b.all_groups(), SDGAN_ISA::group_norm_backward_finish, b);
  pass(b.map_slices(), SDGAN_ISA::group_norm_backward_map, b);
  pass(b.channels, SDGAN_ISA::group_norm_backward_vectors, b);
}
#endif

double gradient(Activation a, double z) {
  const double h = 1e-5;
  const double s = 1 / (1 + std::exp(-z));
  if (a == Activation::silu) return s * (1 + z * (1 - s));
  return (activated(a, z + h, 0.25) - activated(a, z - h, 0.25)) / (2 * h);
}

template <class S>
void check(const Case& c, Activation activation, DType dtype, double offset = 3, double deviation = 1) {
  using T = compute_t<S>;
  const double tolerance = dtype == DType::f32 ? 3e-5 : dtype == DType::f64 ? 1e-9 : 2e-2;
  const int64_t image_size = c.channels * c.length, total = c.batch * image_size;
  const int64_t group_channels = c.channels / c.groups, n = group_channels * c.length;
  const auto index = [&](int64_t image, int64_t channel, int64_t l) {
    return image * image_size + (c.in_rows ? l * c.channels + channel : channel * c.length + l);
  };

  GroupNormParams p;
  set_shape<GroupNormParams, S>(p, c, activation, dtype, offset, deviation);
  p.mean = p.mean_out = guarded(c.batch * c.groups * sizeof(T));
  p.rstd = p.rstd_out = guarded(c.batch * c.groups * sizeof(T));
  GroupNormBackwardParams b;
  set_shape<GroupNormBackwardParams, S>(b, c, activation, dtype, offset, deviation);
  b.mean = p.mean;
  b.rstd = p.rstd;
  b.grad_output = waves<S>(total, 5, 1, 0.3);
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

  double* grad_weight;
  double* grad_bias;
  doubles(c.channels, grad_weight);
  doubles(c.channels, grad_bias);
  for (int64_t channel = 0; channel < c.channels; ++channel) grad_weight[channel] = grad_bias[channel] = 0;
  for (int64_t group = 0; group < c.batch * c.groups; ++group) {
    const int64_t image = group / c.groups, first = group % c.groups * group_channels;
    const auto each = [&](const auto& body) {
      for (int64_t channel = first; channel < first + group_channels; ++channel) {
        for (int64_t l = 0; l < c.length; ++l) body(channel, index(image, channel, l));
      }
    };
    double mean = 0, var = 0;
    each([&](int64_t, int64_t i) { mean += at<S>(p.input, i) / static_cast<double>(n); });
    each([&](int64_t, int64_t i) { var += std::pow(at<S>(p.input, i) - mean, 2) / static_cast<double>(n); });
    const double rstd = 1 / std::sqrt(var + p.eps);
    const auto weight = [&](int64_t channel) { return at<T>(p.weight, channel); };
    const auto centred = [&](int64_t i) { return (at<S>(p.input, i) - mean) * rstd; };
    const auto z = [&](int64_t channel, int64_t i) { return centred(i) * weight(channel) + at<T>(p.bias, channel); };
    const auto g = [&](int64_t channel, int64_t i) {
      return at<S>(b.grad_output, i) * gradient(activation, z(channel, i));
    };
    double shift = 0, tilt = 0;
    each([&](int64_t channel, int64_t i) {
      grad_bias[channel] += g(channel, i);
      grad_weight[channel] += g(channel, i) * centred(i);
      shift += weight(channel) * g(channel, i) / static_cast<double>(n);
      tilt += weight(channel) * g(channel, i) * centred(i) / static_cast<double>(n);
    });
    EXPECT_CLOSE(group, at<T>(p.mean_out, group), mean, 1e-6);
    EXPECT_CLOSE(group, at<T>(p.rstd_out, group) / rstd, 1, 3e-6);
    each([&](int64_t channel, int64_t i) {
      EXPECT_CLOSE(i, at<S>(p.output, i), activated(activation, z(channel, i), 0.25), tolerance);
      const double want = weight(channel) * g(channel, i) - (shift + tilt * centred(i));
      EXPECT_CLOSE(i, at<S>(b.grad_input, i) / rstd, want, tolerance);
    });
  }
  for (int64_t channel = 0; channel < c.channels; ++channel) {
    EXPECT_CLOSE(channel, at<T>(b.grad_weight, channel), grad_weight[channel], tolerance > 1e-4 ? 1e-4 : tolerance);
    EXPECT_CLOSE(channel, at<T>(b.grad_bias, channel), grad_bias[channel], tolerance > 1e-4 ? 1e-4 : tolerance);
  }
}

// rstd in float where the mean is 10,000 standard deviations, of which the data themselves are coarse to 1e-3.
void check_small_deviation(const Case& c) {
  GroupNormParams p;
  set_shape<GroupNormParams, float>(p, c, Activation::none, DType::f32, 100, 1e-2);
  GroupNormBackwardParams b;
  set_shape<GroupNormBackwardParams, float>(b, c, Activation::none, DType::f32, 100, 1e-2);
  p.mean = p.mean_out = guarded(c.batch * c.groups * sizeof(float));
  p.rstd = p.rstd_out = guarded(c.batch * c.groups * sizeof(float));
  b.mean = p.mean;
  b.rstd = p.rstd;
  b.grad_output = p.input;
  p.output = b.grad_input = guarded(c.batch * c.channels * c.length * sizeof(float));
  run(p, b, false);
  const int64_t channels = c.channels / c.groups, n = channels * c.length;
  for (int64_t group = 0; group < c.batch * c.groups; ++group) {
    const int64_t image = group / c.groups * c.channels * c.length, first = group % c.groups * channels;
    const auto value = [&](int64_t i) {
      return at<float>(p.input,
                       image + (c.in_rows ? i / channels * c.channels + first + i % channels : first * c.length + i));
    };
    double mean = 0, var = 0;
    for (int64_t i = 0; i < n; ++i) mean += value(i) / static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) var += std::pow(value(i) - mean, 2) / static_cast<double>(n);
    EXPECT_CLOSE(group, at<float>(p.rstd_out, group) * std::sqrt(var + p.eps), 1, 1e-6);
  }
}

template <class S>
void check_all(DType dtype) {
  const Case cases[] = {{2, 6, 3, 1, true},    {3, 5, 1, 7, true},     {2, 40, 8, 33, true},   {1, 48, 48, 19, true},
                        {1, 16, 4, 700, true}, {1, 2600, 2, 18, true}, {2, 6, 3, 5, false},    {3, 1, 1, 40, false},
                        {2, 12, 4, 77, false}, {1, 8, 8, 130, false},  {1, 4, 2, 9001, false}, {5, 7, 1, 3, false}};
  for (const Case& c : cases) check<S>(c, Activation::silu, dtype);
  for (Activation a :
       {Activation::none, Activation::leaky_relu, Activation::tanh, Activation::sigmoid, Activation::elu}) {
    for (bool in_rows : {true, false}) check<S>({2, 20, 4, 21, in_rows}, a, dtype);
  }
}

}  // namespace

void test_group_norm() {
  check_all<float>(DType::f32);
  check_all<double>(DType::f64);
  check_all<bf16>(DType::bf16);
  for (bool in_rows : {true, false}) {
    check<double>({2, 12, 4, 300, in_rows}, Activation::silu, DType::f64, 100, 1e-2);
    check_small_deviation({2, 12, 4, 300, in_rows});
  }
#if SDGAN_CUDA_ON_HOST
  check_all<f16>(DType::f16);
  check<float>({2, 16, 4, 8500, true}, Activation::silu, DType::f32);  // tiles that share columns
  check<float>({2, 3, 1, 40000, false}, Activation::silu, DType::f32);
#endif
}

}  // namespace sdgan::SDGAN_ISA
