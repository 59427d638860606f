// What every convolution kernel computes, in conv2d's view:
//
//   x [N, Cx, H, W]               the fine side of the stride: conv2d's input, conv_transpose2d's output
//   y [N, Cy, P, Q]               the coarse side: conv2d's output, conv_transpose2d's input
//   w [Cy, Cx / groups, R, S]     the weight of either
//
// Along each axis, position i of x and position o of y meet in tap t when
//
//   i = o * stride + t * dilation - pad
//
// and the three passes are sums over the positions and taps that meet:
//
//   fprop   y[o] = sum w[t] x[i]     conv2d, and the input's gradient of conv_transpose2d
//   dgrad   x[i] = sum w[t] y[o]     conv_transpose2d, and the input's gradient of conv2d
//   wgrad   dw[t] = sum y[o] x[i]    the weight's gradient of both
//
// The names are cuDNN's; the decomposition of dgrad by residues is that of Dumoulin and Visin, arXiv 1603.07285,
// chapter 4.
#pragma once

#include "kernels/scalar.h"

namespace sdgan {

enum class Pass : int32_t { fprop, dgrad, wgrad };

struct ConvAxis {
  int64_t x = 0;  // H or W; positions fit 32 bits, the binding checks it
  int64_t y = 0;  // P or Q
  int64_t taps = 1;
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t pad = 0;  // before the first position of x; what is behind the last follows from the sizes
};

struct ConvGeometry {
  ConvAxis vertical, horizontal;
  int64_t batch = 0;
  int64_t x_channels = 0;  // of all groups
  int64_t y_channels = 0;
  int64_t groups = 1;

  SDGAN_HD const ConvAxis& axis(int i) const { return i == 0 ? vertical : horizontal; }
  SDGAN_HD int64_t x_pixels() const { return batch * vertical.x * horizontal.x; }
  SDGAN_HD int64_t y_pixels() const { return batch * vertical.y * horizontal.y; }
  SDGAN_HD int64_t taps() const { return vertical.taps * horizontal.taps; }
  // Of the direct algorithm, for any pass.
  SDGAN_HD int64_t multiplications() const { return y_pixels() * taps() * y_channels * (x_channels / groups); }
};

// The positions that a pass writes, split by the taps that they meet. In fprop all positions of y meet all taps. In
// dgrad the positions i of x with one residue v = (i + pad) mod stride share their taps, those with t * dilation = v
// mod stride: each residue is a convolution of stride 1, and no zero is multiplied.
//
// Written position first + n * step, n < count, meets tap tap_first + k * tap_step, k < taps, at the position
// read_first + n * read_step + k * read_tap of the side that is read; where that is out of its range there is nothing.
struct Residue {
  int first = 0, step = 1, count = 0;
  int tap_first = 0, tap_step = 1, taps = 0;
  int read_first = 0, read_step = 1, read_tap = 0;
};

// Static: kernels of several instruction sets include this file, and the linker must not merge their copies.
static SDGAN_HD int64_t residue_count(const ConvAxis& a, Pass pass) { return pass == Pass::dgrad ? a.stride : 1; }

static SDGAN_HD int64_t greatest_common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// Of v < residue_count(a, pass). A residue may have no position, or no tap: then what it writes is zero.
static SDGAN_HD Residue residue(const ConvAxis& a, Pass pass, int64_t v) {
  Residue r;
  if (pass != Pass::dgrad) {
    r.count = static_cast<int>(a.y);
    r.taps = static_cast<int>(a.taps);
    r.read_first = static_cast<int>(-a.pad);
    r.read_step = static_cast<int>(a.stride);
    r.read_tap = static_cast<int>(a.dilation);
    return r;
  }
  const int64_t first = ((v - a.pad) % a.stride + a.stride) % a.stride;
  r.first = static_cast<int>(first);
  r.step = static_cast<int>(a.stride);
  r.count = static_cast<int>(first < a.x ? (a.x - first + a.stride - 1) / a.stride : 0);
  const int64_t common = greatest_common_divisor(a.stride, a.dilation);
  const int64_t period = a.stride / common;  // taps so far apart belong to one residue
  int64_t tap = 0;
  while (tap < period && tap * a.dilation % a.stride != v) ++tap;
  r.tap_step = static_cast<int>(period);
  r.read_tap = static_cast<int>(-a.dilation / common);
  if (tap < period && tap < a.taps) {
    r.tap_first = static_cast<int>(tap);
    r.taps = static_cast<int>((a.taps - tap + period - 1) / period);
    r.read_first = static_cast<int>((first + a.pad - tap * a.dilation) / a.stride);
  }
  return r;
}

// The residues of dgrad in order of falling numbers of taps: v of the one at `rank`. The first stride / gcd(stride,
// dilation) are those of the taps 0, 1, ...; no tap ever belongs to the others.
static SDGAN_HD int64_t residue_by_taps(const ConvAxis& a, int64_t rank) {
  const int64_t common = greatest_common_divisor(a.stride, a.dilation), period = a.stride / common;
  if (rank < period) return rank * a.dilation % a.stride;
  const int64_t k = rank - period;
  return k / (common - 1) * common + 1 + k % (common - 1);
}

}  // namespace sdgan
