// Convolutions of stride 1 and 2 with fewer multiplications: dgrad by residues, and Winograd's minimal filtering on
// each residue (Winograd 1980; Lavin and Gray 2016, arXiv 1509.09308). Derivation, counts and errors: docs/winograd.md.
//
//   x [N, H, W, Cx], y [N, P, Q, Cy], w [Cy, Cx, R, R] as in geometry.h;  R = 3, 4, 5 with stride 2, R = 3 with stride
//   1
//
// Each pass transforms tiles of 2 x 2 pixels of y (and their 2 stride x 2 stride pixels of x) to planes, multiplies
// plane by plane, a matrix product over channels, and transforms back; see scheme.h. float32, channels_last.
// For 3x3 of stride 1, fprop and dgrad also have tiles of 4 x 4 written pixels; see f43.h.
#pragma once

#include "kernels/activation.h"
#include "kernels/conv/geometry.h"
#include "kernels/isa.h"
#include "kernels/scalar.h"

namespace sdgan {

struct WinogradParams {
  Pass pass = Pass::dgrad;
  ConvGeometry geometry;   // square taps and strides, no dilation, no groups: see winograd_serves
  int64_t tile = 2;        // positions of y, in dgrad of a residue of x, each way: 2, or 4 for winograd_f43
  bool upsampled = false;  // winograd_f43, fprop: x is x_in [N, H / 2, W / 2, Cx], nearest-upsampled by 2; pads of 1

  const float* weight = nullptr;   // [Cy, Cx, R, R] with the strides below
  int64_t weight_stride[4] = {};   // in elements
  float* filter = nullptr;         // [filter_size] the weight, transformed for `pass`
  const float* x_in = nullptr;     // [N, H, W, Cx] read by fprop and wgrad
  const float* y_in = nullptr;     // [N, P, Q, Cy] read by dgrad and wgrad
  float* x_out = nullptr;          // [N, H, W, Cx] dgrad: act(sum + bias)
  float* y_out = nullptr;          // [N, P, Q, Cy] fprop: act(output_scale (sum + bias + residual))
  const float* bias = nullptr;     // of the side that is written, or null
  float* preactivation = nullptr;  // silu: what it is taken of, on the side that is written, or null
  float* grad_weight = nullptr;    // wgrad: as weight, with its strides

  const float* residual = nullptr;  // [N, P, Q, Cy] fprop, or null
  double output_scale = 1;          // 1 in dgrad
  Activation activation = Activation::none;
  double negative_slope = 0;

  // fprop, dgrad: a slice is a block of tiles; its size changes no bit of the result.
  // wgrad: a slice is a block of dw, and goes through all tiles, `block` at a time: their size is the order of the
  // sums.
  int64_t block = 32;
  int64_t y_block = 128, x_block = 32;  // channels, multiples of 16; they change no bit

  int64_t taps() const { return geometry.vertical.taps; }
  int64_t stride() const { return geometry.vertical.stride; }
  int64_t products() const;  // of a pair of channels for a tile
  int64_t tile_rows() const { return tiles(geometry.vertical); }
  int64_t tile_columns() const { return tiles(geometry.horizontal); }
  int64_t tile_count() const { return geometry.batch * tile_rows() * tile_columns(); }
  int64_t slice_count() const {
    if (pass != Pass::wgrad) return up(tile_count(), block);
    return up(geometry.y_channels, y_block) * up(geometry.x_channels, x_block);
  }
  int64_t padded_y() const { return pad(geometry.y_channels); }
  int64_t padded_x() const { return pad(geometry.x_channels); }
  static constexpr int64_t pad(int64_t channels) { return (channels + 15) / 16 * 16; }

 private:
  static constexpr int64_t up(int64_t n, int64_t d) { return (n + d - 1) / d; }
  // dgrad covers x, whose last pixels may lie beyond all of y's.
  int64_t tiles(const ConvAxis& axis) const {
    return pass == Pass::dgrad ? up(axis.x, tile * stride()) : up(axis.y, tile);
  }
};

// Whether there is an algorithm for these taps, stride and pads.
inline bool winograd_serves(int64_t taps, int64_t stride, int64_t pad_top, int64_t pad_left) {
  if (stride == 1) return taps == 3;
  return stride == 2 && taps >= 3 && taps <= 5 && pad_top % 2 == pad_left % 2;
}
// Multiplications of a channel pair for a tile; the direct algorithm takes 4 taps^2.
constexpr int64_t winograd_products(int64_t taps, int64_t stride) {
  if (stride == 1) return 16;
  if (taps == 3) return 25;
  return taps == 4 ? 36 : 49;
}
// Whether there are tiles of 4 x 4 as well, for fprop and dgrad.
inline bool winograd_f43_serves(const ConvGeometry& g) {
  const auto serves = [](const ConvAxis& a) { return a.taps == 3 && a.stride == 1 && a.dilation == 1; };
  return serves(g.vertical) && serves(g.horizontal) && g.groups == 1;
}
constexpr int64_t winograd_f43_products(bool upsampled) { return upsampled ? 25 : 36; }

inline int64_t WinogradParams::products() const {
  return tile == 4 ? winograd_f43_products(upsampled) : winograd_products(taps(), stride());
}
// Floats of p.filter, which begins on a cache line.
inline int64_t winograd_filter_size(const WinogradParams& p) { return p.products() * p.padded_y() * p.padded_x(); }

// The weight, transformed, to p.filter, for fprop and dgrad. A slice is 16 channels of the side that is read.
SDGAN_CPU_KERNEL(winograd_filter, const WinogradParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(winograd_fprop, const WinogradParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(winograd_dgrad, const WinogradParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(winograd_wgrad, const WinogradParams& p, int64_t slice_begin, int64_t slice_end)
// The same of tiles of 4 x 4: the weight's transform for fprop and dgrad, and either pass.
SDGAN_CPU_KERNEL(winograd_f43_filter, const WinogradParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(winograd_f43, const WinogradParams& p, int64_t slice_begin, int64_t slice_end)

}  // namespace sdgan
