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
// channels; see cpu/small_channel.cpp and cuda/small_channel.cuh.
//
// Bytes: X once, Y once. Multiplications: N H W C K R S for each product, / stride^2 where wide is the fine side.
#pragma once

#include "kernels/activation.h"
#include "kernels/isa.h"
#include "kernels/launcher.h"
#include "kernels/scalar.h"

namespace sdgan {

constexpr int64_t kSmallChannels = 4;

struct SmallChannelAxis {
  int64_t wide = 0;  // H or W
  int64_t thin = 0;  // P or Q
  int64_t taps = 1;  // R or S
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t pad = 0;  // at the top or left; the other end follows from the sizes
};

struct SmallChannelParams {
  SmallChannelAxis vertical, horizontal;
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
  void* partial = nullptr;             // [slice_count, partial_size] in the compute type, zeros; CUDA: SmallChannelSums
  bool sums_over_batch = false;        // partial is given
  bool weight_gradient = false;        // partial receives dW
  bool thin_sums = false;              // partial receives the sums of thin_in by channel
  bool wide_sums = false;              // partial receives the sums of wide_in by channel
  Activation activation = Activation::none;
  double negative_slope = 0;

  SDGAN_HD Activation output_activation() const { return wide_saved || thin_saved ? Activation::none : activation; }

  // A slice is a group of whole images where there are sums over the batch: at most 32 partial results, added in order.
  // Else it is an image, or some rows of one where images are few.
  int64_t slice_images() const { return sums_over_batch ? (batch + 31) / 32 : 1; }
  int64_t written_rows() const { return wide_out ? vertical.wide : vertical.thin; }
  int64_t row_slices() const {
    const int64_t most = sums_over_batch || batch == 0 ? 1 : (31 + batch) / batch;
    return most < written_rows() ? most : written_rows();
  }
  int64_t slice_count() const {
    return batch == 0 ? 0 : (batch + slice_images() - 1) / slice_images() * row_slices();
  }
  SDGAN_HD int64_t taps() const { return vertical.taps * horizontal.taps * thin_channels; }
  int64_t padded_channels() const { return (channels + 15) / 16 * 16; }
  int64_t partial_size() const { return (taps() + 1) * padded_channels(); }  // dW as [r, s, k][c], then the sums
};

SDGAN_CPU_KERNEL(small_channel, const SmallChannelParams& p, int64_t slice_begin, int64_t slice_end)
// Adds the partial results in order: grad_weight with the strides of weight, grad_bias [C] or [K]; either may be null.
SDGAN_CPU_KERNEL(small_channel_gradients, const SmallChannelParams& p, void* grad_weight, void* grad_bias)

// ---------------------------------------------------------------------------------------------------- CUDA only
// Wide positions of one direction that meet the same taps: all of them where wide is the coarse side, else those of a
// remainder modulo the stride. Wide position first + i * step, i < count, and tap first_tap + j * tap_step, j < taps,
// meet at thin position i * advance + origin + j * shift.
struct SmallChannelPhase {
  int first, step, count, advance;
  int first_tap, tap_step, taps;
  int origin, shift;
};

SDGAN_HD SmallChannelPhase small_channel_phase(const SmallChannelAxis& axis, bool wide_is_fine, int phase) {
  const int wide = static_cast<int>(axis.wide), taps = static_cast<int>(axis.taps), pad = static_cast<int>(axis.pad);
  const int stride = static_cast<int>(axis.stride), dilation = static_cast<int>(axis.dilation);
  if (!wide_is_fine) return {0, 1, wide, stride, 0, 1, taps, -pad, dilation};
  if (stride == 1) return {0, 1, wide, 1, 0, 1, taps, pad, -dilation};
  int divisor = dilation, rest = stride;  // their greatest common divisor
  while (rest != 0) {
    const int next = divisor % rest;
    divisor = rest;
    rest = next;
  }
  const int tap_step = stride / divisor;
  int tap = 0;
  while (tap < tap_step && (tap % stride) * (dilation % stride) % stride != phase) ++tap;
  const int first = ((phase - pad) % stride + stride) % stride;
  const int count = first < wide ? (wide - first + stride - 1) / stride : 0;
  const int met = tap < tap_step && tap < taps ? (taps - tap + tap_step - 1) / tap_step : 0;
  return {first, stride, count, 1, tap, tap_step, met, (first + pad - tap * dilation) / stride, -(dilation / divisor)};
}

// How the CUDA kernels divide the sums over the batch: the shape alone decides. `partial` is, in the compute type,
//
//   [slices, rows, channels]  rows are dW as [r, s, k], then, of wide_sums, one a phase
//   [thin_slices, K]          of thin_sums
//
// A block sums a slice of the wide pixels of a phase for up to 64 taps and 128 channels (32 and 64 in double), and
// slices are as many as make kBlocks blocks: partial is at most 9 MB, or one slice of a W that is larger.
struct SmallChannelSums {
  static constexpr int64_t kBlocks = 264;  // two on each processor of an H100 or H200
  int phases = 1;
  int tap_groups, tap_chunks;          // groups of 8 in a block, blocks that share the taps
  int channel_groups, channel_chunks;  // likewise
  int64_t rows, channels, slices, thin_slices;

  explicit SmallChannelSums(const SmallChannelParams& p) : channels(p.channels) {
    const bool wide = p.dtype == DType::f64;
    if (p.wide_is_fine) phases = static_cast<int>(p.vertical.stride * p.horizontal.stride);
    rows = (p.weight_gradient ? p.taps() : 0) + (p.wide_sums ? phases : 0);
    const int64_t taps = (p.weight_gradient ? most_taps(p) : 0) + (p.wide_sums ? 1 : 0);
    divide(taps, wide ? 4 : 8, &tap_groups, &tap_chunks);
    divide(p.channels, wide ? 8 : 16, &channel_groups, &channel_chunks);
    const int64_t pixels = p.batch * p.vertical.wide * p.horizontal.wide / phases;
    slices = limit(kBlocks / (int64_t{phases} * tap_chunks * channel_chunks), (pixels + 127) / 128);
    thin_slices = p.thin_sums ? limit(128, (p.batch * p.vertical.thin * p.horizontal.thin + 2047) / 2048) : 0;
    if (p.batch == 0) slices = thin_slices = 0;
  }
  int64_t thin_offset() const { return slices * rows * channels; }
  int64_t partial_size(int64_t thin_channels) const { return thin_offset() + thin_slices * thin_channels; }

  // The most taps, times K, that any wide pixel meets.
  static int64_t most_taps(const SmallChannelParams& p) {
    int64_t most[2] = {};
    for (int axis = 0; axis < 2; ++axis) {
      const SmallChannelAxis& a = axis == 0 ? p.vertical : p.horizontal;
      for (int phase = 0; phase < (p.wide_is_fine ? a.stride : 1); ++phase) {
        const int64_t taps = small_channel_phase(a, p.wide_is_fine, phase).taps;
        if (taps > most[axis]) most[axis] = taps;
      }
    }
    return most[0] * most[1] * p.thin_channels;
  }
  // n things as `chunks` times up to `most` groups of 8, evenly.
  static void divide(int64_t n, int most, int* groups, int* chunks) {
    const int64_t all = n > 0 ? (n + 7) / 8 : 1;
    *chunks = static_cast<int>((all + most - 1) / most);
    *groups = static_cast<int>((all + *chunks - 1) / *chunks);
  }

 private:
  static int64_t limit(int64_t a, int64_t b) {
    const int64_t least = a < b ? a : b;
    return least > 1 ? least : 1;
  }
};

struct SmallChannelGradientsParams {
  SmallChannelParams conv;          // weight_stride is that of grad_weight
  void* grad_weight = nullptr;  // or null
  void* grad_bias = nullptr;    // [C] or [K], or null
};

SDGAN_CUDA_KERNEL(small_channel, SmallChannelParams)
SDGAN_CUDA_KERNEL(small_channel_gradients, SmallChannelGradientsParams)

}  // namespace sdgan
