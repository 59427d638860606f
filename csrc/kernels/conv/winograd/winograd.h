// Convolutions of stride 1 and 2 with fewer multiplications: phases, and Winograd's minimal filtering on each
// (Winograd 1980; Lavin and Gray 2016, arXiv 1509.09308). Derivation, counts and errors: docs/winograd.md.
//
//   coarse X [N, H, W, C]    the input of conv_transpose2d, the output of conv2d
//   fine   Y [N, P, Q, D]    the output of conv_transpose2d, the input of conv2d
//   taps   w [C, D, R, R]    R = 3, 4, 5 with stride 2, R = 3 with stride 1
//
// Coarse position m and fine position o meet in tap k when o = stride * m + k - crop, in each direction. Both ops and
// their gradients are three products over the pairs that meet:
//
//   to_fine     Y[o] = sum w[k] X[m]       conv_transpose2d, the input's gradient of conv2d
//   to_coarse   X[m] = sum w[k] Y[o]       conv2d, the input's gradient of conv_transpose2d
//   wgrad       dw[k] = sum X[m] Y[o]
//
// Each transforms tiles of 2 x 2 coarse pixels (and their 2 stride x 2 stride fine ones) to planes, multiplies plane by
// plane, a matrix product over channels, and transforms back; see winograd_scheme.h. float32, channels_last.
#pragma once

#include "kernels/activation.h"
#include "kernels/conv/geometry.h"
#include "kernels/isa.h"
#include "kernels/scalar.h"

namespace sdgan {

struct WinogradAxis {
  int64_t coarse = 0;  // H or W
  int64_t fine = 0;    // P or Q
  int64_t crop = 0;    // at the top or left; the other end follows from the sizes
};

struct WinogradParams {
  Pass product = Pass::dgrad;
  int64_t taps = 4;
  int64_t stride = 2;
  WinogradAxis vertical, horizontal;
  int64_t batch = 0;
  int64_t coarse_channels = 0;  // C
  int64_t fine_channels = 0;    // D

  const float* weight = nullptr;   // [C, D, R, R] with the strides below
  int64_t weight_stride[4] = {};   // in elements
  float* filter = nullptr;         // [filter_size] the weight, transformed for `product`
  const float* coarse_in = nullptr;  // [N, H, W, C] read by to_fine and wgrad
  const float* fine_in = nullptr;    // [N, P, Q, D] read by to_coarse and wgrad
  float* coarse_out = nullptr;       // [N, H, W, C] to_coarse: act(sum + bias)
  float* fine_out = nullptr;         // [N, P, Q, D] to_fine: act(sum + bias)
  const float* bias = nullptr;       // of the side that is written, or null
  float* preactivation = nullptr;    // silu: sum + bias of the side that is written, or null
  float* grad_weight = nullptr;      // wgrad: as weight, with its strides
  Activation activation = Activation::none;
  double negative_slope = 0;

  // to_fine, to_coarse: a slice is a block of tiles; its size changes no bit of the result.
  // wgrad: a slice is a block of dw, and goes through all tiles, `block` at a time: their size is the order of the sums.
  int64_t block = 32;
  int64_t coarse_block = 128, fine_block = 32;  // channels, multiples of 16; they change no bit

  int64_t tile_rows() const { return product == Pass::dgrad ? tiles(vertical.fine) : half(vertical.coarse); }
  int64_t tile_columns() const {
    return product == Pass::dgrad ? tiles(horizontal.fine) : half(horizontal.coarse);
  }
  int64_t tile_count() const { return batch * tile_rows() * tile_columns(); }
  int64_t slice_count() const {
    if (product != Pass::wgrad) return up(tile_count(), block);
    return up(coarse_channels, coarse_block) * up(fine_channels, fine_block);
  }
  int64_t padded_coarse() const { return pad(coarse_channels); }
  int64_t padded_fine() const { return pad(fine_channels); }
  static constexpr int64_t pad(int64_t channels) { return (channels + 15) / 16 * 16; }

 private:
  static constexpr int64_t up(int64_t n, int64_t d) { return (n + d - 1) / d; }
  static constexpr int64_t half(int64_t n) { return (n + 1) / 2; }
  int64_t tiles(int64_t fine) const { return up(fine, 2 * stride); }
};

inline WinogradParams winograd_params(const ConvGeometry& g, Pass pass) {
  WinogradParams p;
  p.product = pass;
  p.taps = g.vertical.taps;
  p.stride = g.vertical.stride;
  p.vertical = {g.vertical.y, g.vertical.x, g.vertical.pad};
  p.horizontal = {g.horizontal.y, g.horizontal.x, g.horizontal.pad};
  p.batch = g.batch;
  p.coarse_channels = g.y_channels;
  p.fine_channels = g.x_channels;
  return p;
}

// Whether there is an algorithm for these taps, stride and crops.
inline bool winograd_serves(int64_t taps, int64_t stride, int64_t crop_top, int64_t crop_left) {
  if (stride == 1) return taps == 3;
  return stride == 2 && taps >= 3 && taps <= 5 && crop_top % 2 == crop_left % 2;
}
// Multiplications of a channel pair for a tile; the direct algorithm takes 4 taps^2.
constexpr int64_t winograd_products(int64_t taps, int64_t stride) {
  return stride == 1 ? 16 : taps == 3 ? 25 : taps == 4 ? 36 : 49;
}
// Floats of p.filter, which begins on a cache line.
inline int64_t winograd_filter_size(const WinogradParams& p) {
  return winograd_products(p.taps, p.stride) * p.padded_coarse() * p.padded_fine();
}

// The weight, transformed, to p.filter, for to_fine and to_coarse. A slice is 16 channels of the side that is read.
SDGAN_CPU_KERNEL(winograd_filter, const WinogradParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(winograd_dgrad, const WinogradParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(winograd_fprop, const WinogradParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(winograd_wgrad, const WinogradParams& p, int64_t slice_begin, int64_t slice_end)

}  // namespace sdgan
