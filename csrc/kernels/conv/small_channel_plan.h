// What the small-channel kernel (small_channel.cpp) computes with: its register-blocked product, and its plan of a shape,
// which is where the pixels and weights of every tap lie.
#pragma once

#include <algorithm>
#include <utility>

#include "kernels/cpu/buffer.h"
#include "kernels/cpu/simd.h"
#include "kernels/conv/small_channel.h"

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

// One direction. A position is a thin coordinate in the tile, which has the margins that taps reach beyond the image.
struct Axis : SmallChannelAxis {
  bool fine;  // wide is the fine side

  int64_t margin() const {  // the position of thin pixel 0
    if (!fine) return pad;
    return std::max<int64_t>(0, ((taps - 1) * dilation - pad + stride - 1) / stride);
  }
  int64_t extent() const {
    const int64_t reach = fine ? (wide - 1 + pad) / stride + margin() + 1
                               : (wide - 1) * stride + (taps - 1) * dilation + 1;
    return std::max(reach, thin + margin());
  }
  int64_t position(int64_t w, int64_t tap) const {
    return fine ? (w + pad - tap * dilation) / stride + margin() : w * stride + tap * dilation;
  }
  int64_t advance() const { return fine ? 1 : stride; }  // positions between the wide pixels of a phase

  int64_t phases() const { return fine ? stride : 1; }
  int64_t step() const { return fine ? stride : 1; }  // wide pixels between those of a phase
  int64_t first(int64_t phase) const { return fine ? ((phase - pad) % stride + stride) % stride : 0; }
  int64_t phase_of(int64_t w) const { return fine ? (w + pad) % stride : 0; }
  bool meets(int64_t phase, int64_t tap) const { return !fine || (phase - tap * dilation) % stride == 0; }

  // The wide coordinate that meets thin coordinate t in `tap`, or -1; those of all taps lie in [lowest, highest], which
  // are `span` or fewer and may reach beyond the image.
  int64_t wide_at(int64_t t, int64_t tap) const {
    const int64_t at = fine ? t * stride + tap * dilation - pad : t + pad - tap * dilation;
    if (!fine && at % stride != 0) return -1;
    const int64_t w = fine ? at : at / stride;
    return at >= 0 && w < wide ? w : -1;
  }
  int64_t lowest(int64_t t) const {
    return fine ? t * stride - pad : floor_divide(t + pad - (taps - 1) * dilation + stride - 1, stride);
  }
  int64_t highest(int64_t t) const {
    return fine ? t * stride + (taps - 1) * dilation - pad : floor_divide(t + pad, stride);
  }
  int64_t span() const { return (taps - 1) * dilation / (fine ? 1 : stride) + 1; }
};

struct Tap {
  int64_t offset;  // in the tile, for the first row and pixel of the phase
  int64_t index;   // (r, s, k)
};

// The wide pixels (first_row + i * row step, first_column + j * column step), and the taps that they meet.
struct Phase {
  int64_t first_row, first_column, columns;
  Buffer<Tap> taps;
  int64_t to_taps, to_wide;  // where its weights start in the plan
  int64_t products;          // its first column in the products of a wide row
};

// A column of a wide row's products that belongs to a thin row: where the products for x = 0 of a plane lie.
struct Piece {
  int64_t plane;  // k * advance + (thin column) % advance; x is (thin column) / advance
  int64_t at;
};

template <class T>
struct Plan {
  static constexpr int L = kLanes<T>;
  const SmallChannelParams& p;
  Axis vertical{p.vertical, p.wide_is_fine}, horizontal{p.horizontal, p.wide_is_fine};
  // The tile: rows of thin pixels, each as the memory format has it: [column][k] or [k][column].
  int64_t tile_row = p.thin_channels * horizontal.extent();
  int64_t tile_size = vertical.extent() * tile_row + 2 * L;  // whole vectors may be read at the end
  int64_t row_advance = vertical.advance() * tile_row;       // in the tile, from row to row of a phase
  int64_t pixel_advance = horizontal.advance() * (p.channels_last ? p.thin_channels : 1);
  int64_t pixel = p.padded_channels();  // elements between staged wide pixels
  int64_t block_rows;                   // wide rows that are worked on together
  Buffer<Phase> phases;
  Buffer<T> to_taps;  // per phase [C][taps, padded to vectors]
  Buffer<T> to_wide;  // per phase [taps][padded C]

  // wide_to_thin: the products of a wide row are [taps of its phases][columns_stride], zero beside the `columns` that
  // begin at `left`; so a plane of a thin row is a sum of pieces of rows, without tests for the border.
  int64_t columns = 0, left = 0, columns_stride = 0;
  int64_t products_row = 0;
  int64_t kept_rows = std::min(vertical.span(), vertical.wide);
  int64_t planes = p.thin_channels * horizontal.advance();
  Buffer<Piece> pieces;         // by row phase and r
  Buffer<int64_t> piece_begin;  // [row phases * R + 1]

  explicit Plan(const SmallChannelParams& params) : p(params) {
    // channels_last: a block stays in the first-level cache. NCHW: long runs of each channel count for more.
    const int64_t block_bytes = p.channels_last ? 16384 : 131072;
    const int64_t rows = std::max<int64_t>(1, block_bytes / (p.horizontal.wide * pixel * int64_t{sizeof(T)}));
    block_rows = round_up(rows, vertical.step());
    for (int64_t v = 0; v < vertical.phases(); ++v) {
      for (int64_t h = 0; h < horizontal.phases(); ++h) add_phase(v, h);
    }
    if (p.thin_out) place_products();
  }

  int64_t at(int64_t row, int64_t k, int64_t column) const {
    return row * tile_row + (p.channels_last ? column * p.thin_channels + k : k * horizontal.extent() + column);
  }

  void add_phase(int64_t row_phase, int64_t column_phase) {
    Phase f;
    f.first_row = vertical.first(row_phase);
    f.first_column = horizontal.first(column_phase);
    f.columns = f.first_column < p.horizontal.wide
                    ? (p.horizontal.wide - f.first_column + horizontal.step() - 1) / horizontal.step()
                    : 0;
    for (int64_t r = 0; r < p.vertical.taps; ++r) {
      for (int64_t s = 0; s < p.horizontal.taps; ++s) {
        if (!vertical.meets(row_phase, r) || !horizontal.meets(column_phase, s)) continue;
        for (int64_t k = 0; k < p.thin_channels; ++k) {
          f.taps.push_back({at(vertical.position(f.first_row, r), k, horizontal.position(f.first_column, s)),
                            (r * p.horizontal.taps + s) * p.thin_channels + k});
        }
      }
    }
    f.to_taps = to_taps.size();
    f.to_wide = to_wide.size();
    f.products = column_phase == 0 ? 0 : phases.back().products + round_up(phases.back().taps.size(), L);
    phases.push_back(std::move(f));
    pack(phases.back());
  }

  // x of the thin pixel that the phase's first pixel meets in a tap, and its plane.
  Piece first_piece(const Phase& f, const Tap& tap) const {
    const int64_t s = tap.index / p.thin_channels % p.horizontal.taps, advance = horizontal.advance();
    const int64_t column = horizontal.position(f.first_column, s) - horizontal.margin();
    const int64_t x = floor_divide(column, advance);
    return {tap.index % p.thin_channels * advance + column - x * advance, x};
  }

  void place_products() {
    int64_t first = 0, last = 0, rows = 0;  // of x
    for (const Phase& f : phases) {
      columns = std::max(columns, round_up(f.columns, L));
      rows = std::max(rows, f.products + round_up(f.taps.size(), L));
      for (const Tap& tap : f.taps) {
        first = std::min(first, first_piece(f, tap).at);
        last = std::max(last, first_piece(f, tap).at);
      }
    }
    left = round_up(last, L);
    const int64_t width = (p.horizontal.thin + horizontal.advance() - 1) / horizontal.advance();
    columns_stride = round_up(left + std::max(columns, round_up(width, L) - first), L);
    products_row = rows * columns_stride;
    for (int64_t v = 0; v < vertical.phases(); ++v) {
      for (int64_t r = 0; r < p.vertical.taps; ++r) {
        piece_begin.push_back(pieces.size());
        for (int64_t h = 0; h < horizontal.phases(); ++h) {
          const Phase& f = phases[v * horizontal.phases() + h];
          for (size_t t = 0; t < f.taps.size(); ++t) {
            if (f.taps[t].index / (p.thin_channels * p.horizontal.taps) != r) continue;
            const Piece piece = first_piece(f, f.taps[t]);
            pieces.push_back({piece.plane, (f.products + int64_t(t)) * columns_stride + left - piece.at});
          }
        }
      }
    }
    piece_begin.push_back(pieces.size());
  }

  void pack(const Phase& f) {
    dispatch(p.dtype, [&](auto storage) {
      using S = decltype(storage);
      if constexpr (std::is_same_v<compute_t<S>, T>) {
        const int64_t count = f.taps.size(), padded = round_up(count, L);
        if (p.thin_out) to_taps.resize(to_taps.size() + p.channels * padded, T(0));
        if (p.wide_out) to_wide.resize(to_wide.size() + count * pixel, T(0));
        for (int64_t t = 0; t < count; ++t) {
          const int64_t k = f.taps[t].index % p.thin_channels, rs = f.taps[t].index / p.thin_channels;
          const S* w = static_cast<const S*>(p.weight) + k * p.weight_stride[1] +
                       rs / p.horizontal.taps * p.weight_stride[2] + rs % p.horizontal.taps * p.weight_stride[3];
          for (int64_t c = 0; c < p.channels; ++c) {
            const T value = load_one(w + c * p.weight_stride[0]);
            if (p.thin_out) to_taps[f.to_taps + c * padded + t] = value;
            if (p.wide_out) to_wide[f.to_wide + t * pixel + c] = value;
          }
        }
      }
    });
  }
};

}  // namespace
}  // namespace sdgan::SDGAN_ISA
