// Vectors run over taps or over wide channels, never over the thin ones.
//
// The thin image lives in a tile: a padded copy in the compute type, where every tap of every wide pixel is in bounds,
// stored as planes in which the pixels that one tap meets, along a row of wide pixels, are neighbours. For tap t and
// wide pixel i of a row, the thin value is tile[offset[t] + i]; hence
//
//   thin_to_wide   X[i][c]  = sum over t of tile[offset[t] + i] * W[t][c]      broadcast x vector of channels
//   wgrad          dW[t][c] = sum over i of tile[offset[t] + i] * X[i][c]      broadcast x vector of channels
//   wide_to_thin   P[i][t]  = sum over c of X[i][c] * W[c][t]                  broadcast x vector of taps,
//                  then P is transposed and tile[offset[t] + i] += P[t][i], as sums of shifted vectors (col2im)
//
// are one register-blocked product. Where wide is the fine side of a strided convolution, a wide pixel meets only the
// taps of its phase (its position modulo the stride): the rows and columns of one phase are treated together.
#include "kernels/thin_conv.h"

#include <algorithm>
#include <utility>

#include "kernels/cpu/buffer.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/transpose.h"

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
// Positions of thin pixels in the tile along one direction.
struct Axis : ThinConvAxis {
  bool fine;  // wide is the fine side

  int64_t margin() const {  // the tile's position of thin pixel 0
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
  bool meets(int64_t phase, int64_t tap) const { return !fine || (phase - tap * dilation) % stride == 0; }
};

struct Tap {
  int64_t offset;  // in the tile, for the first row and pixel of the phase
  int64_t plane;   // offset of the tile's row and plane; offset - plane is the position in it
  int64_t index;   // (r, s, k)
};

// The wide pixels (first_row + i * row step, first_column + j * column step), and the taps that they meet.
struct Phase {
  int64_t first_row, first_column, columns;
  Buffer<Tap> taps;       // those of one plane together
  int64_t to_taps, to_wide;    // where its weights start in Weights
};

template <class T>
struct Plan {
  static constexpr int L = kLanes<T>;
  const ThinConvParams& p;
  Axis vertical{p.vertical, p.wide_is_fine}, horizontal{p.horizontal, p.wide_is_fine};
  int64_t plane = (horizontal.extent() + horizontal.advance() - 1) / horizontal.advance();
  int64_t tile_row = p.thin_channels * horizontal.advance() * plane;
  int64_t tile_size = vertical.extent() * tile_row + 2 * L;  // whole vectors may be read and written at the end
  int64_t row_advance = vertical.advance() * tile_row;       // in the tile, from row to row of a phase
  int64_t pixel = p.padded_channels();                       // elements between staged wide pixels
  int64_t block_rows;                                        // wide rows that are worked on together
  int64_t span = 0;                                          // the most between the taps of a plane
  Buffer<Phase> phases;
  Buffer<T> to_taps;  // per phase [C][taps, padded to vectors]
  Buffer<T> to_wide;  // per phase [taps][padded C]

  explicit Plan(const ThinConvParams& params) : p(params) {
    // channels_last: a block stays in the first-level cache. NCHW: long runs of each channel count for more.
    const int64_t block_bytes = p.channels_last ? 16384 : 131072;
    const int64_t rows = std::max<int64_t>(1, block_bytes / (p.horizontal.wide * pixel * int64_t{sizeof(T)}));
    block_rows = round_up(rows, vertical.step());
    for (int64_t v = 0; v < vertical.phases(); ++v) {
      for (int64_t h = 0; h < horizontal.phases(); ++h) add_phase(v, h);
    }
  }

  int64_t at(int64_t row, int64_t k, int64_t column) const {
    const int64_t advance = horizontal.advance();
    return row * tile_row + (k * advance + column % advance) * plane + column / advance;
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
          const int64_t column = horizontal.position(f.first_column, s);
          const int64_t offset = at(vertical.position(f.first_row, r), k, column);
          f.taps.push_back({offset, offset - column / horizontal.advance(),
                            (r * p.horizontal.taps + s) * p.thin_channels + k});
        }
      }
    }
    std::sort(f.taps.begin(), f.taps.end(), [](const Tap& a, const Tap& b) { return a.offset < b.offset; });
    for (size_t t = 0, first = 0; t < f.taps.size(); ++t) {
      if (f.taps[t].plane != f.taps[first].plane) first = t;
      span = std::max(span, f.taps[t].offset - f.taps[first].offset);
    }
    f.to_taps = to_taps.size();
    f.to_wide = to_wide.size();
    phases.push_back(std::move(f));
    pack(phases.back());
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

// ------------------------------------------------------------------------------------------ the pass over images
template <class S>
struct Pass {
  using T = compute_t<S>;
  static constexpr int L = kLanes<T>;
  const ThinConvParams& p;
  const Plan<T> plan{p};
  const int64_t thin_size = p.vertical.thin * p.horizontal.thin * p.thin_channels;
  const int64_t width = p.horizontal.wide;
  const int64_t pixel = plan.pixel;
  const int64_t vectors = (p.channels + L - 1) / L;
  // In memory as in the stage: nothing to convert, to transpose or to pad.
  const bool plain = p.channels_last && std::is_same_v<S, T> && p.channels == pixel;
  const int64_t columns = round_up(width, L);                   // of the transposed products, beside their margins
  const int64_t columns_stride = columns + 2 * plan.span + L;
  const T *ahead = nullptr, *ahead_end = nullptr;  // of the wide rows that come next
  int64_t ahead_piece = 0;
  Buffer<T> dense = Buffer<T>(thin_size + L);         // a thin image as it lies in memory
  Buffer<T> tile_in = Buffer<T>(p.thin_in ? plan.tile_size : 0);
  Buffer<T> tile_out = Buffer<T>(p.thin_out ? plan.tile_size : 0);
  Buffer<T> stage = Buffer<T>(plan.block_rows * width * pixel);  // a block of wide rows, [pixels][padded C]
  Buffer<T> products = Buffer<T>(p.thin_out ? columns * round_up(p.taps(), L) : 0);
  Buffer<T> transposed = Buffer<T>(p.thin_out ? columns_stride * round_up(p.taps(), L) : 0);
  Buffer<T> bias = Buffer<T>(std::max(pixel, kThinChannels));

  explicit Pass(const ThinConvParams& params) : p(params) {
    const int64_t count = !p.bias ? 0 : p.wide_out ? p.channels : p.thin_channels;
    for (int64_t c = 0; c < count; ++c) bias[c] = load_one(static_cast<const S*>(p.bias) + c);
  }

  void slice(int64_t s) {
    T* partial = p.partial ? static_cast<T*>(p.partial) + s * p.partial_size() : nullptr;
    const int64_t last = std::min(p.batch, (s + 1) * p.slice_images());
    for (int64_t n = s * p.slice_images(); n < last; ++n) image(n, partial);
  }

  void image(int64_t n, T* partial) {
    T* sums = partial ? partial + p.taps() * pixel : nullptr;
    if (p.thin_in) read_thin(n);
    if (p.thin_sums) add_thin(sums);
    if (p.thin_out) std::fill(tile_out.begin(), tile_out.end(), T(0));
    for (int64_t row = 0; row < p.vertical.wide; row += plan.block_rows) {
      const int64_t rows = std::min(plan.block_rows, p.vertical.wide - row);
      const int64_t first = (n * p.vertical.wide + row) * width * p.channels;  // of the block when it is plain
      if (p.wide_in) {
        const bool in_place = plain && !p.wide_saved;
        if (!in_place) read_wide(n, row, rows);
        const T* x = in_place ? static_cast<const T*>(p.wide_in) + first : stage.data();
        if (in_place) expect(x + rows * width * pixel, std::min(plan.block_rows, p.vertical.wide - row - rows));
        if (p.wide_sums) add_wide(x, rows * width, sums);
        for (const Phase& f : plan.phases) {
          if (p.weight_gradient) wgrad(f, x, row, rows, partial);
          if (p.thin_out) wide_to_thin(f, x, row, rows);
        }
      }
      if (p.wide_out) {
        T* sums = plain ? static_cast<T*>(p.preactivation ? p.preactivation : p.wide_out) + first : stage.data();
        T* activated = plain ? static_cast<T*>(p.wide_out) + first : stage.data();
        for (const Phase& f : plan.phases) thin_to_wide(f, sums, row, rows);
        if (p.preactivation && !plain) write_wide(p.preactivation, n, row, rows);
        activate_all(sums, activated, rows * width * pixel);
        if (!plain) write_wide(p.wide_out, n, row, rows);
      }
    }
    if (p.thin_out) write_thin(n);
  }

  // The products read in an order that the hardware does not foresee: each register tile asks for a piece of the next
  // block, few enough lines to be under way at once.
  void expect(const T* rows, int64_t count) {
    ahead = rows;
    ahead_end = rows + count * width * pixel;
    const int64_t tiles = (p.weight_gradient ? p.taps() * vectors / kAccumulators : 0) + (p.thin_out ? count * width / 8 : 0);
    ahead_piece = (ahead_end - ahead) / std::max<int64_t>(1, tiles) + L;
  }
  SDGAN_INLINE void prefetch() {
    const T* end = std::min(ahead_end, ahead + ahead_piece);
    for (; ahead < end; ahead += 64 / sizeof(T)) __builtin_prefetch(ahead);
  }

  // Calls body(tile shift, first wide pixel of the block) for the rows of a phase in the block.
  template <class Body>
  SDGAN_INLINE void for_rows(const Phase& f, int64_t row, int64_t rows, Body body) {
    const int64_t step = plan.vertical.step();
    for (int64_t y = f.first_row; y < rows; y += step) {
      body((row + y - f.first_row) / step * plan.row_advance, y * width + f.first_column);
    }
  }

  void thin_to_wide(const Phase& f, T* out, int64_t row, int64_t rows) {
    const int64_t step = plan.horizontal.step() * pixel;
    for_rows(f, row, rows, [&](int64_t shift, int64_t first) {
      for_tiles<T>(f.columns, vectors, [&]<int tile_rows, int tile_vectors>(int64_t i0, int64_t v0) {
        const T* thin = tile_in.data() + shift + i0;
        const T* weight = plan.to_wide.data() + f.to_wide + v0 * L;
        Vec<T> acc[tile_rows][tile_vectors];
        load_tile<T>(acc, [&](int) { return &bias[v0 * L]; });
        multiply<T>(
            acc, f.taps.size(), [&](int i, int64_t t) { return thin[f.taps[t].offset + i]; },
            [&](int64_t t) { return weight + t * pixel; });
        T* to = out + first * pixel + i0 * step + v0 * L;
        store_tile<T>(acc, [&](int i) { return to + i * step; });
      });
    });
  }

  void wgrad(const Phase& f, const T* x, int64_t row, int64_t rows, T* partial) {
    const int64_t step = plan.horizontal.step() * pixel;
    for_tiles<T>(f.taps.size(), vectors, [&]<int tile_rows, int tile_vectors>(int64_t t0, int64_t v0) {
      prefetch();
      Vec<T> acc[tile_rows][tile_vectors];
      const T* thin[tile_rows];
      T* sum[tile_rows];
#pragma GCC unroll 8
      for (int i = 0; i < tile_rows; ++i) sum[i] = partial + f.taps[t0 + i].index * pixel + v0 * L;
      load_tile<T>(acc, [&](int i) { return sum[i]; });
      for_rows(f, row, rows, [&](int64_t shift, int64_t first) {
#pragma GCC unroll 8
        for (int i = 0; i < tile_rows; ++i) thin[i] = tile_in.data() + f.taps[t0 + i].offset + shift;
        const T* wide = x + first * pixel + v0 * L;
        multiply<T>(
            acc, f.columns, [&](int i, int64_t j) { return thin[i][j]; }, [&](int64_t j) { return wide + j * step; });
      });
      store_tile<T>(acc, [&](int i) { return sum[i]; });
    });
  }

  void wide_to_thin(const Phase& f, const T* x, int64_t row, int64_t rows) {
    const int64_t step = plan.horizontal.step() * pixel;
    const int64_t padded = round_up(f.taps.size(), L);
    for_rows(f, row, rows, [&](int64_t shift, int64_t first) {
      for_tiles<T>(f.columns, padded / L, [&]<int tile_rows, int tile_vectors>(int64_t i0, int64_t v0) {
        prefetch();
        const T* wide = x + first * pixel + i0 * step;
        const T* weight = plan.to_taps.data() + f.to_taps + v0 * L;
        Vec<T> acc[tile_rows][tile_vectors] = {};
        multiply<T>(
            acc, p.channels, [&](int i, int64_t c) { return wide[i * step + c]; },
            [&](int64_t c) { return weight + c * padded; });
        T* to = &products[i0 * padded + v0 * L];
        store_tile<T>(acc, [&](int i) { return to + i * padded; });
      });
      std::fill(&products[f.columns * padded], &products[columns * padded], T(0));
      transpose_products(padded);
      add_to_tile(f, shift);
    });
  }

  void transpose_products(int64_t padded) {
    for (int64_t i = 0; i < columns; i += L) {
      for (int64_t t = 0; t < padded; t += L) {
        Vec<T> block[L];
#pragma GCC unroll 16
        for (int l = 0; l < L; ++l) block[l] = load(&products[(i + l) * padded + t]);
        transpose<T>(block);
#pragma GCC unroll 16
        for (int l = 0; l < L; ++l) store(&transposed[(t + l) * columns_stride + plan.span + i], block[l]);
      }
    }
  }

  // The taps of one plane are summed in registers: each vector of the tile is read and written once a plane.
  void add_to_tile(const Phase& f, int64_t shift) {
    for (size_t t = 0; t < f.taps.size();) {
      size_t end = t + 1;
      while (end < f.taps.size() && f.taps[end].plane == f.taps[t].plane) ++end;
      const int64_t origin = f.taps[t].offset;
      T* to = tile_out.data() + origin + shift;
      for (int64_t x = 0; x < f.columns + f.taps[end - 1].offset - origin; x += L) {
        Vec<T> sum = load(to + x);
        for (size_t u = t; u < end; ++u) {
          sum += load(&transposed[u * columns_stride + plan.span + x + origin - f.taps[u].offset]);
        }
        store(to + x, sum);
      }
      t = end;
    }
  }

  // ---------------------------------------------------------------------------------- images to and from memory
  // from[i] -> to[i], which may be the same; whole vectors.
  void activate_all(const T* from, T* to, int64_t count) const {
    const T slope = static_cast<T>(p.negative_slope);
    if (p.output_activation() == Activation::none) return;
    dispatch_activation(p.output_activation(), [&](auto act) {
      for (int64_t i = 0; i < count; i += L) store(to + i, activate<Math>(act(), load(from + i), slope));
    });
  }

  // Calls body(read), where read(i, count) are elements of `image`, times act'(saved) where that is given.
  template <class Body>
  void with_reader(const void* image, const void* saved, Body body) const {
    const T slope = static_cast<T>(p.negative_slope);
    if (!saved) return body([=](int64_t i, int count) { return read<S>(image, i, count); });
    dispatch_activation(p.activation, [&](auto act) {
      body([=](int64_t i, int count) {
        return read<S>(image, i, count) * activation_slope<Math>(act(), read<S>(saved, i, count), slope);
      });
    });
  }

  // Calls body(in the dense image, in the tile, number, distance in the dense image) for the runs of thin pixels that
  // are neighbours in the tile.
  template <class Body>
  void for_runs(Body body) {
    const int64_t advance = plan.horizontal.advance(), q_end = p.horizontal.thin, k_end = p.thin_channels;
    const int64_t q_stride = p.channels_last ? k_end : 1;
    for (int64_t row = 0; row < p.vertical.thin; ++row) {
      for (int64_t k = 0; k < k_end; ++k) {
        const int64_t from = p.channels_last ? row * q_end * k_end + k : (k * p.vertical.thin + row) * q_end;
        for (int64_t q = 0; q < std::min(advance, q_end); ++q) {
          const int64_t at = plan.at(row + plan.vertical.margin(), k, q + plan.horizontal.margin());
          body(from + q * q_stride, at, (q_end - q + advance - 1) / advance, advance * q_stride, k);
        }
      }
    }
  }

  void read_thin(int64_t n) {
    with_reader(p.thin_in, p.thin_saved, [&](auto reader) {
      for (int64_t i = 0; i < thin_size; i += L) {
        store(&dense[i], reader(n * thin_size + i, static_cast<int>(std::min<int64_t>(L, thin_size - i))));
      }
    });
    for_runs([&](int64_t from, int64_t at, int64_t count, int64_t stride, int64_t) {
      for (int64_t j = 0; j < count; ++j) tile_in[at + j] = dense[from + j * stride];
    });
  }

  void write_thin(int64_t n) {
    for_runs([&](int64_t to, int64_t at, int64_t count, int64_t stride, int64_t k) {
      for (int64_t j = 0; j < count; ++j) dense[to + j * stride] = tile_out[at + j] + bias[k];
    });
    write_dense(p.preactivation, n);
    activate_all(dense.data(), dense.data(), thin_size);
    write_dense(p.thin_out, n);
  }

  void write_dense(void* image, int64_t n) const {
    for (int64_t i = 0; i < thin_size; i += L) {
      write<S>(image, n * thin_size + i, static_cast<int>(std::min<int64_t>(L, thin_size - i)), load(&dense[i]));
    }
  }

  void add_thin(T* sums) {
    for_runs([&](int64_t, int64_t at, int64_t count, int64_t, int64_t k) {
      Vec<T> sum{};
      for (int64_t j = 0; j < count; j += L) {
        sum += first_lanes<T>(load(&tile_in[at + j]), static_cast<int>(std::min<int64_t>(L, count - j)));
      }
      sums[k] += static_cast<T>(sum_lanes(sum));
    });
  }

  void add_wide(const T* x, int64_t pixels, T* sums) {
    for (int64_t c = 0; c < pixel; c += L) {
      Vec<T> sum = load(sums + c);
      for (int64_t i = 0; i < pixels; ++i) sum += load(x + i * pixel + c);
      store(sums + c, sum);
    }
  }

  // Calls body(in memory, count, stage) for the vectors of a channels_last block.
  template <class Body>
  SDGAN_INLINE void for_pixel_vectors(int64_t n, int64_t row, int64_t rows, Body body) {
    const int64_t first = (n * p.vertical.wide + row) * width * p.channels;
    for (int64_t i = 0; i < rows * width; ++i) {
      for (int64_t c = 0; c < p.channels; c += L) {
        body(first + i * p.channels + c, static_cast<int>(std::min<int64_t>(L, p.channels - c)), &stage[i * pixel + c]);
      }
    }
  }

  // Calls body(in memory of channel 0, channels, pixels, stage) for the square blocks of an NCHW block. Blocks overlap
  // rather than leave a narrow one at the end.
  template <class Body>
  SDGAN_INLINE void for_squares(int64_t n, int64_t row, int64_t rows, Body body) {
    const int64_t plane = p.vertical.wide * width, pixels = rows * width;
    for (int64_t c = 0; c < p.channels; c += L) {
      for (int64_t i = 0; i < pixels; i += L) {
        const int64_t at = std::max<int64_t>(0, std::min(i, pixels - L));
        body((n * p.channels + c) * plane + row * width + at, static_cast<int>(std::min<int64_t>(L, p.channels - c)),
             static_cast<int>(std::min<int64_t>(L, pixels)), &stage[at * pixel + c]);
      }
    }
  }

  void read_wide(int64_t n, int64_t row, int64_t rows) {
    const int64_t plane = p.vertical.wide * width;
    with_reader(p.wide_in, p.wide_saved, [&](auto reader) {
      if (p.channels_last) {
        for_pixel_vectors(n, row, rows, [&](int64_t i, int count, T* to) { store(to, reader(i, count)); });
        return;
      }
      for_squares(n, row, rows, [&](int64_t first, int channels, int pixels, T* to) {
        Vec<T> square[L];
        for (int l = 0; l < L; ++l) square[l] = l < channels ? reader(first + l * plane, pixels) : Vec<T>{};
        transpose<T>(square);
        for (int l = 0; l < pixels; ++l) store(to + l * pixel, square[l]);
      });
    });
  }

  void write_wide(void* image, int64_t n, int64_t row, int64_t rows) {
    if (p.channels_last) {
      for_pixel_vectors(n, row, rows, [&](int64_t i, int count, const T* from) {
        write<S>(image, i, count, load(from));
      });
      return;
    }
    const int64_t plane = p.vertical.wide * width;
    for_squares(n, row, rows, [&](int64_t first, int channels, int pixels, const T* from) {
      Vec<T> square[L];
      for (int l = 0; l < L; ++l) square[l] = l < pixels ? load(from + l * pixel) : Vec<T>{};
      transpose<T>(square);
      for (int l = 0; l < channels; ++l) write<S>(image, first + l * plane, pixels, square[l]);
    });
  }
};

template <class S>
void gradients(const ThinConvParams& p, void* grad_weight, void* grad_bias) {
  using T = compute_t<S>;
  const T* partial = static_cast<const T*>(p.partial);
  const auto total = [&](int64_t i) {
    double sum = 0;
    for (int64_t s = 0; s < p.slice_count(); ++s) sum += partial[s * p.partial_size() + i];
    return splat(static_cast<T>(sum));
  };
  for (int64_t t = 0; grad_weight && t < p.taps(); ++t) {
    const int64_t k = t % p.thin_channels, rs = t / p.thin_channels;
    const int64_t to = k * p.weight_stride[1] + rs / p.horizontal.taps * p.weight_stride[2] +
                       rs % p.horizontal.taps * p.weight_stride[3];
    for (int64_t c = 0; c < p.channels; ++c) {
      write<S>(grad_weight, to + c * p.weight_stride[0], 1, total(t * p.padded_channels() + c));
    }
  }
  const int64_t channels = p.wide_sums ? p.channels : p.thin_channels;
  for (int64_t c = 0; grad_bias && c < channels; ++c) {
    write<S>(grad_bias, c, 1, total(p.taps() * p.padded_channels() + c));
  }
}

}  // namespace

void thin_conv(const ThinConvParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    Pass<decltype(storage)> pass(p);
    for (int64_t s = begin; s < end; ++s) pass.slice(s);
  });
}

void thin_conv_gradients(const ThinConvParams& p, void* grad_weight, void* grad_bias) {
  dispatch(p.dtype, [&](auto storage) { gradients<decltype(storage)>(p, grad_weight, grad_bias); });
}

}  // namespace sdgan::SDGAN_ISA
