// The products of implicit_gemm.h against plain loops in double: both directions and the weight gradient, without and with
// tensor cores, dtypes, strides, dilations, pads, kernels, phases without taps, ragged channels, groups, layouts,
// split K, statistics.
// Every case runs twice, in another order of threads, and must give the same bits; the first run checks for races.
#include "kernels/conv/implicit_gemm.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/conv/implicit_gemm_plan.h"
#include "tests/check.h"
#include "tests/cuda_on_host/cuda_host.h"
#include "tests/values.h"

namespace sdgan::SDGAN_ISA {

void test_implicit_gemm();

namespace {

using testing::guarded;

enum class Layout { nchw, nhwc, nchw_window, nhwc_window, nhwc_unaligned };

bool channels_last(Layout l) { return l == Layout::nhwc || l == Layout::nhwc_window || l == Layout::nhwc_unaligned; }

// A tensor [n, c, h, w] whose memory ends where an unmapped page begins; its gaps and what is not yet written are NaN.
struct Image {
  int64_t size[4], stride[4], span = 0, offset = 0;
  char* base = nullptr;
  DType dtype;

  int64_t bytes() const { return implicit_gemm::bytes_of(dtype); }
  void* data() const { return base + offset * bytes(); }
  int64_t at(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return n * stride[0] + c * stride[1] + h * stride[2] + w * stride[3];
  }
  double get(int64_t i) const {
    switch (dtype) {
      case DType::f64:
        return SDGAN_ISA::at<double>(data(), i);
      case DType::bf16:
        return SDGAN_ISA::at<bf16>(data(), i);
      case DType::f16:
        return SDGAN_ISA::at<f16>(data(), i);
      default:
        return SDGAN_ISA::at<float>(data(), i);
    }
  }
  void set(int64_t i, double x) const {
    switch (dtype) {
      case DType::f64:
        return put<double>(data(), i, x);
      case DType::bf16:
        return put<bf16>(data(), i, x);
      case DType::f16:
        return put<f16>(data(), i, x);
      default:
        return put<float>(data(), i, x);
    }
  }
  template <class F>
  void each(F f) const {
    for (int64_t n = 0; n < size[0]; ++n) {
      for (int64_t c = 0; c < size[1]; ++c) {
        for (int64_t h = 0; h < size[2]; ++h) {
          for (int64_t w = 0; w < size[3]; ++w) f(n, c, h, w);
        }
      }
    }
  }
  void clear() const { std::memset(base, 0xff, (offset + span) * bytes()); }
  // Nothing but the tensor's own elements was written.
  void expect_gaps() const {
    std::vector<bool> own((offset + span) * bytes());
    each([&](int64_t n, int64_t c, int64_t h, int64_t w) {
      for (int64_t b = 0; b < bytes(); ++b) own[(offset + at(n, c, h, w)) * bytes() + b] = true;
    });
    bool untouched = true;
    for (size_t b = 0; b < own.size(); ++b) untouched = untouched && (own[b] || base[b] == char(0xff));
    EXPECT(untouched);
  }
};

Image image(int64_t n, int64_t c, int64_t h, int64_t w, Layout layout, DType dtype) {
  Image t{{n, c, h, w}, {}, 0, 0, nullptr, dtype};
  const bool window = layout == Layout::nchw_window || layout == Layout::nhwc_window;
  const int64_t wide = w + (window ? 1 : 0), high = h + (window ? 2 : 0);
  if (channels_last(layout)) {
    const int64_t channels = c + (layout == Layout::nhwc_window ? 16 : 0);
    t.stride[1] = 1;
    t.stride[3] = channels;
    t.stride[2] = wide * channels;
    t.stride[0] = high * wide * channels;
  } else {
    t.stride[3] = 1;
    t.stride[2] = wide;
    t.stride[1] = high * wide;
    t.stride[0] = c * high * wide;
  }
  t.span = n == 0 ? 0 : t.at(n - 1, c - 1, h - 1, w - 1) + 1;
  if (layout != Layout::nhwc_unaligned && t.span > 0) t.span = (t.span + 15) / 16 * 16;  // the base is aligned
  t.offset = layout == Layout::nhwc_unaligned ? 3 : 0;
  t.base = static_cast<char*>(guarded((t.offset + t.span) * t.bytes()));
  t.clear();
  return t;
}

// `exact`: numbers that bfloat16 holds, and so tf32.
void fill(const Image& t, int salt, bool exact) {
  int64_t i = 0;
  t.each([&](int64_t n, int64_t c, int64_t h, int64_t w) {
    const double x = std::sin(0.7 * static_cast<double>(++i) + salt);
    t.set(t.at(n, c, h, w), exact ? testing::from_bf16(testing::to_bf16(x)) : x);
  });
}

struct Case {
  DType dtype = DType::f32;
  bool tensor = false;  // float32 is then tf32
  int64_t batch = 2, groups = 1, coarse_channels = 8, fine_channels = 8;
  ImplicitGemmAxis v{7, 4, 3, 2, 1, 1}, h{6, 3, 3, 2, 1, 1};  // fine, coarse, taps, stride, dilation, pad
  Layout coarse_layout = Layout::nhwc, fine_layout = Layout::nhwc, weight_layout = Layout::nchw;
  Activation activation = Activation::none;
  bool bias = true;
  bool statistics = false;
  int64_t splits = 0;
  int tile = 0;
  bool exact = true;
  double tolerance = 0;
};

double tolerance_of(const Case& c) {
  return c.tolerance > 0         ? c.tolerance
         : c.dtype == DType::f64 ? 1e-12
         : c.dtype == DType::f32 ? 1e-5
         : c.dtype == DType::f16 ? 2e-3
                                 : 1e-2;
}

// Calls f(n, coarse channel, fine channel in its group, fine channel, tap, coarse pixel, fine pixel) for all that meet.
template <class F>
void each_pair(const Case& c, F f) {
  const int64_t coarse = c.coarse_channels / c.groups, fine = c.fine_channels / c.groups;
  for (int64_t n = 0; n < c.batch; ++n) {
    for (int64_t p = 0; p < c.v.coarse; ++p) {
      for (int64_t r = 0; r < c.v.taps; ++r) {
        const int64_t y = p * c.v.stride + r * c.v.dilation - c.v.pad;
        if (y < 0 || y >= c.v.fine) continue;
        for (int64_t q = 0; q < c.h.coarse; ++q) {
          for (int64_t s = 0; s < c.h.taps; ++s) {
            const int64_t x = q * c.h.stride + s * c.h.dilation - c.h.pad;
            if (x < 0 || x >= c.h.fine) continue;
            for (int64_t cc = 0; cc < c.coarse_channels; ++cc) {
              for (int64_t cf = 0; cf < fine; ++cf) f(n, cc, cf, cc / coarse * fine + cf, r, s, p, q, y, x);
            }
          }
        }
      }
    }
  }
}

template <class Params>
void* workspace(const Params& p) {
  const int64_t bytes = (implicit_gemm_plan(p).workspace + 15) / 16 * 16;
  void* memory = guarded(bytes);
  std::memset(memory, 0xff, bytes);
  return memory;
}

// Launches twice and compares the bits of `outputs`.
template <class Launch>
void run(std::initializer_list<const Image*> outputs, Launch launch) {
  std::vector<std::vector<char>> before;
  for (int turn = 0; turn < 2; ++turn) {
    cuhost::options.race_check = turn == 0;
    cuhost::options.shuffle = turn * 12345;
    for (const Image* t : outputs) t->clear();
    EXPECT(launch() == 0);
    size_t index = 0;
    for (const Image* t : outputs) {
      std::vector<char> bits(t->base, t->base + (t->offset + t->span) * t->bytes());
      if (turn == 0) {
        before.push_back(bits);
        t->expect_gaps();
      } else {
        EXPECT(bits == before[index]);
      }
      ++index;
    }
  }
  cuhost::options = {};
}

Image coarse_image(const Case& c) {
  return image(c.batch, c.coarse_channels, c.v.coarse, c.h.coarse, c.coarse_layout, c.dtype);
}
Image fine_image(const Case& c) { return image(c.batch, c.fine_channels, c.v.fine, c.h.fine, c.fine_layout, c.dtype); }
Image weight_image(const Case& c) {
  return image(c.coarse_channels, c.fine_channels / c.groups, c.v.taps, c.h.taps, c.weight_layout, c.dtype);
}

void check_gather(const Case& c, bool to_fine) {
  const Image coarse = coarse_image(c), fine = fine_image(c), weight = weight_image(c);
  const Image &in = to_fine ? coarse : fine, &out = to_fine ? fine : coarse;
  const Image kept =
      image(out.size[0], out.size[1], out.size[2], out.size[3], to_fine ? c.fine_layout : c.coarse_layout, c.dtype);
  const Image bias = image(1, out.size[1], 1, 1, Layout::nchw, c.dtype);
  fill(in, 1, c.exact);
  fill(weight, 2, c.exact);
  fill(bias, 3, c.exact);
  ImplicitGemmParams p;
  p.vertical = c.v;
  p.horizontal = c.h;
  p.batch = c.batch;
  p.groups = c.groups;
  p.inputs = in.size[1];
  p.outputs = out.size[1];
  p.to_fine = to_fine;
  p.dtype = c.dtype;
  p.activation = c.activation;
  p.negative_slope = 0.2;
  p.tensor_cores = p.tf32 = c.tensor;
  p.input = in.data();
  p.weight = weight.data();
  p.bias = c.bias ? bias.data() : nullptr;
  p.output = out.data();
  p.preactivation = c.activation == Activation::silu ? kept.data() : nullptr;
  std::memcpy(p.input_stride, in.stride, sizeof in.stride);
  std::memcpy(p.weight_stride, weight.stride, sizeof weight.stride);
  std::memcpy(p.output_stride, out.stride, sizeof out.stride);
  p.force_splits = c.splits;
  p.force_tile = c.tile;
  const int64_t rows = implicit_gemm_plan(p).statistics;
  const Image statistics = image(1, c.statistics ? rows * 2 * p.outputs : 1, 1, 1, Layout::nchw,
                                 c.dtype == DType::f64 ? DType::f64 : DType::f32);
  if (c.statistics) p.statistics = statistics.data();
  p.workspace = workspace(p);
  EXPECT(implicit_gemm_plan(p).tensor_cores == c.tensor);
  run({&out, &kept, &statistics}, [&] { return launch_implicit_gemm(p, nullptr); });

  std::vector<double> want(out.span);
  each_pair(c, [&](int64_t n, int64_t cc, int64_t cf, int64_t f, int64_t r, int64_t s, int64_t i, int64_t j, int64_t y,
                   int64_t x) {
    const double w = weight.get(weight.at(cc, cf, r, s));
    if (to_fine) {
      want[out.at(n, f, y, x)] += in.get(in.at(n, cc, i, j)) * w;
    } else {
      want[out.at(n, cc, i, j)] += in.get(in.at(n, f, y, x)) * w;
    }
  });
  out.each([&](int64_t n, int64_t m, int64_t y, int64_t x) {
    const int64_t at = out.at(n, m, y, x);
    const double sum = want[at] + (c.bias ? bias.get(m) : 0);
    EXPECT_CLOSE(sum, out.get(at), activated(c.activation, sum, 0.2), tolerance_of(c));
    if (p.preactivation) EXPECT_CLOSE(sum, kept.get(at), sum, tolerance_of(c));
  });
  for (int64_t m = 0; c.statistics && m < p.outputs; ++m) {
    double sum = 0, squares = 0, want_sum = 0, want_squares = 0;
    for (int64_t row = 0; row < rows; ++row) {
      sum += statistics.get(row * 2 * p.outputs + m);
      squares += statistics.get((row * 2 + 1) * p.outputs + m);
    }
    out.each([&](int64_t n, int64_t channel, int64_t y, int64_t x) {
      const double value = channel == m ? out.get(out.at(n, m, y, x)) : 0;
      want_sum += value;
      want_squares += value * value;
    });
    EXPECT_CLOSE(m, sum, want_sum, 1e-5);
    EXPECT_CLOSE(m, squares, want_squares, 1e-5);
  }
}

void check_wgrad(const Case& c) {
  const Image coarse = coarse_image(c), fine = fine_image(c), weight = weight_image(c);
  fill(coarse, 1, c.exact);
  fill(fine, 2, c.exact);
  ImplicitGemmWgradParams p;
  p.vertical = c.v;
  p.horizontal = c.h;
  p.batch = c.batch;
  p.groups = c.groups;
  p.coarse_channels = c.coarse_channels;
  p.fine_channels = c.fine_channels;
  p.dtype = c.dtype;
  p.tensor_cores = p.tf32 = c.tensor;
  p.coarse = coarse.data();
  p.fine = fine.data();
  p.grad_weight = weight.data();
  std::memcpy(p.coarse_stride, coarse.stride, sizeof coarse.stride);
  std::memcpy(p.fine_stride, fine.stride, sizeof fine.stride);
  std::memcpy(p.grad_weight_stride, weight.stride, sizeof weight.stride);
  p.force_splits = c.splits;
  p.force_tile = c.tile;
  p.workspace = workspace(p);
  run({&weight}, [&] { return launch_implicit_gemm_wgrad(p, nullptr); });

  std::vector<double> want(weight.span);
  each_pair(c, [&](int64_t n, int64_t cc, int64_t cf, int64_t f, int64_t r, int64_t s, int64_t i, int64_t j, int64_t y,
                   int64_t x) {
    want[weight.at(cc, cf, r, s)] += coarse.get(coarse.at(n, cc, i, j)) * fine.get(fine.at(n, f, y, x));
  });
  weight.each([&](int64_t cc, int64_t cf, int64_t r, int64_t s) {
    const int64_t at = weight.at(cc, cf, r, s);
    EXPECT_CLOSE(want[at], weight.get(at), want[at], tolerance_of(c));
  });
}

void check(const Case& c) {
  check_gather(c, false);
  check_gather(c, true);
  check_wgrad(c);
}

// fine, coarse, taps, stride, dilation, pad of both axes
constexpr ImplicitGemmAxis kGeometries[][2] = {
    {{5, 5, 3, 1, 1, 1}, {4, 4, 3, 1, 1, 1}},   {{8, 4, 4, 2, 1, 1}, {6, 3, 4, 2, 1, 1}},
    {{7, 4, 5, 2, 1, 1}, {8, 4, 5, 2, 1, 2}},    // Keras' same
    {{9, 3, 3, 3, 1, 0}, {7, 4, 2, 2, 1, 0}},    // strides differ
    {{7, 3, 1, 2, 1, 0}, {9, 3, 1, 3, 1, 0}},    // phases without taps
    {{9, 4, 3, 2, 2, 2}, {8, 3, 2, 3, 2, 1}},    // stride and dilation with and without a common divisor
    {{11, 3, 2, 4, 2, 3}, {10, 2, 3, 6, 4, 5}},  // divisor 2, residues skipped
    {{1, 1, 1, 1, 1, 0}, {1, 1, 3, 1, 1, 1}},   {{6, 9, 2, 1, 3, 2}, {2, 5, 5, 3, 1, 4}},  // more coarse than fine
    {{2, 2, 1, 5, 1, 0}, {3, 1, 1, 7, 1, 0}},                                              // more phases than pixels
};

void check_all(DType dtype, bool tensor) {
  Case base;
  base.dtype = dtype;
  base.tensor = tensor;
  for (const auto& g : kGeometries) {
    Case c = base;
    c.v = g[0];
    c.h = g[1];
    c.coarse_channels = tensor ? 16 : 5;
    c.fine_channels = tensor ? 8 : 3;
    c.statistics = true;
    check(c);
    c.statistics = false;
    std::swap(c.coarse_channels, c.fine_channels);
    std::swap(c.v, c.h);
    c.splits = 3;
    c.weight_layout = Layout::nhwc;
    check(c);
  }
  for (Activation a : {Activation::relu, Activation::leaky_relu, Activation::tanh, Activation::sigmoid,
                       Activation::silu, Activation::elu}) {
    for (int64_t splits : {1, 2}) {
      Case c = base;
      c.activation = a;
      c.splits = splits;
      c.bias = splits == 1;
      c.batch = splits == 1 ? 1 : 3;
      check_gather(c, a != Activation::tanh);
      c.fine_layout = c.coarse_layout = tensor ? Layout::nhwc_window : Layout::nchw_window;
      check_gather(c, a == Activation::tanh);
    }
  }
  {
    Case c = base;
    c.batch = 0;
    check(c);
  }
}

void check_layouts(DType dtype) {
  for (Layout coarse : {Layout::nchw, Layout::nhwc, Layout::nchw_window, Layout::nhwc_window, Layout::nhwc_unaligned}) {
    for (Layout fine : {Layout::nchw, Layout::nhwc_window, Layout::nhwc_unaligned}) {
      Case c;
      c.dtype = dtype;
      c.coarse_layout = coarse;
      c.fine_layout = fine;
      c.coarse_channels = 20;
      c.fine_channels = 6;
      c.activation = Activation::silu;
      check(c);
    }
  }
  for (int64_t groups : {2, 3}) {
    Case c;
    c.dtype = dtype;
    c.groups = groups;
    c.coarse_channels = 12;
    c.fine_channels = 6 * groups;
    c.splits = groups - 1;
    check(c);
    c.fine_layout = Layout::nchw;
    c.coarse_layout = Layout::nchw;
    c.weight_layout = Layout::nhwc;
    check(c);
  }
  Case c;  // several tiles
  c.dtype = dtype;
  c.coarse_channels = 70;
  c.fine_channels = 67;
  c.v = {9, 9, 2, 1, 1, 0};
  c.h = {9, 9, 1, 1, 1, 0};
  check(c);
}

void check_tensor_tiles(DType dtype) {
  for (int tile : {64, 128}) {
    for (int64_t splits : {1, 3}) {
      Case c;
      c.dtype = dtype;
      c.tensor = true;
      c.tile = tile;
      c.splits = splits;
      c.coarse_channels = splits == 1 ? 136 : 24;
      c.fine_channels = 72;
      c.v = {9, 5, 3, 2, 1, 1};
      c.h = {11, 6, 2, 2, 1, 0};
      c.activation = Activation::silu;
      c.statistics = splits == 1;
      check(c);
      c.coarse_channels = 8;
      c.weight_layout = Layout::nhwc_window;  // is not packed to_coarse
      c.fine_layout = c.coarse_layout = Layout::nhwc_window;
      check(c);
    }
  }
  Case c;  // an output that is not channels_last, or not aligned, or has ragged channels
  c.dtype = dtype;
  c.tensor = true;
  c.activation = Activation::silu;
  c.coarse_channels = 13;
  c.coarse_layout = Layout::nchw;
  check_gather(c, false);
  c.coarse_layout = Layout::nhwc_unaligned;
  check_gather(c, false);
  c.coarse_layout = Layout::nhwc;
  c.splits = 2;
  check_gather(c, false);
  c.splits = 0;
  c.coarse_channels = 8;
  c.fine_channels = 70;
  c.fine_layout = Layout::nchw_window;
  check_gather(c, true);
}

}  // namespace

#ifdef __SANITIZE_ADDRESS__
constexpr bool kAll = false;  // every kernel, but a fraction of the combinations: it runs ten times slower
#else
constexpr bool kAll = true;
#endif

void test_implicit_gemm() {
  check_all(DType::f32, false);
  check_all(DType::bf16, true);
  check_tensor_tiles(DType::f32);
  if (kAll) {
    check_all(DType::f64, false);
    check_all(DType::bf16, false);
    check_all(DType::f16, true);
    check_all(DType::f32, true);
    check_layouts(DType::f32);
    check_layouts(DType::f16);
    check_tensor_tiles(DType::bf16);
    check_tensor_tiles(DType::f16);
  }
  Case c;  // tf32 rounds its operands to 11 bits
  c.tensor = true;
  c.exact = false;
  c.tolerance = 3e-3;
  check(c);
  c = {};  // groups, ragged tiles, any layout
  c.dtype = DType::f16;
  c.groups = 2;
  c.coarse_channels = 70;
  c.fine_channels = 6;
  c.coarse_layout = Layout::nhwc_unaligned;
  c.fine_layout = Layout::nchw_window;
  check(c);
}

}  // namespace sdgan::SDGAN_ISA
