// What follows a convolution that ran in a library, which has added the bias: y = act(a), and its gradient.
//
//   forward   y = act(a)                               bytes: a read, y written (in place on a where it may be)
//   backward  g = dL/dy * act'(saved), db[c] = sum g   bytes: dL/dy and saved read, g written
//
// The library's side, a and g, may be a window of a larger tensor; y, dL/dy and saved are dense.
// Both layouts are planes of lines of contiguous elements:
//
//                  planes   lines   length   channel of an element
//   NCHW           N * C    H       W        plane % C
//   channels_last  N        H       W * C    position % C
#pragma once

#include "kernels/activation.h"
#include "kernels/cpu/isa.h"
#include "kernels/scalar.h"

namespace sdgan {

struct ConvEpilogueShape {
  int64_t planes = 0;
  int64_t lines = 0;
  int64_t length = 0;
  int64_t plane_stride = 0;  // of the windowed side, in elements
  int64_t line_stride = 0;
  int64_t channels = 1;
  bool channels_last = false;

  // A slice is some lines of one plane: the unit of work and of the bias gradient's partial sums.
  int64_t slice_lines() const { return length >= kElements ? 1 : kElements / (length > 0 ? length : 1); }
  int64_t slices_per_plane() const { return (lines + slice_lines() - 1) / slice_lines(); }
  int64_t slice_count() const { return planes * slices_per_plane(); }
  int64_t slice_elements() const { return (lines < slice_lines() ? lines : slice_lines()) * length; }
  int64_t channels_per_plane() const { return channels_last ? channels : 1; }

  static constexpr int64_t kElements = 65536;
};

struct ConvEpilogueParams {
  ConvEpilogueShape shape;
  const void* input = nullptr;     // windowed
  void* output = nullptr;          // dense; may be the input where that is dense
  void* preactivation = nullptr;   // dense or null; may be the input where that is dense
  double negative_slope = 0;
  Activation activation = Activation::none;
  DType dtype = DType::f32;
};

struct ConvEpilogueBackwardParams {
  ConvEpilogueShape shape;
  const void* grad_output = nullptr;    // dense
  const void* saved = nullptr;          // dense; not read without activation
  void* grad_preactivation = nullptr;   // windowed
  double* partial = nullptr;            // [slice_count, channels_per_plane] or null
  double negative_slope = 0;
  Activation activation = Activation::none;
  DType dtype = DType::f32;
};

SDGAN_CPU_KERNEL(conv_epilogue, const ConvEpilogueParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(conv_epilogue_backward, const ConvEpilogueBackwardParams& p, int64_t slice_begin,
                 int64_t slice_end)
// Adds the partial sums in order: grad_bias [channels].
SDGAN_CPU_KERNEL(conv_bias_gradient, const ConvEpilogueShape& shape, const double* partial, void* grad_bias,
                 DType dtype)

}  // namespace sdgan
