// Vectors run over taps or over large channels, never over the small side's.
//
// The small image that is read lies in a tile: a padded copy in the compute type, where every tap of every large pixel
// is in bounds. For tap t and large pixel i of a row, the small value is tile[offset[t] + i * pixel_advance]; hence
//
//   to_large   large[i][c] = sum over t of tile[offset[t] + ..] * w[t][c]        broadcast x vector of channels
//   wgrad      dw[t][c]    = sum over i of tile[offset[t] + ..] * large[i][c]    broadcast x vector of channels
//   to_small   P[i][t]     = sum over c of large[i][c] * w[c][t]                 broadcast x vector of taps,
//              transposed and kept for as many large rows as meet one small row, which then is a sum of shifted
//              vectors of pixels (col2im)
//
// are one register-blocked product. Where to_large is a strided dgrad, a large pixel meets only the taps of its
// residues: the rows and columns of one residue are treated together.
#include "kernels/conv/small_channel_plan.h"
#include "kernels/cpu/transpose.h"

namespace sdgan::SDGAN_ISA {
namespace {

constexpr int64_t kStreamedBytes = 16 << 20;

// Runs slices of a call, with scratch memory for one image at a time.
template <class S>
struct Worker {
  using T = compute_t<S>;
  static constexpr int L = kLanes<T>;
  const SmallChannelParams& p;
  const Plan<T> plan{p};
  const SmallChannelSide large = plan.large;
  const SmallChannelSide small = plan.small;
  const int64_t batch = p.geometry.batch;
  const int64_t width = large.width;
  const int64_t pixel = plan.pixel;
  const int64_t vectors = (large.channels + L - 1) / L;
  // In memory as in the stage: nothing to convert, to transpose or to pad.
  const bool plain = p.channels_last && std::is_same_v<S, T> && large.channels == pixel;
  // What does not stay in the caches until it is read again need not push out what does.
  const int64_t large_bytes = batch * large.pixels() * pixel * int64_t{sizeof(T)};
  const bool streams = plain && p.large_out && !p.preactivation && p.output_activation() == Activation::none &&
                       large_bytes > kStreamedBytes&& reinterpret_cast<uintptr_t>(p.large_out) % kVectorBytes == 0;
  const T* ahead = nullptr;  // of the large rows that come next
  const T* ahead_end = nullptr;
  int64_t ahead_piece = 0;
  Buffer<T> tile = Buffer<T>(p.small_in ? plan.tile_size : 0);
  Buffer<T> stage = Buffer<T>(plan.block_rows * width * pixel);  // a block of large rows, [pixels][padded C]
  Buffer<T> products = Buffer<T>(p.small_out ? plan.columns * round_up(p.taps(), L) : 0);
  // Transposed, of the last large rows.
  Buffer<T> kept = Buffer<T>(p.small_out ? plan.kept_rows * plan.products_row : 0);
  Buffer<const T*> sources = Buffer<const T*>(p.small_out ? plan.planes * p.geometry.taps() : 0);
  Buffer<int64_t> source_count = Buffer<int64_t>(plan.planes);
  Buffer<T> tile_sums = Buffer<T>(p.small_sums ? plan.tile_row + L : 0);
  Buffer<T> plane = Buffer<T>(small.width + L);
  Buffer<T> small_row = Buffer<T>(small.width * small.channels + L);  // as it lies in memory
  Buffer<T> bias = Buffer<T>(std::max(pixel, kSmallChannels));

  explicit Worker(const SmallChannelParams& params) : p(params) {
    if (!p.bias) return;
    const int64_t count = p.large_out ? large.channels : small.channels;
    for (int64_t c = 0; c < count; ++c) bias[c] = load_one(static_cast<const S*>(p.bias) + c);
  }

  void slices(int64_t begin, int64_t end) {
    if (p.sums_over_batch) {
      for (int64_t s = begin; s < end; ++s) {
        T* partial = static_cast<T*>(p.partial) + s * p.partial_size();
        const int64_t last = std::min(batch, (s + 1) * p.slice_images());
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

  // Of a slice of an image; each residue has its rows of a block.
  int64_t first_row(int64_t slice) const {
    return std::min(p.written_rows(), round_up(p.written_rows() * slice / p.row_slices(), plan.vertical.step()));
  }

  // Writes the rows [first, last) of the side that is written.
  void image(int64_t n, int64_t first, int64_t last, T* partial) {
    T* channel_sums = partial ? partial + p.taps() * pixel : nullptr;
    if (p.small_in) read_small(n);
    if (p.small_sums) add_small(channel_sums);
    int64_t row = 0, end = large.height, next_small = first;
    if (p.large_out) {
      row = first;
      end = last;
    } else if (p.small_out && !partial) {
      row = std::max<int64_t>(0, plan.vertical.lowest(first));
      end = std::min(end, plan.vertical.highest(last - 1) + 1);
    }
    for (; row < end; row += plan.block_rows) {
      const int64_t rows = std::min(plan.block_rows, end - row);
      const int64_t block = (n * large.height + row) * width * large.channels;  // where it begins when it is plain
      if (p.large_in) {
        const bool in_place = plain && !p.large_saved;
        if (!in_place) read_large(n, row, rows);
        const T* x = in_place ? static_cast<const T*>(p.large_in) + block : stage.data();
        if (in_place) expect(x + rows * width * pixel, std::min(plan.block_rows, end - row - rows));
        if (p.large_sums) add_large(x, rows * width, channel_sums);
        for (const ResiduePair& f : plan.residues) {
          if (p.weight_gradient) wgrad(f, x, row, rows, partial);
        }
        for (int64_t y = row; p.small_out && y < row + rows; ++y) {
          to_small(x + (y - row) * width * pixel, y);
          for (; next_small < last && plan.vertical.highest(next_small) <= y; ++next_small) write_small(n, next_small);
        }
      }
      if (p.large_out) {
        T* sums = plain ? static_cast<T*>(p.preactivation ? p.preactivation : p.large_out) + block : stage.data();
        T* activated = plain ? static_cast<T*>(p.large_out) + block : stage.data();
        for (const ResiduePair& f : plan.residues) to_large(f, sums, row, rows);
        if (p.preactivation && !plain) write_large(p.preactivation, n, row, rows);
        activate_all(sums, activated, rows * width * pixel);
        if (!plain) write_large(p.large_out, n, row, rows);
      }
    }
    for (; p.small_out && next_small < last; ++next_small) write_small(n, next_small);
  }

  // The products read in an order that the hardware does not foresee: each register tile asks for a piece of the next
  // block, few enough lines to be under way at once.
  void expect(const T* rows, int64_t count) {
    ahead = rows;
    ahead_end = rows + count * width * pixel;
    const int64_t tiles =
        (p.weight_gradient ? p.taps() * vectors / kAccumulators : 0) + (p.small_out ? count * width / 8 : 0);
    ahead_piece = (ahead_end - ahead) / std::max<int64_t>(1, tiles) + L;
  }
  SDGAN_INLINE void prefetch() {
    const T* end = std::min(ahead_end, ahead + ahead_piece);
    for (; ahead < end; ahead += 64 / sizeof(T)) __builtin_prefetch(ahead);
  }

  // Calls body(tile shift, first large pixel of the block) for the rows of a residue in the block.
  template <class Body>
  SDGAN_INLINE void for_rows(const ResiduePair& f, int64_t row, int64_t rows, Body body) {
    const int64_t step = plan.vertical.step();
    for (int64_t y = f.vertical.first; y < rows; y += step) {
      body((row + y - f.vertical.first) / step * plan.row_advance, y * width + f.horizontal.first);
    }
  }

  void to_large(const ResiduePair& f, T* out, int64_t row, int64_t rows) {
    const int64_t step = plan.horizontal.step() * pixel;
    for_rows(f, row, rows, [&](int64_t shift, int64_t first) {
      for_tiles<T>(f.horizontal.count, vectors, [&]<int tile_rows, int tile_vectors>(int64_t i0, int64_t v0) {
        const T* from[tile_rows];
#pragma GCC unroll 8
        for (int i = 0; i < tile_rows; ++i) from[i] = tile.data() + shift + (i0 + i) * plan.pixel_advance;
        const T* weight = plan.weight_to_large.data() + f.weight_to_large + v0 * L;
        Vec<T> acc[tile_rows][tile_vectors];
        load_tile<T>(acc, [&](int) { return &bias[v0 * L]; });
        multiply<T>(
            acc, f.taps.size(), [&](int i, int64_t t) { return from[i][f.taps[t].offset]; },
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

  void wgrad(const ResiduePair& f, const T* x, int64_t row, int64_t rows, T* partial) {
    const int64_t step = plan.horizontal.step() * pixel, advance = plan.pixel_advance;
    for_tiles<T>(f.taps.size(), vectors, [&]<int tile_rows, int tile_vectors>(int64_t t0, int64_t v0) {
      prefetch();
      Vec<T> acc[tile_rows][tile_vectors];
      const T* from[tile_rows];
      T* sum[tile_rows];
#pragma GCC unroll 8
      for (int i = 0; i < tile_rows; ++i) sum[i] = partial + f.taps[t0 + i].index * pixel + v0 * L;
      load_tile<T>(acc, [&](int i) { return sum[i]; });
      for_rows(f, row, rows, [&](int64_t shift, int64_t first) {
#pragma GCC unroll 8
        for (int i = 0; i < tile_rows; ++i) from[i] = tile.data() + f.taps[t0 + i].offset + shift;
        const T* pixels = x + first * pixel + v0 * L;
        multiply<T>(
            acc, f.horizontal.count, [&](int i, int64_t j) { return from[i][j * advance]; },
            [&](int64_t j) { return pixels + j * step; });
      });
      store_tile<T>(acc, [&](int i) { return sum[i]; });
    });
  }

  // The products of large row y, whose pixels are x.
  void to_small(const T* x, int64_t y) {
    const int64_t step = plan.horizontal.step() * pixel, across = plan.horizontal.large_residues.size();
    const ResiduePair* first = &plan.residues[plan.vertical.large_residue(y) * across];
    for (const ResiduePair* f = first; f < first + across; ++f) {
      const int64_t count = f->horizontal.count, padded = round_up(f->taps.size(), L);
      for_tiles<T>(count, padded / L, [&]<int tile_rows, int tile_vectors>(int64_t i0, int64_t v0) {
        prefetch();
        const T* pixels = x + f->horizontal.first * pixel + i0 * step;
        const T* weight = plan.weight_to_small.data() + f->weight_to_small + v0 * L;
        Vec<T> acc[tile_rows][tile_vectors] = {};
        multiply<T>(
            acc, large.channels, [&](int i, int64_t c) { return pixels[i * step + c]; },
            [&](int64_t c) { return weight + c * padded; });
        T* to = &products[i0 * padded + v0 * L];
        store_tile<T>(acc, [&](int i) { return to + i * padded; });
      });
      std::fill(&products[count * padded], &products[plan.columns * padded], T(0));
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

  // A small row, of whose large rows the products are kept.
  void write_small(int64_t n, int64_t row) {
    const int64_t most = p.geometry.taps();
    std::fill(source_count.begin(), source_count.end(), 0);
    const Residue& met = plan.vertical.small_residue(row);
    const int64_t first = met.read_first + (row - met.first) / met.step * met.read_step;
    for (int64_t i = 0; i < met.taps; ++i) {
      const int64_t r = met.tap_first + i * met.tap_step, y = first + i * met.read_tap;
      if (y < 0 || y >= large.height) continue;
      add_sources(&kept[y % plan.kept_rows * plan.products_row], plan.vertical.large_residue(y), r);
    }
    const int64_t advance = plan.horizontal.advance();
    for (int64_t k = 0; k < small.channels; ++k) {
      for (int64_t part = 0; part < std::min(advance, small.width); ++part) {
        const int64_t number = k * advance + part, count = (small.width - part + advance - 1) / advance;
        const T* const* from = &sources[number * most];
        for (int64_t x = 0; x < count; x += L) {
          Vec<T> sum = splat(bias[k]);
          for (int64_t i = 0; i < source_count[number]; ++i) sum += load(from[i] + x);
          store(&plane[x], sum);
        }
        T* to = &small_row[p.channels_last ? part * small.channels + k : k * small.width + part];
        const int64_t stride = p.channels_last ? advance * small.channels : advance;
        for (int64_t x = 0; x < count; ++x) to[x * stride] = plane[x];
      }
    }
    write_row(p.preactivation, n, row);
    activate_all(small_row.data(), small_row.data(), small.width * small.channels);
    write_row(p.small_out, n, row);
  }

  // What tap row r of the large row whose products begin at `from` adds to the planes of a small row.
  void add_sources(const T* from, int64_t vertical_residue, int64_t r) {
    const int64_t most = p.geometry.taps();
    const int64_t* piece = &plan.piece_begin[vertical_residue * p.geometry.vertical.taps + r];
    for (int64_t i = piece[0]; i < piece[1]; ++i) {
      const Piece& at = plan.pieces[i];
      sources[at.plane * most + source_count[at.plane]] = from + at.at;
      ++source_count[at.plane];
    }
  }

  // ---------------------------------------------------------------------------------- images to and from memory
  // from[i] -> to[i], which may be the same; whole vectors.
  void activate_all(const T* from, T* to, int64_t count) const {
    if (p.output_activation() == Activation::none) return;
    const T negative_slope = static_cast<T>(p.negative_slope);
    dispatch_activation(p.output_activation(), [&](auto act) {
      for (int64_t i = 0; i < count; i += L) store(to + i, activate<Math>(act(), load(from + i), negative_slope));
    });
  }

  // Calls body(read), where read(i, count) are elements of `image`, times act'(saved) where that is given.
  template <class Body>
  void with_reader(const void* image, const void* saved, Body body) const {
    if (!saved) return body([=](int64_t i, int count) { return read<S>(image, i, count); });
    const T negative_slope = static_cast<T>(p.negative_slope);
    dispatch_activation(p.activation, [&](auto act) {
      body([=](int64_t i, int count) {
        return read<S>(image, i, count) * activation_gradient<Math>(act(), read<S>(saved, i, count), negative_slope);
      });
    });
  }

  // Calls body(in memory, in the row, number) for the runs of a small row.
  template <class Body>
  SDGAN_INLINE void for_runs(int64_t n, int64_t row, Body body) const {
    const int64_t columns = small.width, channels = small.channels, rows = small.height;
    if (p.channels_last) return body((n * rows + row) * columns * channels, 0, columns * channels);
    for (int64_t k = 0; k < channels; ++k) body(((n * channels + k) * rows + row) * columns, k * columns, columns);
  }

  void read_small(int64_t n) {
    with_reader(p.small_in, p.small_saved, [&](auto reader) {
      for (int64_t row = 0; row < small.height; ++row) {
        for_runs(n, row, [&](int64_t from, int64_t in_row, int64_t count) {
          const int64_t k = in_row / small.width;  // of a run in NCHW, else 0
          T* to = &tile[plan.at(row + plan.vertical.margin, k, plan.horizontal.margin)];
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
        write<S>(image, to + i, static_cast<int>(std::min<int64_t>(L, count - i)), load(&small_row[in_row + i]));
      }
    });
  }

  // Rows are added first: their margins are 0.
  void add_small(T* sums) {
    std::fill(tile_sums.begin(), tile_sums.end(), T(0));
    for (int64_t row = 0; row < plan.vertical.extent; ++row) {
      for (int64_t i = 0; i < plan.tile_row; i += L) {
        store(&tile_sums[i], load(&tile_sums[i]) + load(&tile[row * plan.tile_row + i]));
      }
    }
    for (int64_t k = 0; k < small.channels; ++k) {
      double sum = 0;
      for (int64_t column = 0; column < plan.horizontal.extent; ++column) sum += tile_sums[plan.at(0, k, column)];
      sums[k] += static_cast<T>(sum);
    }
  }

  void add_large(const T* x, int64_t pixels, T* sums) {
    for (int64_t c = 0; c < pixel; c += L) {
      Vec<T> sum = load(sums + c);
      for (int64_t i = 0; i < pixels; ++i) sum += load(x + i * pixel + c);
      store(sums + c, sum);
    }
  }

  // Calls body(in memory, count, stage) for the vectors of a channels_last block.
  template <class Body>
  SDGAN_INLINE void for_pixel_vectors(int64_t n, int64_t row, int64_t rows, Body body) {
    const int64_t first = (n * large.height + row) * width * large.channels;
    for (int64_t i = 0; i < rows * width; ++i) {
      for (int64_t c = 0; c < large.channels; c += L) {
        const int channels = static_cast<int>(std::min<int64_t>(L, large.channels - c));
        body(first + i * large.channels + c, channels, &stage[i * pixel + c]);
      }
    }
  }

  // Calls body(in memory of channel 0, channels, pixels, stage) for the square blocks of an NCHW block. Blocks overlap
  // rather than leave a narrow one at the end.
  template <class Body>
  SDGAN_INLINE void for_squares(int64_t n, int64_t row, int64_t rows, Body body) {
    const int64_t pixels = rows * width;
    for (int64_t c = 0; c < large.channels; c += L) {
      const int channels = static_cast<int>(std::min<int64_t>(L, large.channels - c));
      for (int64_t i = 0; i < pixels; i += L) {
        const int64_t at = std::max<int64_t>(0, std::min(i, pixels - L));
        body((n * large.channels + c) * large.pixels() + row * width + at, channels,
             static_cast<int>(std::min<int64_t>(L, pixels)), &stage[at * pixel + c]);
      }
    }
  }

  void read_large(int64_t n, int64_t row, int64_t rows) {
    const int64_t plane_size = large.pixels();
    with_reader(p.large_in, p.large_saved, [&](auto reader) {
      if (p.channels_last) {
        for_pixel_vectors(n, row, rows, [&](int64_t i, int count, T* to) { store(to, reader(i, count)); });
        return;
      }
      for_squares(n, row, rows, [&](int64_t first, int channels, int pixels, T* to) {
        Vec<T> square[L];
        for (int l = 0; l < L; ++l) square[l] = l < channels ? reader(first + l * plane_size, pixels) : Vec<T>{};
        transpose<T>(square);
        for (int l = 0; l < pixels; ++l) store(to + l * pixel, square[l]);
      });
    });
  }

  void write_large(void* image, int64_t n, int64_t row, int64_t rows) {
    if (p.channels_last) {
      for_pixel_vectors(n, row, rows,
                        [&](int64_t i, int count, const T* from) { write<S>(image, i, count, load(from)); });
      return;
    }
    const int64_t plane_size = large.pixels();
    for_squares(n, row, rows, [&](int64_t first, int channels, int pixels, const T* from) {
      Vec<T> square[L];
      for (int l = 0; l < L; ++l) square[l] = l < pixels ? load(from + l * pixel) : Vec<T>{};
      transpose<T>(square);
      for (int l = 0; l < channels; ++l) write<S>(image, first + l * plane_size, pixels, square[l]);
    });
  }
};

template <class S>
void gradients(const SmallChannelParams& p, void* grad_weight, void* grad_bias) {
  using T = compute_t<S>;
  const T* partial = static_cast<const T*>(p.partial);
  const int64_t large_channels = p.large_side().channels, small_channels = p.small_side().channels;
  const int64_t taps = p.taps(), horizontal_taps = p.geometry.horizontal.taps, padded = p.padded_channels();
  const int64_t slices = p.slice_count(), size = p.partial_size();
  const auto total = [&](int64_t i) {
    double sum = 0;
    for (int64_t s = 0; s < slices; ++s) sum += partial[s * size + i];
    return splat(static_cast<T>(sum));
  };
  for (int64_t t = 0; grad_weight && t < taps; ++t) {
    const int64_t k = t % small_channels, rs = t / small_channels;
    const int64_t to =
        k * p.weight_stride[1] + rs / horizontal_taps * p.weight_stride[2] + rs % horizontal_taps * p.weight_stride[3];
    for (int64_t c = 0; c < large_channels; ++c) {
      write<S>(grad_weight, to + c * p.weight_stride[0], 1, total(t * padded + c));
    }
  }
  const int64_t bias_channels = p.large_sums ? large_channels : small_channels;
  for (int64_t c = 0; grad_bias && c < bias_channels; ++c) write<S>(grad_bias, c, 1, total(taps * padded + c));
}

}  // namespace

void small_channel(const SmallChannelParams& p, int64_t begin, int64_t end) {
  dispatch(p.dtype, [&](auto storage) { Worker<decltype(storage)>(p).slices(begin, end); });
}

void small_channel_gradients(const SmallChannelParams& p, void* grad_weight, void* grad_bias) {
  dispatch(p.dtype, [&](auto storage) { gradients<decltype(storage)>(p, grad_weight, grad_bias); });
}

}  // namespace sdgan::SDGAN_ISA
