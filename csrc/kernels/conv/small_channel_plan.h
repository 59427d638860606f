// What the small-channel kernel (small_channel.cpp) computes with: its register-blocked product, and its plan of a
// shape, which says where the pixels and weights of every tap lie.
#pragma once

#include <algorithm>
#include <utility>

#include "kernels/conv/small_channel.h"
#include "kernels/cpu/buffer.h"
#include "kernels/cpu/simd.h"

namespace sdgan::SDGAN_ISA {
namespace {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// ------------------------------------------------------------------------------------------ the product
// acc[i][v] stay in registers beside a row of the right side and one value of the left: 24 + 4 + 1 of 32, or 12 + 3 + 1
// of 16. More than 8 rows would need more pointers than there are.
constexpr int kAccumulators = kVectorBytes == 64 ? 24 : 12;
constexpr int kMaxVectors = kVectorBytes == 64 ? 4 : 3;
constexpr int max_rows(int vectors) { return std::min(8, kAccumulators / vectors); }

// acc[i][v] += sum over k < depth of left(i, k) * right(k)[v]
template <class T, int rows, int vectors, class Left, class Right>
SDGAN_INLINE void multiply(Vec<T> (&acc)[rows][vectors], int64_t depth, Left left, Right right) {
  for (int64_t k = 0; k < depth; ++k) {
    const T* r = right(k);
    Vec<T> row[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) row[v] = load(r + v * kLanes<T>);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const Vec<T> l = splat(left(i, k));
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) acc[i][v] += l * row[v];
    }
  }
}

// Moves a register tile: at(i) is where row i lies. Unrolled, or the compiler keeps the whole tile in memory.
template <class T, int rows, int vectors, class At>
SDGAN_INLINE void load_tile(Vec<T> (&acc)[rows][vectors], At at) {
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) acc[i][v] = load(at(i) + v * kLanes<T>);
  }
}

template <class T, int rows, int vectors, class At>
SDGAN_INLINE void store_tile(const Vec<T> (&acc)[rows][vectors], At at) {
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) store(at(i) + v * kLanes<T>, acc[i][v]);
  }
}

// Past the caches. p is aligned to a vector; streamed() afterwards, before another thread reads.
SDGAN_INLINE void stream(float* p, Vec<float> v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
  _mm256_stream_ps(p, (__m256)v);
#elif defined(__SSE2__)
  _mm_stream_ps(p, (__m128)v);
#else
  store(p, v);
#endif
}
SDGAN_INLINE void stream(double* p, Vec<double> v) { store(p, v); }
SDGAN_INLINE void streamed() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <class T, int rows, int vectors, class At>
SDGAN_INLINE void stream_tile(const Vec<T> (&acc)[rows][vectors], At at) {
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) stream(at(i) + v * kLanes<T>, acc[i][v]);
  }
}

template <int rows, int vectors, class Body>
SDGAN_INLINE void with_rows(int count, Body& body, int64_t first_row, int64_t first_vector) {
  if constexpr (rows > 1) {
    if (count < rows) return with_rows<rows - 1, vectors>(count, body, first_row, first_vector);
  }
  body.template operator()<rows, vectors>(first_row, first_vector);
}

template <int vectors, class Body>
void for_row_tiles(int64_t rows, Body& body, int64_t first_vector) {
  const int64_t tiles = (rows + max_rows(vectors) - 1) / max_rows(vectors);
  for (int64_t tile = 0, first = 0; tile < tiles; ++tile) {
    const int64_t count = rows / tiles + (tile < rows % tiles);
    with_rows<max_rows(vectors), vectors>(static_cast<int>(count), body, first, first_vector);
    first += count;
  }
}

template <int vectors, class Body>
SDGAN_INLINE void with_vectors(int64_t count, int64_t rows, Body& body, int64_t first_vector) {
  if constexpr (vectors > 1) {
    if (count < vectors) return with_vectors<vectors - 1>(count, rows, body, first_vector);
  }
  for_row_tiles<vectors>(rows, body, first_vector);
}

// Calls body.operator()<rows, vectors>(first_row, first_vector) for register tiles of about one size that cover
// rows x vectors. Doubles get narrow tiles: they serve gradient checks, and every tile is code.
template <class T, class Body>
void for_tiles(int64_t rows, int64_t vectors, Body body) {
  constexpr int most = sizeof(T) == sizeof(float) ? kMaxVectors : 2;
  const int64_t tiles = (vectors + most - 1) / most;
  for (int64_t tile = 0, first = 0; tile < tiles; ++tile) {
    const int64_t count = vectors / tiles + (tile < vectors % tiles);
    with_vectors<most>(count, rows, body, first);
    first += count;
  }
}

// ------------------------------------------------------------------------------------------ geometry
constexpr int64_t floor_divide(int64_t n, int64_t by) { return n >= 0 ? n / by : -((by - 1 - n) / by); }

// One direction. The small image that is read lies in a tile, which has margins for the taps that reach beyond it:
// small coordinate i is row or column margin + i of the tile.
struct Direction {
  ConvAxis axis;
  bool small_is_x;
  Buffer<Residue> large_residues;  // of the pass that writes the large side
  Buffer<Residue> small_residues;  // of the one that writes the small side
  int64_t margin = 0;
  int64_t extent = 0;  // of the tile

  Direction(const SmallChannelParams& p, const ConvAxis& a) : axis(a), small_is_x(p.small_is_x) {
    for (int64_t v = 0; v < residue_count(a, p.to_large()); ++v) large_residues.push_back(residue(a, p.to_large(), v));
    for (int64_t v = 0; v < residue_count(a, p.to_small()); ++v) small_residues.push_back(residue(a, p.to_small(), v));
    int64_t end = small_is_x ? a.x : a.y;
    for (const Residue& r : large_residues) {
      if (r.taps == 0) continue;
      const int64_t across_taps = int64_t{r.taps - 1} * r.read_tap;
      const int64_t across_pixels = std::max<int64_t>(0, r.count - 1) * r.read_step;
      margin = std::max(margin, -(r.read_first + std::min<int64_t>(0, across_taps)));
      end = std::max(end, r.read_first + across_pixels + std::max<int64_t>(0, across_taps) + 1);
    }
    extent = margin + end;
  }

  int64_t step() const { return large_residues[0].step; }          // large coordinates between those of a residue
  int64_t advance() const { return large_residues[0].read_step; }  // small ones between what these read
  // The residue of a large and of a small coordinate.
  int64_t large_residue(int64_t i) const { return small_is_x ? 0 : (i + axis.pad) % axis.stride; }
  const Residue& small_residue(int64_t i) const {
    return small_residues[small_is_x ? (i + axis.pad) % axis.stride : 0];
  }

  // The large coordinates that meet small coordinate i lie in [lowest, highest], which are `span` or fewer, do not fall
  // with i, and may reach beyond the image.
  int64_t lowest(int64_t i) const {
    if (!small_is_x) return i * axis.stride - axis.pad;
    return floor_divide(i + axis.pad - reach() + axis.stride - 1, axis.stride);
  }
  int64_t highest(int64_t i) const {
    if (!small_is_x) return i * axis.stride + reach() - axis.pad;
    return floor_divide(i + axis.pad, axis.stride);
  }
  int64_t span() const { return reach() / (small_is_x ? axis.stride : 1) + 1; }

 private:
  int64_t reach() const { return (axis.taps - 1) * axis.dilation; }
};

struct Tap {
  int64_t offset;  // in the tile, of what the first row and pixel of the residue read
  int64_t index;   // (r, s, k)
};

// The large pixels of one vertical and one horizontal residue, and the taps that they meet.
struct ResiduePair {
  Residue vertical, horizontal;
  Buffer<Tap> taps;
  int64_t weight_to_small, weight_to_large;  // where its weights start in the plan
  int64_t products;                          // its first row in the products of a large row
};

// A row of a large row's products that belongs to a small row: where the products for x = 0 of a plane lie.
struct Piece {
  int64_t plane;  // k * advance + (small column) % advance; x is (small column) / advance
  int64_t at;
};

template <class T>
struct Plan {
  static constexpr int L = kLanes<T>;
  const SmallChannelParams& p;
  const SmallChannelSide large = p.large_side();
  const SmallChannelSide small = p.small_side();
  const int64_t horizontal_taps = p.geometry.horizontal.taps;
  const Direction vertical{p, p.geometry.vertical};
  const Direction horizontal{p, p.geometry.horizontal};
  // The tile: rows of small pixels, each as the memory format has it: [column][k] or [k][column].
  const int64_t tile_row = small.channels * horizontal.extent;
  const int64_t tile_size = vertical.extent * tile_row + 2 * L;  // whole vectors may be read at the end
  const int64_t row_advance = vertical.advance() * tile_row;     // in the tile, from row to row of a residue
  const int64_t pixel_advance = horizontal.advance() * (p.channels_last ? small.channels : 1);
  const int64_t pixel = p.padded_channels();  // elements between staged large pixels
  int64_t block_rows;                         // large rows that are worked on together
  Buffer<ResiduePair> residues;               // [vertical residues][horizontal residues]
  Buffer<T> weight_to_small;                  // per residue [C][taps, padded to vectors]
  Buffer<T> weight_to_large;                  // per residue [taps][padded C]

  // to_small: the products of a large row are [taps of its residues][columns_stride], zero beside the `columns` that
  // begin at `left`; so a plane of a small row is a sum of pieces of rows, without tests for the border.
  int64_t columns = 0, left = 0, columns_stride = 0;
  int64_t products_row = 0;
  const int64_t kept_rows = std::min(vertical.span(), large.height);
  const int64_t planes = small.channels * horizontal.advance();
  Buffer<Piece> pieces;         // by vertical residue and r
  Buffer<int64_t> piece_begin;  // [vertical residues * R + 1]

  explicit Plan(const SmallChannelParams& params) : p(params) {
    // channels_last: a block stays in the first-level cache. NCHW: long runs of each channel count for more.
    const int64_t block_bytes = p.channels_last ? 16384 : 131072;
    const int64_t rows = std::max<int64_t>(1, block_bytes / (large.width * pixel * int64_t{sizeof(T)}));
    block_rows = round_up(rows, vertical.step());
    for (const Residue& v : vertical.large_residues) {
      int64_t products = 0;
      for (const Residue& h : horizontal.large_residues) {
        add_residue(v, h, products);
        products += round_up(residues.back().taps.size(), L);
      }
    }
    if (p.small_out) place_products();
  }

  int64_t at(int64_t row, int64_t k, int64_t column) const {
    return row * tile_row + (p.channels_last ? column * small.channels + k : k * horizontal.extent + column);
  }

  void add_residue(const Residue& v, const Residue& h, int64_t products) {
    ResiduePair f{v, h, {}, 0, 0, products};
    for (int64_t i = 0; i < v.taps; ++i) {
      const int64_t r = v.tap_first + i * v.tap_step;
      const int64_t row = vertical.margin + v.read_first + i * v.read_tap;
      for (int64_t j = 0; j < h.taps; ++j) {
        const int64_t s = h.tap_first + j * h.tap_step;
        const int64_t column = horizontal.margin + h.read_first + j * h.read_tap;
        for (int64_t k = 0; k < small.channels; ++k) {
          f.taps.push_back({at(row, k, column), (r * horizontal_taps + s) * small.channels + k});
        }
      }
    }
    f.weight_to_small = weight_to_small.size();
    f.weight_to_large = weight_to_large.size();
    residues.push_back(std::move(f));
    pack(residues.back());
  }

  // x of the small pixel that the residue's first pixel meets in a tap, and its plane.
  Piece first_piece(const ResiduePair& f, const Tap& tap) const {
    const Residue& h = f.horizontal;
    const int64_t k = tap.index % small.channels, s = tap.index / small.channels % horizontal_taps;
    const int64_t column = h.read_first + (s - h.tap_first) / h.tap_step * h.read_tap;
    const int64_t x = floor_divide(column, h.read_step);
    return {k * h.read_step + column - x * h.read_step, x};
  }

  void place_products() {
    int64_t first = 0, last = 0, rows = 0;  // of x
    for (const ResiduePair& f : residues) {
      columns = std::max(columns, round_up(f.horizontal.count, L));
      rows = std::max(rows, f.products + round_up(f.taps.size(), L));
      for (const Tap& tap : f.taps) {
        first = std::min(first, first_piece(f, tap).at);
        last = std::max(last, first_piece(f, tap).at);
      }
    }
    left = round_up(last, L);
    const int64_t width = (small.width + horizontal.advance() - 1) / horizontal.advance();
    columns_stride = round_up(left + std::max(columns, round_up(width, L) - first), L);
    products_row = rows * columns_stride;
    const int64_t across = horizontal.large_residues.size();
    for (size_t v = 0; v < vertical.large_residues.size(); ++v) {
      for (int64_t r = 0; r < p.geometry.vertical.taps; ++r) {
        piece_begin.push_back(pieces.size());
        for (int64_t h = 0; h < across; ++h) add_pieces(residues[v * across + h], r);
      }
    }
    piece_begin.push_back(pieces.size());
  }

  void add_pieces(const ResiduePair& f, int64_t r) {
    for (size_t t = 0; t < f.taps.size(); ++t) {
      if (f.taps[t].index / (small.channels * horizontal_taps) != r) continue;
      const Piece piece = first_piece(f, f.taps[t]);
      pieces.push_back({piece.plane, (f.products + int64_t(t)) * columns_stride + left - piece.at});
    }
  }

  void pack(const ResiduePair& f) {
    dispatch(p.dtype, [&](auto storage) {
      using S = decltype(storage);
      if constexpr (std::is_same_v<compute_t<S>, T>) {
        const int64_t count = f.taps.size(), padded = round_up(count, L);
        if (p.small_out) weight_to_small.resize(weight_to_small.size() + large.channels * padded, T(0));
        if (p.large_out) weight_to_large.resize(weight_to_large.size() + count * pixel, T(0));
        for (int64_t t = 0; t < count; ++t) {
          const int64_t k = f.taps[t].index % small.channels, rs = f.taps[t].index / small.channels;
          const S* w = static_cast<const S*>(p.weight) + k * p.weight_stride[1] +
                       rs / horizontal_taps * p.weight_stride[2] + rs % horizontal_taps * p.weight_stride[3];
          for (int64_t c = 0; c < large.channels; ++c) {
            const T value = load_one(w + c * p.weight_stride[0]);
            if (p.small_out) weight_to_small[f.weight_to_small + c * padded + t] = value;
            if (p.large_out) weight_to_large[f.weight_to_large + t * pixel + c] = value;
          }
        }
      }
    });
  }
};

}  // namespace
}  // namespace sdgan::SDGAN_ISA
