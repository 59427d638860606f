// What the Winograd kernels share: sums with the coefficients of winograd_scheme.h, unrolled, and the geometry of tiles.
#pragma once

#include <algorithm>
#include <utility>

#include "kernels/cpu/buffer.h"
#include "kernels/cpu/gemm.h"
#include "kernels/winograd.h"
#include "kernels/winograd_scheme.h"

namespace sdgan::SDGAN_ISA {
namespace {

using winograd::kFiltering;
using winograd::kMaxPlanes;
using winograd::kMaxPoints;
using winograd::kMaxWindow;
using winograd::kOutput;
using winograd::PlaneMap;
using winograd::Row;
using winograd::Scheme;

using Vector = Vec<float>;
constexpr int kLane = kLanes<float>;
constexpr int64_t kSkew = 16;  // floats between planes: at a power of two apart they would meet in one set of the cache

// sum over j of r.c[j] * in[j * step], where code is r.code().
template <int code, int step = 1, int j = 0, bool started = false>
SDGAN_INLINE Vector combine(const Vector* in, Vector sum = Vector{}) {
  if constexpr (j == kMaxWindow) {
    return sum;
  } else {
    constexpr int factor = winograd::coefficient(code, j);
    if constexpr (factor == 0) {
      return combine<code, step, j + 1, started>(in, sum);
    } else if constexpr (!started) {
      return combine<code, step, j + 1, true>(in, factor > 0 ? in[j * step] : -in[j * step]);
    } else {
      return combine<code, step, j + 1, true>(in, factor > 0 ? sum + in[j * step] : sum - in[j * step]);
    }
  }
}

// body.template operator()<i>() for i = 0 .. count - 1.
template <int count, class Body>
SDGAN_INLINE void unrolled(Body body) {
  [&]<int... i>(std::integer_sequence<int, i...>) {
    (body.template operator()<i>(), ...);
  }(std::make_integer_sequence<int, count>{});
}

// body(first channel, count) by vectors; count < lanes at the very end only.
template <class Body>
SDGAN_INLINE void for_channels(int64_t channels, Body body) {
  int64_t c = 0;
  for (; c + kLane <= channels; c += kLane) body(c, kLane);
  if (c < channels) body(c, static_cast<int>(channels - c));
}

// Calls body(Scheme{}) with the algorithm of p.
template <class Body>
SDGAN_INLINE void with_scheme(const WinogradParams& p, Body body) {
  const bool odd = p.stride == 2 && p.vertical.crop % 2 != 0;
  if (p.stride == 1) return body(Scheme<3, 1, 0>{});
  if (p.taps == 3) return odd ? body(Scheme<3, 2, 1>{}) : body(Scheme<3, 2, 0>{});
  if (p.taps == 4) return odd ? body(Scheme<4, 2, 1>{}) : body(Scheme<4, 2, 0>{});
  return odd ? body(Scheme<5, 2, 1>{}) : body(Scheme<5, 2, 0>{});
}

// The tile's place: image, and its first coarse row and column (to_fine: first rows of every phase).
struct Tile {
  int64_t image, row, column;
};
SDGAN_INLINE Tile tile_at(const WinogradParams& p, int64_t index) {
  const int64_t columns = p.tile_columns(), rows = p.tile_rows();
  return {index / columns / rows, 2 * (index / columns % rows), 2 * (index % columns)};
}

// Pixel (row, column) of an image [height, width, channels], or `outside` where there is none.
SDGAN_INLINE const float* pixel(const float* image, int64_t row, int64_t column, int64_t height, int64_t width,
                                int64_t channels, const float* outside) {
  const bool inside = row >= 0 && row < height && column >= 0 && column < width;
  return inside ? image + (row * width + column) * channels : outside;
}

// Activations that a kernel applies to the sums while it has them in registers; the others take a second look at the
// pixel (activate_pixel).
template <class Body>
SDGAN_INLINE void with_epilogue(const WinogradParams& p, Body body) {
  if (p.activation == Activation::relu) return body(std::integral_constant<Activation, Activation::relu>{});
  if (p.activation == Activation::leaky_relu) return body(std::integral_constant<Activation, Activation::leaky_relu>{});
  body(std::integral_constant<Activation, Activation::none>{});
}

template <Activation activation>
struct Epilogue {
  const WinogradParams& p;
  float* out;
  int count;  // channels

  SDGAN_INLINE void operator()(int64_t offset, Vector sum) const {
    write<float>(out, offset, count, activate<Math>(activation, sum, static_cast<float>(p.negative_slope)));
  }
};

// act(sum) in place of the sum that lies there.
inline void activate_pixel(const WinogradParams& p, float* out, int64_t offset, int64_t channels) {
  if (p.activation == Activation::none) return;
  const float slope = static_cast<float>(p.negative_slope);
  dispatch_activation(p.activation, [&](auto activation) {
    for_channels(channels, [&](int64_t c, int count) {
      const Vector sum = read<float>(out, offset + c, count);
      write<float>(p.preactivation, offset + c, count, sum);
      write<float>(out, offset + c, count, activate<Math>(activation, sum, slope));
    });
  });
}

}  // namespace
}  // namespace sdgan::SDGAN_ISA
