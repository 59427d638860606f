// Convolutions where one side has few channels: RGB or grey images at the ends of a generator and a discriminator.
//
//   wide  X [N, H, W, C]    any C
//   thin  Y [N, P, Q, K]    K = 1..4
//   taps  W [C, K, R, S]
//
// A wide pixel (h, w) and a thin pixel (p, q) meet in tap (r, s) when, in each direction,
//
//   wide is the coarse side   p = h * stride + r * dilation - pad     conv_transpose2d X -> Y,  conv2d Y -> X
//   wide is the fine side     h = p * stride + r * dilation - pad     conv2d X -> Y,  conv_transpose2d Y -> X
//
// Four ops and their gradients are then three products over the pairs that meet:
//
//   wide_to_thin   Y[p, q, k]    = sum X[h, w, c] W[c, k, r, s]
//   thin_to_wide   X[h, w, c]    = sum Y[p, q, k] W[c, k, r, s]
//   wgrad          dW[c, k, r, s] = sum X[h, w, c] Y[p, q, k]
//
// and one pass over the wide tensor does those that are asked for. A general convolution kernel blocks over output
// channels, of which there are one to four here: most of each vector idles. Here the taps take the place of the
// channels; see cpu/thin_conv.cpp.
//
// Bytes: X once, Y once. Multiplications: N H W C K R S for each product, / stride^2 where wide is the fine side.
#pragma once

#include "kernels/activation.h"
#include "kernels/cpu/isa.h"
#include "kernels/scalar.h"

namespace sdgan {

constexpr int64_t kThinChannels = 4;

struct ThinConvAxis {
  int64_t wide = 0;  // H or W
  int64_t thin = 0;  // P or Q
  int64_t taps = 1;  // R or S
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t pad = 0;  // at the top or left; the other end follows from the sizes
};

struct ThinConvParams {
  ThinConvAxis vertical, horizontal;
  int64_t batch = 0;
  int64_t channels = 0;       // C
  int64_t thin_channels = 0;  // K
  bool wide_is_fine = false;
  bool channels_last = false;  // the layout of every image here
  DType dtype = DType::f32;

  const void* weight = nullptr;        // W, with the strides below
  int64_t weight_stride[4] = {};       // of c, k, r, s in elements
  const void* bias = nullptr;          // of the side that is written: [K] or [C], or null
  const void* wide_in = nullptr;       // read by wide_to_thin and wgrad
  const void* wide_saved = nullptr;    // where given, wide_in counts times act'(wide_saved)
  const void* thin_in = nullptr;       // read by thin_to_wide and wgrad
  const void* thin_saved = nullptr;    // where given, thin_in counts times act'(thin_saved)
  void* wide_out = nullptr;            // thin_to_wide: act(sum + bias); the sum itself when a saved side is given
  void* thin_out = nullptr;            // wide_to_thin: likewise
  void* preactivation = nullptr;       // sum + bias of the side that is written, or null
  void* partial = nullptr;             // [slice_count, partial_size] in the compute type, zeros
  bool sums_over_batch = false;        // partial is given
  bool weight_gradient = false;        // partial receives dW
  bool thin_sums = false;              // partial receives the sums of thin_in by channel
  bool wide_sums = false;              // partial receives the sums of wide_in by channel
  Activation activation = Activation::none;
  double negative_slope = 0;

  Activation output_activation() const { return wide_saved || thin_saved ? Activation::none : activation; }

  // A slice is a group of whole images. Sums over the batch have at most 32 partial results, added in order.
  int64_t slice_images() const { return sums_over_batch ? (batch + 31) / 32 : 1; }
  int64_t slice_count() const { return batch == 0 ? 0 : (batch + slice_images() - 1) / slice_images(); }
  int64_t taps() const { return vertical.taps * horizontal.taps * thin_channels; }
  int64_t padded_channels() const { return (channels + 15) / 16 * 16; }
  int64_t partial_size() const { return (taps() + 1) * padded_channels(); }  // dW as [r, s, k][c], then the sums
};

SDGAN_CPU_KERNEL(thin_conv, const ThinConvParams& p, int64_t slice_begin, int64_t slice_end)
// Adds the partial results in order: grad_weight with the strides of weight, grad_bias [C] or [K]; either may be null.
SDGAN_CPU_KERNEL(thin_conv_gradients, const ThinConvParams& p, void* grad_weight, void* grad_bias)

}  // namespace sdgan
