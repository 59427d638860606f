// What the Winograd kernels share: sums with the coefficients of winograd_scheme.h, unrolled, and the geometry of
// tiles.
#pragma once

#include <algorithm>
#include <utility>

#include "kernels/conv/winograd/scheme.h"
#include "kernels/conv/winograd/winograd.h"
#include "kernels/cpu/buffer.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/workspace.h"

namespace sdgan::SDGAN_ISA {
namespace {

using winograd::kFiltering;
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
  const bool odd = p.stride() == 2 && p.geometry.vertical.pad % 2 != 0;
  if (p.stride() == 1) return body(Scheme<3, 1, 0>{});
  if (p.taps() == 3) return odd ? body(Scheme<3, 2, 1>{}) : body(Scheme<3, 2, 0>{});
  if (p.taps() == 4) return odd ? body(Scheme<4, 2, 1>{}) : body(Scheme<4, 2, 0>{});
  return odd ? body(Scheme<5, 2, 1>{}) : body(Scheme<5, 2, 0>{});
}

// The tile's place: image, and its first row and column of y (dgrad: the first ones of every residue).
struct Tile {
  int64_t image, row, column;
};

// The tiles of a block. At the end of an image a tile may lack its last row or column, for which alone the points at
// infinity count. The tiles are ordered so that those which need them are neighbours:
//
//   last row alone | both | last column alone | neither
class Tiles {
 public:
  struct Range {
    int64_t first, count;
  };

  explicit Tiles(const WinogradParams& params) : p_(params), tiles_(params.block) {}

  void fill(int64_t begin) {
    count_ = std::min(p_.block, p_.tile_count() - begin);
    int64_t place[4] = {};  // of a class: first its count, then its next place
    for (int64_t i = 0; i < count_; ++i) ++place[kind(tile(begin + i))];
    row_alone_ = place[0];
    both_ = place[1];
    column_alone_ = place[2];
    for (int64_t kind = 0, first = 0; kind < 4; ++kind) first += std::exchange(place[kind], first);
    for (int64_t i = 0; i < count_; ++i) tiles_.data()[place[kind(tile(begin + i))]++] = tile(begin + i);
  }

  int64_t count() const { return count_; }
  const Tile& operator[](int64_t i) const { return tiles_.data()[i]; }
  // Those with a last row and a last column, as far as they are asked for.
  Range with(bool row, bool column) const {
    return {column ? row_alone_ : 0, row && column ? both_
                                     : row         ? row_alone_ + both_
                                     : column      ? both_ + column_alone_
                                                   : count_};
  }

 private:
  SDGAN_INLINE Tile tile(int64_t index) const {
    const int64_t columns = p_.tile_columns(), rows = p_.tile_rows();
    return {index / columns / rows, p_.tile * (index / columns % rows), p_.tile * (index % columns)};
  }
  SDGAN_INLINE int kind(const Tile& tile) const {
    const bool dgrad = p_.pass == Pass::dgrad;
    const auto whole = [&](int64_t at, const ConvAxis& axis) {
      const int64_t last = at + p_.tile - 1;
      return dgrad ? p_.stride() * last < axis.x : last < axis.y;
    };
    const bool row = whole(tile.row, p_.geometry.vertical), column = whole(tile.column, p_.geometry.horizontal);
    return row ? column : 3 - column;
  }

  const WinogradParams& p_;
  Buffer<Tile> tiles_;
  int64_t count_ = 0, row_alone_ = 0, both_ = 0, column_alone_ = 0;
};

// Pixel (row, column) of an image [height, width, channels], or `outside` where there is none.
SDGAN_INLINE const float* pixel(const float* image, int64_t row, int64_t column, int64_t height, int64_t width,
                                int64_t channels, const float* outside) {
  const bool inside = row >= 0 && row < height && column >= 0 && column < width;
  return inside ? image + (row * width + column) * channels : outside;
}

// Activations that a kernel applies to the sums while it has them in registers; the others take a second look at the
// pixel (activate_pixels).
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
  const bool residual_or_scale = p.residual || p.output_scale != 1;

  SDGAN_INLINE void operator()(int64_t offset, Vector sum) const {
    if (residual_or_scale) {
      if (p.residual) sum += read<float>(p.residual + (out - p.y_out), offset, count);
      sum *= static_cast<float>(p.output_scale);
    }
    write<float>(out, offset, count, activate<Math>(activation, sum, static_cast<float>(p.negative_slope)));
  }
};

// act(sum) in place of the sum that lies there.
inline void activate_pixel(const WinogradParams& p, float* out, int64_t offset, int64_t channels) {
  if (p.activation == Activation::none) return;
  const float negative_slope = static_cast<float>(p.negative_slope);
  dispatch_activation(p.activation, [&](auto activation) {
    for_channels(channels, [&](int64_t c, int count) {
      const Vector sum = read<float>(out, offset + c, count);
      write<float>(p.preactivation, offset + c, count, sum);
      write<float>(out, offset + c, count, activate<Math>(activation, sum, negative_slope));
    });
  });
}

// The same of a tile's pixels: the one at offset and, where they are, those to the right and below.
inline void activate_pixels(const WinogradParams& p, float* out, int64_t offset, int64_t right, int64_t down,
                            bool second_column, bool second_row, int64_t channels) {
  activate_pixel(p, out, offset, channels);
  if (second_column) activate_pixel(p, out, offset + right, channels);
  if (second_row) activate_pixel(p, out, offset + down, channels);
  if (second_row && second_column) activate_pixel(p, out, offset + down + right, channels);
}

}  // namespace
}  // namespace sdgan::SDGAN_ISA
