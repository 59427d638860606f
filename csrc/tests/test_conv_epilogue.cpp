// The conv_epilogue kernels against the formulas of their header in double: both layouts, windows, in place and not, on
// memory that ends exactly where the data does; slices or threads in any order give the same bits.
#include "kernels/conv/epilogue.h"

#include <cmath>
#include <cstring>

#include "tests/check.h"
#include "tests/values.h"
#if SDGAN_CUDA_ON_HOST
#include "tests/cuda_on_host/cuda_host.h"
#endif

namespace sdgan::SDGAN_ISA {

void test_conv_epilogue();

namespace {

using testing::guarded;

struct Case {
  int64_t n, c, h, w;
  bool channels_last;
  int64_t more_lines = 0, more_columns = 0;  // of the tensor that the windowed side is cut from
};

ConvEpilogueShape shape_of(const Case& k) {
  ConvEpilogueShape s;
  s.channels = k.c;
  s.channels_last = k.channels_last;
  s.planes = k.channels_last ? k.n : k.n * k.c;
  s.lines = k.h;
  s.length = k.channels_last ? k.w * k.c : k.w;
  s.line_stride = (k.w + k.more_columns) * (k.channels_last ? k.c : 1);
  s.plane_stride = (k.h + k.more_lines) * s.line_stride;
  if (!k.channels_last && k.more_columns == 0) {  // as the binding does
    s.length = k.h * k.w;
    s.lines = 1;
  }
  return s;
}

double gradient(Activation a, double saved) {
  const double sigmoid = 1 / (1 + std::exp(-saved));
  switch (a) {
    case Activation::relu:
      return saved > 0 ? 1 : 0;
    case Activation::leaky_relu:
      return saved > 0 ? 1 : 0.2;
    case Activation::tanh:
      return 1 - saved * saved;
    case Activation::silu:
      return sigmoid * (1 + saved * (1 - sigmoid));
    default:
      return 1;
  }
}

double tolerance_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 2e-6;
    case DType::f64:
      return 1e-13;
    default:
      return 1e-2;
  }
}

#if SDGAN_CUDA_ON_HOST
constexpr bool kAddsBias = true;

void host_settings(bool another, int64_t elements) {
  cuhost::options.shuffle = another;
  cuhost::options.race_check = another && elements < 20000;
}
void run(const ConvEpilogueParams& p, bool another, int64_t elements) {
  host_settings(another, elements);
  EXPECT(launch_conv_epilogue(p, nullptr) == 0);
}
template <class S>
void run(ConvEpilogueBackwardParams& p, void* grad_bias, bool another, int64_t elements) {
  host_settings(another, elements);
  p.partial = grad_bias ? static_cast<double*>(guarded(p.cuda_partial_count() * sizeof(double))) : nullptr;
  p.grad_bias = grad_bias;
  EXPECT(launch_conv_epilogue_backward(p, nullptr) == 0);
}
#else
constexpr bool kAddsBias = false;

template <class Run>
void slices_of(int64_t count, bool another, Run run) {
  if (!another) return run(0, count);
  for (int64_t s = count; s-- > 0;) run(s, s + 1);
}
void run(const ConvEpilogueParams& p, bool another, int64_t) {
  slices_of(p.shape.slice_count(), another, [&](int64_t s, int64_t e) { SDGAN_ISA::conv_epilogue(p, s, e); });
}
template <class S>
void run(ConvEpilogueBackwardParams& p, void* grad_bias, bool another, int64_t) {
  const int64_t count = p.shape.slice_count();
  p.partial =
      grad_bias ? static_cast<double*>(guarded(count * p.shape.channels_per_plane() * sizeof(double))) : nullptr;
  slices_of(count, another, [&](int64_t s, int64_t e) { SDGAN_ISA::conv_epilogue_backward(p, s, e); });
  if (grad_bias) SDGAN_ISA::conv_bias_gradient(p.shape, p.partial, grad_bias, p.dtype);
}
#endif

template <class S>
void check(const Case& k, Activation activation, DType dtype, bool residual) {
  const double tolerance = tolerance_of(dtype);
  const ConvEpilogueShape s = shape_of(k);
  const bool dense = k.more_lines == 0 && k.more_columns == 0;
  const int64_t total = k.n * k.c * k.h * k.w;
  const int64_t extent = (s.planes - 1) * s.plane_stride + (s.lines - 1) * s.line_stride + s.length;  // of the window
  const auto windowed = [&](int64_t i) {
    const int64_t line = i / s.length;
    return line / s.lines * s.plane_stride + line % s.lines * s.line_stride + i % s.length;
  };
  const auto channel = [&](int64_t i) { return k.channels_last ? i % k.c : i / (k.h * k.w) % k.c; };

  ConvEpilogueParams p;
  p.shape = s;
  p.dtype = dtype;
  p.activation = activation;
  p.negative_slope = 0.2;
  const S* bias = waves<S>(k.c, 3, 0.5);
#if SDGAN_CUDA_ON_HOST
  p.bias = bias;
#endif
  const S* added = waves<S>(total, 6, 1);
  const double scale = residual ? -0.75 : 1;
  p.residual = residual ? added : nullptr;
  p.output_scale = scale;
  const bool keeps = derivative_needs_input(activation);
  S* output[2];
  S* preactivation = nullptr;
  for (bool another : {false, true}) {
    S* input = waves<S>(extent, 1, 2);
    p.input = input;
    output[another] = static_cast<S*>(dense && !keeps ? input : guarded(total * sizeof(S)));  // in place where it may
    if (keeps) preactivation = static_cast<S*>(dense ? input : guarded(total * sizeof(S)));
    p.output = output[another];
    p.preactivation = preactivation;
    run(p, another, total);
  }
  EXPECT(std::memcmp(output[0], output[1], total * sizeof(S)) == 0);
  const S* input = waves<S>(extent, 1, 2);
  for (int64_t i = 0; i < total; ++i) {
    const double sum = at<S>(input, windowed(i)) + (kAddsBias ? at<S>(bias, channel(i)) : 0);
    const double a = scale * (sum + (residual ? at<S>(added, i) : 0));
    EXPECT_CLOSE(a, at<S>(output[0], i), activated(activation, a, 0.2), tolerance);
    if (keeps) EXPECT_CLOSE(a, at<S>(preactivation, i), a, tolerance);
  }

  ConvEpilogueBackwardParams b;
  b.shape = s;
  b.dtype = dtype;
  b.activation = activation;
  b.negative_slope = 0.2;
  b.grad_output = waves<S>(total, 4, 1);
  b.saved = keeps ? preactivation : output[0];
  if (activation == Activation::none) b.saved = nullptr;
  S* grads[2];
  S* grad_biases[2];
  for (bool another : {false, true}) {
    grads[another] = waves<S>(extent, 5, 1);  // what lies between the lines stays
    b.grad_preactivation = grads[another];
    grad_biases[another] = static_cast<S*>(guarded(k.c * sizeof(S)));
    run<S>(b, grad_biases[another], another, total);
  }
  EXPECT(std::memcmp(grads[0], grads[1], extent * sizeof(S)) == 0);
  EXPECT(std::memcmp(grad_biases[0], grad_biases[1], k.c * sizeof(S)) == 0);
  S* want = waves<S>(extent, 5, 1);
  for (int64_t c = 0; c < k.c; ++c) {
    double sum = 0;
    for (int64_t i = 0; i < total; ++i) {
      if (channel(i) != c) continue;
      const double g = at<S>(b.grad_output, i) * (b.saved ? gradient(activation, at<S>(b.saved, i)) : 1);
      put<S>(want, windowed(i), g);
      sum += g;
    }
    EXPECT_CLOSE(static_cast<double>(c), at<S>(grad_biases[0], c), sum, sizeof(S) == 2 ? 1e-2 : 2e-5);
  }
  for (int64_t i = 0; i < extent; ++i) {
    EXPECT_CLOSE(static_cast<double>(i), at<S>(grads[0], i), at<S>(want, i), tolerance);
  }

  grads[1] = waves<S>(extent, 5, 1);  // without the bias
  b.grad_preactivation = grads[1];
  run<S>(b, nullptr, false, total);
  EXPECT(std::memcmp(grads[0], grads[1], extent * sizeof(S)) == 0);
#if SDGAN_CUDA_ON_HOST
  b.grad_preactivation = nullptr;  // the bias alone
  run<S>(b, grad_biases[1], false, total);
  EXPECT(std::memcmp(grad_biases[0], grad_biases[1], k.c * sizeof(S)) == 0);
#endif
}

template <class S>
void check_all(DType dtype) {
  for (bool channels_last : {false, true}) {
    for (Activation activation :
         {Activation::none, Activation::relu, Activation::leaky_relu, Activation::tanh, Activation::silu}) {
      for (const Case& k : {Case{2, 3, 5, 7, channels_last}, Case{3, 16, 8, 8, channels_last},
                            Case{2, 20, 3, 3, channels_last}, Case{3, 1, 6, 5, channels_last},
                            Case{2, 5, 4, 6, channels_last, 1, 1}, Case{2, 8, 9, 8, channels_last, 0, 3},
                            Case{3, 1, 4, 5, channels_last, 2, 1}, Case{2, 17, 3, 4, channels_last, 2, 0},
                            Case{70, 33, 2, 2, channels_last}, Case{1, 2, 1, 1, channels_last}}) {
        for (bool residual : {false, true}) check<S>(k, activation, dtype, residual);
      }
    }
    for (bool residual : {false, true}) {
      check<S>({3, 2, 130, 140, channels_last, 1, 2}, Activation::tanh, dtype, residual);
    }
  }
}

}  // namespace

void test_conv_epilogue() {
  check_all<float>(DType::f32);
  check_all<double>(DType::f64);
  check_all<bf16>(DType::bf16);
#if SDGAN_CUDA_ON_HOST
  check_all<f16>(DType::f16);
#endif
}

}  // namespace sdgan::SDGAN_ISA
