// What follows a convolution that ran in a library, y = act(scale (a + residual)), and the gradient of y = act(a). On
// the CPU the library has added the bias to a; on CUDA, where it would do so in a pass of its own, the epilogue does.
//
//   forward   y = act(scale (a + bias + residual))     bytes: a and residual read, y written (in place on a if it may)
//   backward  g = dL/dy * act'(saved), db[c] = sum g   bytes: dL/dy and saved read, g written
//
// The library's side, a and g, may be a window of a larger tensor; residual, y, dL/dy and saved are dense.
// Both layouts are planes of lines of contiguous elements:
//
//                  planes   lines   length   channel of an element
//   NCHW           N * C    H       W        plane % C
//   channels_last  N        H       W * C    position % C
#pragma once

#include "kernels/activation.h"
#include "kernels/channel_tiles.h"
#include "kernels/isa.h"
#include "kernels/launcher.h"
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
  int64_t slice_lines() const {
    if (length >= kElements) return 1;
    return length > 0 ? kElements / length : kElements;
  }
  int64_t slices_per_plane() const { return (lines + slice_lines() - 1) / slice_lines(); }
  int64_t slice_count() const { return planes * slices_per_plane(); }
  int64_t slice_elements() const { return (lines < slice_lines() ? lines : slice_lines()) * length; }
  int64_t channels_per_plane() const { return channels_last ? channels : 1; }

  // CUDA: the same image in the tiles of batch_norm.h.
  ChannelTiles cuda_tiles(DType dtype) const {
    const int64_t batch = channels_last ? planes : planes / channels;
    const int64_t area = lines * length / channels_per_plane();
    if (channels == 1) return channel_tiles(dtype, 1, 1, batch * area, 1, false);
    const bool in_rows = channels_last || area < kSmallPlane;
    return channel_tiles(dtype, batch, channels, area, channels_last ? 1 : area, in_rows);
  }
  // Whether the windowed side is dense too.
  SDGAN_HD bool dense() const { return plane_stride == lines * length && (lines == 1 || line_stride == length); }
  // The offset of element i of the dense side on the windowed one.
  SDGAN_HD int64_t windowed(int64_t i) const {
    const int64_t line = i / length;
    return line / lines * plane_stride + line % lines * line_stride + i % length;
  }

  static constexpr int64_t kElements = 65536;
  static constexpr int64_t kSmallPlane = 16;
};

struct ConvEpilogueParams {
  ConvEpilogueShape shape;
  const void* input = nullptr;     // windowed
  const void* bias = nullptr;      // CUDA: [channels] or null
  const void* residual = nullptr;  // dense or null
  void* output = nullptr;          // dense; may be the input where that is dense
  void* preactivation = nullptr;   // dense or null; may be the input where that is dense
  double output_scale = 1;
  double negative_slope = 0;
  Activation activation = Activation::none;
  DType dtype = DType::f32;
};

struct ConvEpilogueBackwardParams {
  ConvEpilogueShape shape;
  const void* grad_output = nullptr;   // dense
  const void* saved = nullptr;         // dense; not read without activation
  void* grad_preactivation = nullptr;  // windowed; CUDA: or null
  double* partial = nullptr;           // [slice_count, channels_per_plane] or null; CUDA: [cuda_partial_count()]
  void* grad_bias = nullptr;           // CUDA: [channels], null where partial is
  double negative_slope = 0;
  Activation activation = Activation::none;
  DType dtype = DType::f32;

  int64_t cuda_partial_count() const { return shape.cuda_tiles(dtype).partial_count(1); }
};

SDGAN_CPU_KERNEL(conv_epilogue, const ConvEpilogueParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(conv_epilogue_backward, const ConvEpilogueBackwardParams& p, int64_t slice_begin, int64_t slice_end)
// Adds the partial sums in order: grad_bias [channels].
SDGAN_CPU_KERNEL(conv_bias_gradient, const ConvEpilogueShape& shape, const double* partial, void* grad_bias,
                 DType dtype)

// For tensors that are not empty. The backward pass sums the bias gradient as well.
SDGAN_CUDA_KERNEL(conv_epilogue, ConvEpilogueParams)
SDGAN_CUDA_KERNEL(conv_epilogue_backward, ConvEpilogueBackwardParams)

}  // namespace sdgan
