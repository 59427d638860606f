// Convolutions where one side has few channels: RGB or grey images at the ends of a generator and a discriminator. Of
// the sides x and y of geometry.h, that one is called small here and the other one large; small_is_x says which it is.
//
//   large  [N, C, H, W]    any C
//   small  [N, K, P, Q]    K = 1..4
//   w      [C, K, R, S]    the w of geometry.h, which is [K, C, R, S] where small is y
//
// The three passes are sums over the positions and taps that meet:
//
//              small is y   small is x
//   to_small   fprop        dgrad        small[k]  = sum large[c] w[c, k, t]
//   to_large   dgrad        fprop        large[c]  = sum small[k] w[c, k, t]
//   wgrad      wgrad        wgrad        dw[c, k, t] = sum large[c] small[k]
//
// and one run over the large tensor does those that are asked for. A general convolution kernel blocks over output
// channels, of which there are one to four here: most of each vector idles. Here the taps take the place of the
// channels; see small_channel.cpp for the CPU and small_channel.cuh for CUDA.
//
// Bytes: each side once. Multiplications: N H W C K R S for each product, / stride^2 where small is y.
#pragma once

#include "kernels/activation.h"
#include "kernels/conv/geometry.h"
#include "kernels/isa.h"
#include "kernels/launcher.h"
#include "kernels/scalar.h"

namespace sdgan {

constexpr int64_t kSmallChannels = 4;

struct SmallChannelSide {
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;

  SDGAN_HD int64_t pixels() const { return height * width; }  // of an image
};

struct SmallChannelParams {
  ConvGeometry geometry;       // of one group
  bool small_is_x = false;     // else small is y
  bool channels_last = false;  // the layout of every image here
  DType dtype = DType::f32;

  const void* weight = nullptr;       // [C, K, R, S] with the strides below
  int64_t weight_stride[4] = {};      // of c, k, r, s in elements
  const void* bias = nullptr;         // of the side that is written: [K] or [C], or null
  const void* large_in = nullptr;     // [N, C, H, W]: read by to_small and wgrad
  const void* large_saved = nullptr;  // [N, C, H, W]: where given, large_in counts times act'(large_saved)
  const void* small_in = nullptr;     // [N, K, P, Q]: read by to_large and wgrad
  const void* small_saved = nullptr;  // [N, K, P, Q]: where given, small_in counts times act'(small_saved)
  // act(sum + bias), or the sum itself when a saved side is given.
  void* large_out = nullptr;      // [N, C, H, W]: written by to_large
  void* small_out = nullptr;      // [N, K, P, Q]: written by to_small
  void* preactivation = nullptr;  // sum + bias of the side that is written, in its shape, or null
  void* partial = nullptr;        // [slice_count, partial_size] in the compute type, zeros; CUDA: SmallChannelSums
  bool sums_over_batch = false;   // partial is given
  bool weight_gradient = false;   // partial receives dw
  bool small_sums = false;        // partial receives the sums of small_in by channel
  bool large_sums = false;        // partial receives the sums of large_in by channel
  Activation activation = Activation::none;
  double negative_slope = 0;

  SDGAN_HD Pass to_small() const { return small_is_x ? Pass::dgrad : Pass::fprop; }
  SDGAN_HD Pass to_large() const { return small_is_x ? Pass::fprop : Pass::dgrad; }
  SDGAN_HD SmallChannelSide small_side() const { return small_is_x ? x_side() : y_side(); }
  SDGAN_HD SmallChannelSide large_side() const { return small_is_x ? y_side() : x_side(); }
  SDGAN_HD Activation output_activation() const { return large_saved || small_saved ? Activation::none : activation; }

  // A slice is a group of whole images where there are sums over the batch: at most 32 partial results, added in order.
  // Else it is an image, or some rows of one where images are few.
  int64_t slice_images() const { return sums_over_batch ? (geometry.batch + 31) / 32 : 1; }
  int64_t written_rows() const { return large_out ? large_side().height : small_side().height; }
  int64_t row_slices() const {
    const int64_t most = sums_over_batch || geometry.batch == 0 ? 1 : (31 + geometry.batch) / geometry.batch;
    return most < written_rows() ? most : written_rows();
  }
  int64_t slice_count() const {
    return geometry.batch == 0 ? 0 : (geometry.batch + slice_images() - 1) / slice_images() * row_slices();
  }
  SDGAN_HD int64_t taps() const { return geometry.taps() * small_side().channels; }  // (r, s, k)
  int64_t padded_channels() const { return (large_side().channels + 15) / 16 * 16; }
  int64_t partial_size() const { return (taps() + 1) * padded_channels(); }  // dw as [r, s, k][c], then the sums

 private:
  SDGAN_HD SmallChannelSide x_side() const { return {geometry.x_channels, geometry.vertical.x, geometry.horizontal.x}; }
  SDGAN_HD SmallChannelSide y_side() const { return {geometry.y_channels, geometry.vertical.y, geometry.horizontal.y}; }
};

SDGAN_CPU_KERNEL(small_channel, const SmallChannelParams& p, int64_t slice_begin, int64_t slice_end)
// Adds the partial results in order: grad_weight with the strides of weight, grad_bias [C] or [K]; either may be null.
SDGAN_CPU_KERNEL(small_channel_gradients, const SmallChannelParams& p, void* grad_weight, void* grad_bias)

// ---------------------------------------------------------------------------------------------------- CUDA only
// How the CUDA kernels divide the sums over the batch: the shape alone decides. `partial` is, in the compute type,
//
//   [slices, rows, channels]  rows are dw as [r, s, k], then, of large_sums, one a residue
//   [small_slices, K]         of small_sums
//
// A residue is here one of the large side's rows with one of its columns: large pixels that meet the same taps. A block
// sums a slice of the pixels of a residue for up to 64 taps and 128 channels (32 and 64 in double), and slices are as
// many as make kBlocks blocks: partial is at most 9 MB, or one slice of a weight that is larger.
struct SmallChannelSums {
  static constexpr int64_t kBlocks = 264;  // two on each processor of an H100 or H200
  int64_t residues;
  int tap_groups, tap_chunks;          // groups of 8 in a block, blocks that share the taps
  int channel_groups, channel_chunks;  // likewise
  int64_t rows, channels, slices, small_slices;

  explicit SmallChannelSums(const SmallChannelParams& p) {
    const ConvGeometry& g = p.geometry;
    const SmallChannelSide large = p.large_side(), small = p.small_side();
    const bool doubles = p.dtype == DType::f64;
    residues = residue_count(g.vertical, p.to_large()) * residue_count(g.horizontal, p.to_large());
    channels = large.channels;
    rows = (p.weight_gradient ? p.taps() : 0) + (p.large_sums ? residues : 0);
    const int64_t taps = (p.weight_gradient ? most_taps(p) : 0) + (p.large_sums ? 1 : 0);
    divide(taps, doubles ? 4 : 8, &tap_groups, &tap_chunks);
    divide(channels, doubles ? 8 : 16, &channel_groups, &channel_chunks);
    const int64_t pixels = g.batch * large.pixels() / residues;
    slices = limit(kBlocks / (residues * tap_chunks * channel_chunks), (pixels + 127) / 128);
    small_slices = p.small_sums ? limit(128, (g.batch * small.pixels() + 2047) / 2048) : 0;
    if (g.batch == 0) {
      slices = 0;
      small_slices = 0;
    }
  }
  int64_t small_offset() const { return slices * rows * channels; }
  int64_t partial_size(int64_t small_channels) const { return small_offset() + small_slices * small_channels; }

  // The most taps, times K, that any large pixel meets: those of the residue of tap 0.
  static int64_t most_taps(const SmallChannelParams& p) {
    const int64_t vertical = residue(p.geometry.vertical, p.to_large(), 0).taps;
    return vertical * residue(p.geometry.horizontal, p.to_large(), 0).taps * p.small_side().channels;
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
  SmallChannelParams conv;      // weight_stride is that of grad_weight
  void* grad_weight = nullptr;  // [C, K, R, S], or null
  void* grad_bias = nullptr;    // [C] or [K], or null
};

SDGAN_CUDA_KERNEL(small_channel, SmallChannelParams)
SDGAN_CUDA_KERNEL(small_channel_gradients, SmallChannelGradientsParams)

}  // namespace sdgan
