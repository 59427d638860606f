// The products of implicit_gemm.h against plain loops in double: fprop, dgrad and wgrad, without and with tensor cores,
// dtypes, strides, dilations, pads, kernels, residues without taps, ragged channels, groups, layouts, split K.
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
  int64_t batch = 2, groups = 1, y_channels = 8, x_channels = 8;
  ConvAxis v{7, 4, 3, 2, 1, 1}, h{6, 3, 3, 2, 1, 1};  // x, y, taps, stride, dilation, pad
  Layout y_layout = Layout::nhwc, x_layout = Layout::nhwc, weight_layout = Layout::nchw;
  Activation activation = Activation::none;
  bool bias = true;
  int64_t splits = 0;  // in place of the plan's own; 0 leaves that
  int tile = 0;        // likewise
  bool exact = true;
  double tolerance = 0;
};

double tolerance_of(const Case& c) {
  if (c.tolerance > 0) return c.tolerance;
  switch (c.dtype) {
    case DType::f64:
      return 1e-12;
    case DType::f32:
      return 1e-5;
    case DType::f16:
      return 2e-3;
    default:
      return 1e-2;
  }
}

ConvGeometry geometry_of(const Case& c) {
  ConvGeometry g;
  g.vertical = c.v;
  g.horizontal = c.h;
  g.batch = c.batch;
  g.x_channels = c.x_channels;
  g.y_channels = c.y_channels;
  g.groups = c.groups;
  return g;
}

template <class Params>
ImplicitGemmPlan plan_of(const Case& c, const Params& p) {
  ImplicitGemmPlan plan = implicit_gemm_plan(p);
  if (c.splits > 0) plan.splits = c.splits;
  if (c.tile > 0) plan.tile = c.tile;
  EXPECT(plan.tensor_cores == c.tensor);
  return plan;
}

// A channel of x is counted within its group, as in the weight, and in all of the image.
struct Meeting {
  int64_t n, y_channel, group_x_channel, x_channel;
  int64_t r, s;  // the tap
  int64_t p, q;  // of y
  int64_t i, j;  // of x
};

// Calls f(meeting) for all pairs of elements that meet.
template <class F>
void each_meeting(const Case& c, F f) {
  const int64_t group_y_channels = c.y_channels / c.groups, group_x_channels = c.x_channels / c.groups;
  const auto each_channel = [&](Meeting m) {
    for (m.y_channel = 0; m.y_channel < c.y_channels; ++m.y_channel) {
      for (m.group_x_channel = 0; m.group_x_channel < group_x_channels; ++m.group_x_channel) {
        m.x_channel = m.y_channel / group_y_channels * group_x_channels + m.group_x_channel;
        f(m);
      }
    }
  };
  Meeting m{};
  for (m.n = 0; m.n < c.batch; ++m.n) {
    for (m.p = 0; m.p < c.v.y; ++m.p) {
      for (m.r = 0; m.r < c.v.taps; ++m.r) {
        m.i = m.p * c.v.stride + m.r * c.v.dilation - c.v.pad;
        if (m.i < 0 || m.i >= c.v.x) continue;
        for (m.q = 0; m.q < c.h.y; ++m.q) {
          for (m.s = 0; m.s < c.h.taps; ++m.s) {
            m.j = m.q * c.h.stride + m.s * c.h.dilation - c.h.pad;
            if (m.j >= 0 && m.j < c.h.x) each_channel(m);
          }
        }
      }
    }
  }
}

template <class Params>
void* workspace(const Params& p, const ImplicitGemmPlan& plan) {
  const int64_t bytes = (implicit_gemm_workspace(p, plan).bytes() + 15) / 16 * 16;
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

Image y_image(const Case& c) { return image(c.batch, c.y_channels, c.v.y, c.h.y, c.y_layout, c.dtype); }
Image x_image(const Case& c) { return image(c.batch, c.x_channels, c.v.x, c.h.x, c.x_layout, c.dtype); }
Image weight_image(const Case& c) {
  return image(c.y_channels, c.x_channels / c.groups, c.v.taps, c.h.taps, c.weight_layout, c.dtype);
}

void check_pass(const Case& c, Pass pass) {
  const bool dgrad = pass == Pass::dgrad;
  const Image y = y_image(c), x = x_image(c), weight = weight_image(c);
  const Image &in = dgrad ? y : x, &out = dgrad ? x : y;
  const Layout out_layout = dgrad ? c.x_layout : c.y_layout;
  const Image kept = image(out.size[0], out.size[1], out.size[2], out.size[3], out_layout, c.dtype);
  const Image bias = image(1, out.size[1], 1, 1, Layout::nchw, c.dtype);
  fill(in, 1, c.exact);
  fill(weight, 2, c.exact);
  fill(bias, 3, c.exact);
  ImplicitGemmParams p;
  p.geometry = geometry_of(c);
  p.pass = pass;
  p.dtype = c.dtype;
  p.activation = c.activation;
  p.negative_slope = 0.2;
  p.tensor_cores = c.tensor;
  p.tf32 = c.tensor;
  p.input = in.data();
  p.weight = weight.data();
  p.bias = c.bias ? bias.data() : nullptr;
  p.output = out.data();
  p.preactivation = c.activation == Activation::silu ? kept.data() : nullptr;
  std::memcpy(p.input_stride, in.stride, sizeof in.stride);
  std::memcpy(p.weight_stride, weight.stride, sizeof weight.stride);
  std::memcpy(p.output_stride, out.stride, sizeof out.stride);
  const ImplicitGemmPlan plan = plan_of(c, p);
  p.workspace = workspace(p, plan);
  run({&out, &kept}, [&] { return launch_implicit_gemm(p, plan, nullptr); });

  std::vector<double> want(out.span);
  each_meeting(c, [&](const Meeting& m) {
    const double w = weight.get(weight.at(m.y_channel, m.group_x_channel, m.r, m.s));
    const int64_t of_y = y.at(m.n, m.y_channel, m.p, m.q), of_x = x.at(m.n, m.x_channel, m.i, m.j);
    want[dgrad ? of_x : of_y] += in.get(dgrad ? of_y : of_x) * w;
  });
  out.each([&](int64_t n, int64_t channel, int64_t i, int64_t j) {
    const int64_t at = out.at(n, channel, i, j);
    const double sum = want[at] + (c.bias ? bias.get(channel) : 0);
    EXPECT_CLOSE(sum, out.get(at), activated(c.activation, sum, 0.2), tolerance_of(c));
    if (p.preactivation) EXPECT_CLOSE(sum, kept.get(at), sum, tolerance_of(c));
  });
}

void check_wgrad(const Case& c) {
  const Image y = y_image(c), x = x_image(c), weight = weight_image(c);
  fill(y, 1, c.exact);
  fill(x, 2, c.exact);
  ImplicitGemmWgradParams p;
  p.geometry = geometry_of(c);
  p.dtype = c.dtype;
  p.tensor_cores = c.tensor;
  p.tf32 = c.tensor;
  p.y = y.data();
  p.x = x.data();
  p.grad_weight = weight.data();
  std::memcpy(p.y_stride, y.stride, sizeof y.stride);
  std::memcpy(p.x_stride, x.stride, sizeof x.stride);
  std::memcpy(p.grad_weight_stride, weight.stride, sizeof weight.stride);
  const ImplicitGemmPlan plan = plan_of(c, p);
  p.workspace = workspace(p, plan);
  run({&weight}, [&] { return launch_implicit_gemm_wgrad(p, plan, nullptr); });

  std::vector<double> want(weight.span);
  each_meeting(c, [&](const Meeting& m) {
    want[weight.at(m.y_channel, m.group_x_channel, m.r, m.s)] +=
        y.get(y.at(m.n, m.y_channel, m.p, m.q)) * x.get(x.at(m.n, m.x_channel, m.i, m.j));
  });
  weight.each([&](int64_t y_channel, int64_t x_channel, int64_t r, int64_t s) {
    const int64_t at = weight.at(y_channel, x_channel, r, s);
    EXPECT_CLOSE(want[at], weight.get(at), want[at], tolerance_of(c));
  });
}

void check(const Case& c) {
  check_pass(c, Pass::fprop);
  check_pass(c, Pass::dgrad);
  check_wgrad(c);
}

// x, y, taps, stride, dilation, pad of both axes
constexpr ConvAxis kGeometries[][2] = {
    {{5, 5, 3, 1, 1, 1}, {4, 4, 3, 1, 1, 1}},   {{8, 4, 4, 2, 1, 1}, {6, 3, 4, 2, 1, 1}},
    {{7, 4, 5, 2, 1, 1}, {8, 4, 5, 2, 1, 2}},    // Keras' same
    {{9, 3, 3, 3, 1, 0}, {7, 4, 2, 2, 1, 0}},    // strides differ
    {{7, 3, 1, 2, 1, 0}, {9, 3, 1, 3, 1, 0}},    // residues without taps
    {{9, 4, 3, 2, 2, 2}, {8, 3, 2, 3, 2, 1}},    // stride and dilation with and without a common divisor
    {{11, 3, 2, 4, 2, 3}, {10, 2, 3, 6, 4, 5}},  // divisor 2, residues skipped
    {{1, 1, 1, 1, 1, 0}, {1, 1, 3, 1, 1, 1}},   {{6, 9, 2, 1, 3, 2}, {2, 5, 5, 3, 1, 4}},  // y larger than x
    {{2, 2, 1, 5, 1, 0}, {3, 1, 1, 7, 1, 0}},                                              // more residues than pixels
};

void check_all(DType dtype, bool tensor) {
  Case base;
  base.dtype = dtype;
  base.tensor = tensor;
  for (const auto& g : kGeometries) {
    Case c = base;
    c.v = g[0];
    c.h = g[1];
    c.y_channels = tensor ? 16 : 5;
    c.x_channels = tensor ? 8 : 3;
    check(c);
    std::swap(c.y_channels, c.x_channels);
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
      check_pass(c, a != Activation::tanh ? Pass::dgrad : Pass::fprop);
      c.y_layout = tensor ? Layout::nhwc_window : Layout::nchw_window;
      c.x_layout = c.y_layout;
      check_pass(c, a == Activation::tanh ? Pass::dgrad : Pass::fprop);
    }
  }
  {
    Case c = base;
    c.batch = 0;
    check(c);
  }
}

void check_layouts(DType dtype) {
  for (Layout y : {Layout::nchw, Layout::nhwc, Layout::nchw_window, Layout::nhwc_window, Layout::nhwc_unaligned}) {
    for (Layout x : {Layout::nchw, Layout::nhwc_window, Layout::nhwc_unaligned}) {
      Case c;
      c.dtype = dtype;
      c.y_layout = y;
      c.x_layout = x;
      c.y_channels = 20;
      c.x_channels = 6;
      c.activation = Activation::silu;
      check(c);
    }
  }
  for (int64_t groups : {2, 3}) {
    Case c;
    c.dtype = dtype;
    c.groups = groups;
    c.y_channels = 12;
    c.x_channels = 6 * groups;
    c.splits = groups - 1;
    check(c);
    c.x_layout = Layout::nchw;
    c.y_layout = Layout::nchw;
    c.weight_layout = Layout::nhwc;
    check(c);
  }
  Case c;  // several tiles
  c.dtype = dtype;
  c.y_channels = 70;
  c.x_channels = 67;
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
      c.y_channels = splits == 1 ? 136 : 24;
      c.x_channels = 72;
      c.v = {9, 5, 3, 2, 1, 1};
      c.h = {11, 6, 2, 2, 1, 0};
      c.activation = Activation::silu;
      check(c);
      c.y_channels = 8;
      c.weight_layout = Layout::nhwc_window;  // is not packed for fprop
      c.y_layout = Layout::nhwc_window;
      c.x_layout = Layout::nhwc_window;
      check(c);
    }
  }
  Case c;  // an output that is not channels_last, or not aligned, or has ragged channels
  c.dtype = dtype;
  c.tensor = true;
  c.activation = Activation::silu;
  c.y_channels = 13;
  c.y_layout = Layout::nchw;
  check_pass(c, Pass::fprop);
  c.y_layout = Layout::nhwc_unaligned;
  check_pass(c, Pass::fprop);
  c.y_layout = Layout::nhwc;
  c.splits = 2;
  check_pass(c, Pass::fprop);
  c.splits = 0;
  c.y_channels = 8;
  c.x_channels = 70;
  c.x_layout = Layout::nchw_window;
  check_pass(c, Pass::dgrad);
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
  c.y_channels = 70;
  c.x_channels = 6;
  c.y_layout = Layout::nhwc_unaligned;
  c.x_layout = Layout::nchw_window;
  check(c);
}

}  // namespace sdgan::SDGAN_ISA
