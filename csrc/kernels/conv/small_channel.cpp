// Vectors run over taps or over wide channels, never over the thin ones.
//
// The thin image that is read lives in a tile: a padded copy in the compute type, where every tap of every wide pixel is
// in bounds. For tap t and wide pixel i of a row, the thin value is tile[offset[t] + i * pixel_advance]; hence
//
//   thin_to_wide   X[i][c]  = sum over t of tile[offset[t] + ..] * W[t][c]     broadcast x vector of channels
//   wgrad          dW[t][c] = sum over i of tile[offset[t] + ..] * X[i][c]     broadcast x vector of channels
//   wide_to_thin   P[i][t]  = sum over c of X[i][c] * W[c][t]                  broadcast x vector of taps,
//                  transposed and kept for as many wide rows as meet one thin row, which then is a sum of shifted
//                  vectors of pixels (col2im)
//
// are one register-blocked product. Where wide is the fine side of a strided convolution, a wide pixel meets only the
// taps of its phase (its position modulo the stride): the rows and columns of one phase are treated together.
#include "kernels/conv/small_channel_plan.h"
#include "kernels/cpu/transpose.h"

namespace sdgan::SDGAN_ISA {
namespace {

constexpr int64_t kStreamedBytes = 16 << 20;

template <class S>
struct Pass {
  using T = compute_t<S>;
  static constexpr int L = kLanes<T>;
  const SmallChannelParams& p;
  const Plan<T> plan{p};
  const int64_t thin_size = p.vertical.thin * p.horizontal.thin * p.thin_channels;
  const int64_t width = p.horizontal.wide;
  const int64_t pixel = plan.pixel;
  const int64_t vectors = (p.channels + L - 1) / L;
  // In memory as in the stage: nothing to convert, to transpose or to pad.
  const bool plain = p.channels_last && std::is_same_v<S, T> && p.channels == pixel;
  // What does not stay in the caches until it is read again need not push out what does.
  const bool streams = plain && p.wide_out && !p.preactivation && p.output_activation() == Activation::none &&
                       p.batch * p.vertical.wide * width * pixel * int64_t{sizeof(T)} > kStreamedBytes &&
                       reinterpret_cast<uintptr_t>(p.wide_out) % kVectorBytes == 0;
  const T *ahead = nullptr, *ahead_end = nullptr;  // of the wide rows that come next
  int64_t ahead_piece = 0;
  Buffer<T> tile = Buffer<T>(p.thin_in ? plan.tile_size : 0);
  Buffer<T> stage = Buffer<T>(plan.block_rows * width * pixel);  // a block of wide rows, [pixels][padded C]
  Buffer<T> products = Buffer<T>(p.thin_out ? plan.columns * round_up(p.taps(), L) : 0);
  Buffer<T> kept = Buffer<T>(p.thin_out ? plan.kept_rows * plan.products_row : 0);  // transposed, of the last wide rows
  Buffer<const T*> sources = Buffer<const T*>(p.thin_out ? plan.planes * p.vertical.taps * p.horizontal.taps : 0);
  Buffer<int64_t> source_count = Buffer<int64_t>(plan.planes);
  Buffer<T> tile_sums = Buffer<T>(p.thin_sums ? plan.tile_row + L : 0);
  Buffer<T> plane = Buffer<T>(p.horizontal.thin + L);
  Buffer<T> thin_row = Buffer<T>(p.horizontal.thin * p.thin_channels + L);  // as it lies in memory
  Buffer<T> bias = Buffer<T>(std::max(pixel, kSmallChannels));

  explicit Pass(const SmallChannelParams& params) : p(params) {
    const int64_t count = !p.bias ? 0 : p.wide_out ? p.channels : p.thin_channels;
    for (int64_t c = 0; c < count; ++c) bias[c] = load_one(static_cast<const S*>(p.bias) + c);
  }

  void slices(int64_t begin, int64_t end) {
    if (p.sums_over_batch) {
      for (int64_t s = begin; s < end; ++s) {
        T* partial = static_cast<T*>(p.partial) + s * p.partial_size();
        const int64_t last = std::min(p.batch, (s + 1) * p.slice_images());
        for (int64_t n = s * p.slice_images(); n < last; ++n) image(n, 0, p.written_rows(), partial);
      }
    } else {
      for (int64_t s = begin; s < end;) {  // slices of one image together: fewer products at their seams
        const int64_t n = s / p.row_slices(), next = std::min(end, (n + 1) * p.row_slices());
        image(n, first_row(s - n * p.row_slices()), first_row(next - n * p.row_slices()), nullptr);
        s = next;
      }
    }
    if (streams) streamed();
  }

  // Of a slice of an image; the phases of wide rows stay together.
  int64_t first_row(int64_t slice) const {
    return std::min(p.written_rows(), round_up(p.written_rows() * slice / p.row_slices(), plan.vertical.step()));
  }

  // Writes the rows [first, last) of the side that is written.
  void image(int64_t n, int64_t first, int64_t last, T* partial) {
    T* sums = partial ? partial + p.taps() * pixel : nullptr;
    if (p.thin_in) read_thin(n);
    if (p.thin_sums) add_thin(sums);
    int64_t row = 0, end = p.vertical.wide, thin_row = first;
    if (p.wide_out) {
      row = first;
      end = last;
    } else if (p.thin_out && !partial) {
      row = std::max<int64_t>(0, plan.vertical.lowest(first));
      end = std::min(end, plan.vertical.highest(last - 1) + 1);
    }
    for (; row < end; row += plan.block_rows) {
      const int64_t rows = std::min(plan.block_rows, end - row);
      const int64_t first = (n * p.vertical.wide + row) * width * p.channels;  // of the block when it is plain
      if (p.wide_in) {
        const bool in_place = plain && !p.wide_saved;
        if (!in_place) read_wide(n, row, rows);
        const T* x = in_place ? static_cast<const T*>(p.wide_in) + first : stage.data();
        if (in_place) expect(x + rows * width * pixel, std::min(plan.block_rows, end - row - rows));
        if (p.wide_sums) add_wide(x, rows * width, sums);
        for (const Phase& f : plan.phases) {
          if (p.weight_gradient) wgrad(f, x, row, rows, partial);
        }
        for (int64_t y = row; p.thin_out && y < row + rows; ++y) {
          wide_to_thin(x + (y - row) * width * pixel, y);
          for (; thin_row < last && plan.vertical.highest(thin_row) <= y; ++thin_row) write_thin(n, thin_row);
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
    for (; p.thin_out && thin_row < last; ++thin_row) write_thin(n, thin_row);
  }

  // The products read in an order that the hardware does not foresee: each register tile asks for a piece of the next
  // block, few enough lines to be under way at once.
  void expect(const T* rows, int64_t count) {
    ahead = rows;
    ahead_end = rows + count * width * pixel;
    const int64_t tiles =
        (p.weight_gradient ? p.taps() * vectors / kAccumulators : 0) + (p.thin_out ? count * width / 8 : 0);
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
        const T* thin[tile_rows];
#pragma GCC unroll 8
        for (int i = 0; i < tile_rows; ++i) thin[i] = tile.data() + shift + (i0 + i) * plan.pixel_advance;
        const T* weight = plan.to_wide.data() + f.to_wide + v0 * L;
        Vec<T> acc[tile_rows][tile_vectors];
        load_tile<T>(acc, [&](int) { return &bias[v0 * L]; });
        multiply<T>(
            acc, f.taps.size(), [&](int i, int64_t t) { return thin[i][f.taps[t].offset]; },
            [&](int64_t t) { return weight + t * pixel; });
        T* to = out + first * pixel + i0 * step + v0 * L;
        if (streams) {
          stream_tile<T>(acc, [&](int i) { return to + i * step; });
        } else {
          store_tile<T>(acc, [&](int i) { return to + i * step; });
        }
      });
    });
  }

  void wgrad(const Phase& f, const T* x, int64_t row, int64_t rows, T* partial) {
    const int64_t step = plan.horizontal.step() * pixel, advance = plan.pixel_advance;
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
        for (int i = 0; i < tile_rows; ++i) thin[i] = tile.data() + f.taps[t0 + i].offset + shift;
        const T* wide = x + first * pixel + v0 * L;
        multiply<T>(
            acc, f.columns, [&](int i, int64_t j) { return thin[i][j * advance]; }, [&](int64_t j) { return wide + j * step; });
      });
      store_tile<T>(acc, [&](int i) { return sum[i]; });
    });
  }

  // The products of wide row y, whose pixels are x.
  void wide_to_thin(const T* x, int64_t y) {
    const int64_t step = plan.horizontal.step() * pixel, phases = plan.horizontal.phases();
    const Phase* row_phase = &plan.phases[plan.vertical.phase_of(y) * phases];
    for (const Phase* f = row_phase; f < row_phase + phases; ++f) {
      const int64_t padded = round_up(f->taps.size(), L);
      for_tiles<T>(f->columns, padded / L, [&]<int tile_rows, int tile_vectors>(int64_t i0, int64_t v0) {
        prefetch();
        const T* wide = x + f->first_column * pixel + i0 * step;
        const T* weight = plan.to_taps.data() + f->to_taps + v0 * L;
        Vec<T> acc[tile_rows][tile_vectors] = {};
        multiply<T>(
            acc, p.channels, [&](int i, int64_t c) { return wide[i * step + c]; },
            [&](int64_t c) { return weight + c * padded; });
        T* to = &products[i0 * padded + v0 * L];
        store_tile<T>(acc, [&](int i) { return to + i * padded; });
      });
      std::fill(&products[f->columns * padded], &products[plan.columns * padded], T(0));
      T* to = &kept[y % plan.kept_rows * plan.products_row + f->products * plan.columns_stride + plan.left];
      for (int64_t i = 0; i < plan.columns; i += L) {
        for (int64_t t = 0; t < padded; t += L) {
          Vec<T> block[L];
#pragma GCC unroll 16
          for (int l = 0; l < L; ++l) block[l] = load(&products[(i + l) * padded + t]);
          transpose<T>(block);
#pragma GCC unroll 16
          for (int l = 0; l < L; ++l) store(to + (t + l) * plan.columns_stride + i, block[l]);
        }
      }
    }
  }

  // A thin row, of whose wide rows the products are kept.
  void write_thin(int64_t n, int64_t row) {
    const int64_t most = p.vertical.taps * p.horizontal.taps;
    std::fill(source_count.begin(), source_count.end(), 0);
    for (int64_t r = 0; r < p.vertical.taps; ++r) {
      const int64_t y = plan.vertical.wide_at(row, r);
      if (y < 0) continue;
      const T* from = &kept[y % plan.kept_rows * plan.products_row];
      const int64_t* piece = &plan.piece_begin[plan.vertical.phase_of(y) * p.vertical.taps + r];
      for (int64_t i = piece[0]; i < piece[1]; ++i) {
        const Piece& at = plan.pieces[i];
        sources[at.plane * most + source_count[at.plane]++] = from + at.at;
      }
    }
    const int64_t advance = plan.horizontal.advance(), end = p.horizontal.thin, k_end = p.thin_channels;
    for (int64_t k = 0; k < k_end; ++k) {
      for (int64_t residue = 0; residue < std::min(advance, end); ++residue) {
        const int64_t number = k * advance + residue, count = (end - residue + advance - 1) / advance;
        const T* const* from = &sources[number * most];
        for (int64_t x = 0; x < count; x += L) {
          Vec<T> sum = splat(bias[k]);
          for (int64_t i = 0; i < source_count[number]; ++i) sum += load(from[i] + x);
          store(&plane[x], sum);
        }
        T* to = &thin_row[p.channels_last ? residue * k_end + k : k * end + residue];
        const int64_t stride = p.channels_last ? advance * k_end : advance;
        for (int64_t x = 0; x < count; ++x) to[x * stride] = plane[x];
      }
    }
    write_row(p.preactivation, n, row);
    activate_all(thin_row.data(), thin_row.data(), end * k_end);
    write_row(p.thin_out, n, row);
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

  // Calls body(in memory, in the row, number) for the runs of a thin row.
  template <class Body>
  SDGAN_INLINE void for_runs(int64_t n, int64_t row, Body body) const {
    const int64_t columns = p.horizontal.thin, k_end = p.thin_channels, rows = p.vertical.thin;
    if (p.channels_last) return body((n * rows + row) * columns * k_end, 0, columns * k_end);
    for (int64_t k = 0; k < k_end; ++k) body(((n * k_end + k) * rows + row) * columns, k * columns, columns);
  }

  void read_thin(int64_t n) {
    with_reader(p.thin_in, p.thin_saved, [&](auto reader) {
      for (int64_t row = 0; row < p.vertical.thin; ++row) {
        for_runs(n, row, [&](int64_t from, int64_t in_row, int64_t count) {
          const int64_t k = in_row / p.horizontal.thin;  // of a run in NCHW, else 0
          T* to = &tile[plan.at(row + plan.vertical.margin(), k, plan.horizontal.margin())];
          for (int64_t i = 0; i < count; i += L) {
            const int lanes = static_cast<int>(std::min<int64_t>(L, count - i));
            write<T>(to, i, lanes, reader(from + i, lanes));
          }
        });
      }
    });
  }

  void write_row(void* image, int64_t n, int64_t row) const {
    for_runs(n, row, [&](int64_t to, int64_t in_row, int64_t count) {
      for (int64_t i = 0; i < count; i += L) {
        write<S>(image, to + i, static_cast<int>(std::min<int64_t>(L, count - i)), load(&thin_row[in_row + i]));
      }
    });
  }

  // Rows are added first: their margins are 0.
  void add_thin(T* sums) {
    std::fill(tile_sums.begin(), tile_sums.end(), T(0));
    for (int64_t row = 0; row < plan.vertical.extent(); ++row) {
      for (int64_t i = 0; i < plan.tile_row; i += L) {
        store(&tile_sums[i], load(&tile_sums[i]) + load(&tile[row * plan.tile_row + i]));
      }
    }
    for (int64_t k = 0; k < p.thin_channels; ++k) {
      double sum = 0;
      for (int64_t column = 0; column < plan.horizontal.extent(); ++column) sum += tile_sums[plan.at(0, k, column)];
      sums[k] += static_cast<T>(sum);
    }
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
void gradients(const SmallChannelParams& p, void* grad_weight, void* grad_bias) {
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

void small_channel(const SmallChannelParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) {
    Pass<decltype(storage)>(p).slices(begin, end);
  });
}

void small_channel_gradients(const SmallChannelParams& p, void* grad_weight, void* grad_bias) {
  dispatch(p.dtype, [&](auto storage) { gradients<decltype(storage)>(p, grad_weight, grad_bias); });
}

}  // namespace sdgan::SDGAN_ISA
