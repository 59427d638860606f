// A line is walked in vectors. The sums of the bias gradient repeat with a period of whole vectors, so that the channel
// of a position needs no division: 1 vector for NCHW, lcm(channels, lanes) elements for channels_last.
#include "kernels/conv/epilogue.h"

#include <numeric>

#include "kernels/cpu/buffer.h"
#include "kernels/cpu/simd.h"

namespace sdgan::SDGAN_ISA {
namespace {

template <class T>
int64_t period_of(const ConvEpilogueShape& s) {
  return s.channels_last ? std::lcm(s.channels, int64_t{kLanes<T>}) : kLanes<T>;
}

// Calls body(dense, windowed) for the lines of a slice: where they begin in the dense and the windowed tensor.
template <class Body>
SDGAN_INLINE void for_lines(const ConvEpilogueShape& s, int64_t slice, Body body) {
  const int64_t plane = slice / s.slices_per_plane();
  const int64_t first = slice % s.slices_per_plane() * s.slice_lines();
  const int64_t last = first + s.slice_lines() < s.lines ? first + s.slice_lines() : s.lines;
  for (int64_t line = first; line < last; ++line) {
    body((plane * s.lines + line) * s.length, plane * s.plane_stride + line * s.line_stride);
  }
}

// Calls body(dense, windowed, count, place) for the vectors of those lines: where a vector begins in both tensors, how
// many elements it has, and where it begins in the period.
template <class T, class Body>
SDGAN_INLINE void for_line_vectors(const ConvEpilogueShape& s, int64_t slice, Body body) {
  const int64_t period = period_of<T>(s);
  for_lines(s, slice, [&](int64_t dense, int64_t windowed) SDGAN_INLINED {
    int64_t i = 0, place = 0;
    for (; i + kLanes<T> <= s.length; i += kLanes<T>) {  // a constant count: no branches
      body(dense + i, windowed + i, kLanes<T>, place);
      place = place + kLanes<T> == period ? 0 : place + kLanes<T>;
    }
    if (i < s.length) body(dense + i, windowed + i, static_cast<int>(s.length - i), place);
  });
}

// relu on the bits of bfloat16, 32 at a time, without the conversion to float and back. A NaN stays one.
void relu_bf16(const ConvEpilogueParams& p, int64_t begin, int64_t end) {
  const ConvEpilogueShape s = p.shape;
  const auto* input = static_cast<const int16_t*>(p.input);
  auto* output = static_cast<int16_t*>(p.output);
  for (int64_t slice = begin; slice < end; ++slice) {
    for_lines(s, slice, [&](int64_t dense, int64_t windowed) SDGAN_INLINED {
      for (int64_t i = 0; i < s.length; ++i) {
        const int16_t a = input[windowed + i];
        const bool nan = (a & 0x7fff) > 0x7f80;
        output[dense + i] = a >= 0 || nan ? a : int16_t{0};
      }
    });
  }
}

template <class S, Activation act>
void run(const ConvEpilogueParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  if constexpr (sizeof(S) < sizeof(T) && act == Activation::relu) {
    if (!p.preactivation && !p.residual && p.output_scale == 1) return relu_bf16(p, begin, end);
  }
  const ConvEpilogueShape& s = p.shape;
  const T negative_slope = static_cast<T>(p.negative_slope), scale = static_cast<T>(p.output_scale);
  for (int64_t slice = begin; slice < end; ++slice) {
    for_line_vectors<T>(s, slice, [&](int64_t dense, int64_t windowed, int count, int64_t) SDGAN_INLINED {
      Vec<T> a = read<S>(p.input, windowed, count);
      if (p.residual) a += read<S>(p.residual, dense, count);
      a *= scale;
      write<S>(p.preactivation, dense, count, a);
      write<S>(p.output, dense, count, activate<Math>(act, a, negative_slope));
    });
  }
}

template <class S, Activation act>
void run_backward(const ConvEpilogueBackwardParams& p, int64_t begin, int64_t end) {
  using T = compute_t<S>;
  const ConvEpilogueShape& s = p.shape;
  const T negative_slope = static_cast<T>(p.negative_slope);
  Buffer<T> sums(period_of<T>(s));
  for (int64_t slice = begin; slice < end; ++slice) {
    sums.assign(sums.size(), T(0));
    for_line_vectors<T>(s, slice, [&](int64_t dense, int64_t windowed, int count, int64_t place) SDGAN_INLINED {
      Vec<T> g = read<S>(p.grad_output, dense, count);
      if constexpr (act != Activation::none) {
        g *= activation_gradient<Math>(act, read<S>(p.saved, dense, count), negative_slope);
      }
      write<S>(p.grad_preactivation, windowed, count, g);
      store(&sums[place], load(&sums[place]) + first_lanes<T>(g, count));
    });
    if (!p.partial) continue;
    double* partial = p.partial + slice * s.channels_per_plane();
    for (int64_t c = 0; c < s.channels_per_plane(); ++c) partial[c] = 0;
    for (size_t i = 0; i < sums.size(); ++i) partial[i % s.channels_per_plane()] += sums[i];
  }
}

}  // namespace

void conv_epilogue(const ConvEpilogueParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    dispatch_activation(p.activation, [&](auto act) { run<decltype(storage), act()>(p, begin, end); });
  });
}

void conv_epilogue_backward(const ConvEpilogueBackwardParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    dispatch_activation(p.activation, [&](auto act) { run_backward<decltype(storage), act()>(p, begin, end); });
  });
}

void conv_bias_gradient(const ConvEpilogueShape& s, const double* partial, void* grad_bias, DType dtype) {
  const int64_t stride = s.channels_per_plane();
  Buffer<double> sums(s.channels, 0.0);
  for (int64_t slice = 0; slice < s.slice_count(); ++slice) {
    const int64_t channel = s.channels_last ? 0 : slice / s.slices_per_plane() % s.channels;
    for (int64_t c = 0; c < stride; ++c) sums[channel + c] += partial[slice * stride + c];
  }
  dispatch(dtype, [&](auto storage) {
    using S = decltype(storage);
    using T = compute_t<S>;
    for (int64_t c = 0; c < s.channels; ++c) write<S>(grad_bias, c, 1, splat(static_cast<T>(sums[c])));
  });
}

}  // namespace sdgan::SDGAN_ISA
