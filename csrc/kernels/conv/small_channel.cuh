// What the kernels of small_channel share. Each is a matrix product in which the taps take the place of the channels
// that the small side lacks, summed on CUDA cores, 8 x 8 results a thread:
//
//   to_large   X[i, c]  = sum over t of A[i, t] W[t, c]      A[i, t]: the small pixel that large pixel i meets in tap t
//   wgrad      dW[t, c] = sum over i of A[i, t] X[i, c]
//   to_small   P[i, t]  = sum over c of X[i, c] W[c, t]      then small[where i meets t] += P[i, t] (col2im)
//
// X is the large image, and a tap t here a triple (r, s, k). Both factors of a product are staged in shared memory, in
// the compute type: X from either layout, with the mask act'(saved) where there is one; A gathered from the small
// image, which the first-level cache holds; W through its strides. A staged row holds for every group of 8 its first
// halves, then its second halves, so that the 16-byte reads of neighbouring threads are neighbours.
//
// Large pixels that have their residues (geometry.h, of the pass to_large) in common meet the same taps and are treated
// together; in these files such a pair of residues, of a row and of a column, is called a residue.
// An image has less than 2^31 elements a channel; offsets into tensors are 64 bits wide.
#pragma once

#include "kernels/conv/small_channel.h"
#include "kernels/cuda/elements.cuh"

#ifdef __CUDACC__
#define SDGAN_ROLLED _Pragma("unroll 1")  // one copy of a long body
#else
#define SDGAN_ROLLED
#endif

namespace sdgan::cuda {

// One direction of the large side, split by residues.
struct LargeResidues {
  static constexpr int kAtHand = 4;
  ConvAxis axis;
  Pass to_large;
  int count;
  Residue first[kAtHand];  // residues 0, 1, ...: a block need not wait for their divisions up to stride 4

  LargeResidues(const ConvAxis& a, Pass pass)
      : axis(a), to_large(pass), count(static_cast<int>(residue_count(a, pass))) {
    for (int v = 0; v < kAtHand && v < count; ++v) first[v] = residue(a, pass, v);
  }
  SDGAN_DEVICE Residue of(int v) const { return v < kAtHand ? first[v] : residue(axis, to_large, v); }
};

// The parameters as the kernels receive them: what depends on which side is small is chosen once, on the host.
struct SmallChannelProblem : SmallChannelParams {
  SmallChannelSide large, small;
  LargeResidues vertical, horizontal;

  explicit SmallChannelProblem(const SmallChannelParams& p)
      : SmallChannelParams(p),
        large(p.large_side()),
        small(p.small_side()),
        vertical(p.geometry.vertical, p.to_large()),
        horizontal(p.geometry.horizontal, p.to_large()) {}

  SDGAN_HD int residues() const { return vertical.count * horizontal.count; }
};

CudaError launch_small_channel_sums(const SmallChannelProblem& p, CudaStream stream);

constexpr int kEdge = 8;  // a thread's results are kEdge x kEdge

// Blocks of float kernels share a multiprocessor's registers with another one.
template <class S>
constexpr int kBlocksPerProcessor = sizeof(compute_t<S>) == 4 ? 2 : 1;

// ----------------------------------------------------------------------------------------- shared memory
// The place of half a row of `groups` groups: with 16 banks between the halves, writes of 8 neighbours do not collide.
SDGAN_HD constexpr int half_row(int groups) { return (4 * groups + 15) / 32 * 32 + 16; }

// A factor of a product, [depth][groups of 8].
template <class T>
struct Factor {
  Smem<T> data;
  int half;

  SDGAN_DEVICE int at(int k, int x) const { return 2 * k * half + (x & 4 ? half : 0) + (x >> 3) * 4 + (x & 3); }
  SDGAN_DEVICE void put(int k, int x, T value) const { data[at(k, x)] = value; }
};

template <class T>
struct alignas(16) Quad {
  T lane[4];
};

template <class T>
SDGAN_DEVICE Quad<T> read_quad(const Smem<T>& from, int i) {
#ifdef __CUDACC__
  return *reinterpret_cast<const Quad<T>*>(from.p + i);
#else
  return {{from[i], from[i + 1], from[i + 2], from[i + 3]}};
#endif
}
template <class T>
SDGAN_DEVICE void write_quad(const Smem<T>& to, int i, const Quad<T>& quad) {
#ifdef __CUDACC__
  *reinterpret_cast<Quad<T>*>(to.p + i) = quad;
#else
  for (int j = 0; j < 4; ++j) to[i + j] = quad.lane[j];
#endif
}

// Hands out dynamic shared memory, the same to the host (for its size) and to the device.
struct Arena {
  int bytes = 0;
  SDGAN_HD int take(size_t size, int count) {
    const int at = bytes;
    bytes += (static_cast<int>(size) * count + 15) / 16 * 16;
    return at;
  }
};
template <class T>
SDGAN_DEVICE Smem<T> smem_at(int offset) {
  return {reinterpret_cast<T*>(dynamic_smem<unsigned char>() + offset)};
}

// acc[i][j] += sum over k of rows[k][8 row + i] * columns[k][8 column + j], k = begin, begin + step, ... < end
template <class T>
SDGAN_DEVICE void multiply(T (&acc)[kEdge][kEdge], const Factor<T>& rows, int row, const Factor<T>& columns, int column,
                           int begin, int end, int step) {
  for (int k = begin; k < end; k += step) {
    const int left = 2 * k * rows.half + 4 * row, right = 2 * k * columns.half + 4 * column;
    const Quad<T> a[2] = {read_quad(rows.data, left), read_quad(rows.data, left + rows.half)};
    const Quad<T> b[2] = {read_quad(columns.data, right), read_quad(columns.data, right + columns.half)};
    PRAGMA_UNROLL
    for (int i = 0; i < kEdge; ++i) {
      PRAGMA_UNROLL
      for (int j = 0; j < kEdge; ++j) acc[i][j] += a[i / 4].lane[i % 4] * b[j / 4].lane[j % 4];
    }
  }
}

// This thread's cells of a table, in the order of threads. The host divides.
struct Table {
  int columns = 1, row_step = 0, column_step = 0;
  Table() = default;
  Table(int columns_, int threads) : columns(columns_), row_step(threads / columns), column_step(threads % columns) {}
};
struct Walk {
  int row, column;
  const Table& table;
  SDGAN_DEVICE explicit Walk(const Table& t) : table(t) {
    row = static_cast<int>(threadIdx.x) / t.columns;
    column = static_cast<int>(threadIdx.x) - row * t.columns;
  }
  SDGAN_DEVICE void next() {
    row += table.row_step;
    column += table.column_step;
    if (column >= table.columns) {
      column -= table.columns;
      ++row;
    }
  }
};

SDGAN_HD int least(int a, int b) { return a < b ? a : b; }

SDGAN_DEVICE int64_t quotient(int64_t a, int64_t b) {  // of numbers that are not negative
  return (a | b) >> 31 == 0 ? static_cast<int64_t>(static_cast<uint32_t>(a) / static_cast<uint32_t>(b)) : a / b;
}

// ------------------------------------------------------------------------------------------------ geometry
// Large pixels of a residue: its rows row, row + 1, ... and likewise columns, of images image, ...
struct Region {
  int64_t image;
  int row, column, rows, columns;
  SDGAN_DEVICE int64_t image_pixels() const { return int64_t{rows} * columns; }
};

// What the block works on. In shared memory: one thread derives it, and it costs the others no registers.
struct Scope {
  Residue vertical, horizontal;
  Region region;
  SDGAN_DEVICE int taps(const SmallChannelProblem& p) const {
    return vertical.taps * horizontal.taps * static_cast<int>(p.small.channels);
  }
};

// All pixels of residue v < p.residues().
SDGAN_DEVICE Scope whole_residue(const SmallChannelProblem& p, int v) {
  Scope f;
  f.vertical = p.vertical.of(v / p.horizontal.count);
  f.horizontal = p.horizontal.of(v % p.horizontal.count);
  f.region = {0, 0, 0, f.vertical.count, f.horizontal.count};
  return f;
}

struct Pixels {
  Smem<int> row, column;   // of the small pixel that it meets in the residue's first tap
  Smem<int> image, pixel;  // in the batch, in the large image
};
constexpr int kPixelBytes = 4 * sizeof(int);
SDGAN_DEVICE Pixels pixels_at(int offset, int count) {  // count: a multiple of 4
  const Smem<int> first = smem_at<int>(offset);
  return {first, {first.p + count}, {first.p + 2 * count}, {first.p + 3 * count}};
}

// Pixels first .. first + count of the region.
SDGAN_DEVICE void fill_pixels(const SmallChannelProblem& p, const Smem<Scope>& scope, int64_t first, int count,
                              const Pixels& to) {
  const Scope f = scope[0];
  const Region& region = f.region;
  for (int m = threadIdx.x; m < count; m += blockDim.x) {
    const int64_t image = quotient(first + m, region.image_pixels());
    const int rest = static_cast<int>(first + m - image * region.image_pixels());
    const int y = region.row + rest / region.columns, x = region.column + rest % region.columns;
    to.row[m] = y * f.vertical.read_step + f.vertical.read_first;
    to.column[m] = x * f.horizontal.read_step + f.horizontal.read_first;
    to.image[m] = static_cast<int>(region.image + image);
    const int large_row = f.vertical.first + y * f.vertical.step;
    to.pixel[m] = large_row * static_cast<int>(p.large.width) + f.horizontal.first + x * f.horizontal.step;
  }
}

constexpr int kOnes = -1;  // instead of a small channel: a tap in which every large pixel meets the number 1

struct Taps {
  Smem<int> row, column;  // to add to those of a pixel
  Smem<int> channel;      // k, or kOnes
  Smem<int> index;        // in [r, s, k]
  Smem<int64_t> weight;   // offset of W[0, k, r, s]
};
constexpr int kTapBytes = 4 * sizeof(int) + sizeof(int64_t);
SDGAN_DEVICE Taps taps_at(int offset, int count) {  // count: a multiple of 4
  const Smem<int> first = smem_at<int>(offset);
  return {first,
          {first.p + count},
          {first.p + 2 * count},
          {first.p + 3 * count},
          smem_at<int64_t>(offset + 4 * static_cast<int>(sizeof(int)) * count)};
}

// Taps first .. first + count of the residue; the one after the last is kOnes, of index ones.
SDGAN_DEVICE void fill_taps(const SmallChannelProblem& p, const Smem<Scope>& scope, int first, int count, int ones,
                            const Taps& to) {
  const Scope f = scope[0];
  const int small_channels = static_cast<int>(p.small.channels);
  for (int t = threadIdx.x; t < count; t += blockDim.x) {
    const int tap = (first + t) / small_channels, k = (first + t) % small_channels;
    const int y = tap / (f.horizontal.taps > 0 ? f.horizontal.taps : 1), x = tap - y * f.horizontal.taps;
    const bool real = first + t < f.taps(p);
    const int r = f.vertical.tap_first + y * f.vertical.tap_step;
    const int s = f.horizontal.tap_first + x * f.horizontal.tap_step;
    to.row[t] = y * f.vertical.read_tap;
    to.column[t] = x * f.horizontal.read_tap;
    to.channel[t] = real ? k : kOnes;
    to.index[t] = real ? (r * static_cast<int>(p.geometry.horizontal.taps) + s) * small_channels + k : ones;
    to.weight[t] = k * p.weight_stride[1] + r * p.weight_stride[2] + s * p.weight_stride[3];
  }
}

SDGAN_DEVICE int64_t large_index(const SmallChannelProblem& p, int64_t image, int64_t channel, int pixel) {
  const int64_t plane = p.large.pixels();
  return p.channels_last ? (image * plane + pixel) * p.large.channels + channel
                         : (image * p.large.channels + channel) * plane + pixel;
}
SDGAN_DEVICE int64_t small_index(const SmallChannelProblem& p, int64_t image, int channel, int row, int column) {
  const int64_t height = p.small.height, width = p.small.width;
  return p.channels_last ? ((image * height + row) * width + column) * p.small.channels + channel
                         : ((image * p.small.channels + channel) * height + row) * width + column;
}

// ------------------------------------------------------------------------------------------------- staging
// Elements of an image, times act'(saved) where that is given.
template <class S>
struct Reader {
  using T = compute_t<S>;
  const void* image;
  const void* saved;
  Activation activation;
  T negative_slope;

  SDGAN_DEVICE T one(int64_t i) const {
    const T x = load_one<S>(image, i);
    return saved ? x * derivative(load_one<S>(saved, i)) : x;
  }
  SDGAN_DEVICE T derivative(T s) const { return activation_gradient<Math>(activation, s, negative_slope); }
};
template <class S>
SDGAN_DEVICE Reader<S> large_reader(const SmallChannelProblem& p) {
  return {p.large_in, p.large_saved, p.activation, static_cast<compute_t<S>>(p.negative_slope)};
}
template <class S>
SDGAN_DEVICE Reader<S> small_reader(const SmallChannelProblem& p) {
  return {p.small_in, p.small_saved, p.activation, static_cast<compute_t<S>>(p.negative_slope)};
}

// Whether pixels m .. m + count of the table are neighbours in the planes of NCHW.
SDGAN_DEVICE bool neighbours(const Pixels& pixels, int m, int count) {
  const int last = m + count - 1;
  return pixels.image[last] == pixels.image[m] && pixels.pixel[last] - pixels.pixel[m] == count - 1;
}

// Cells of a factor that has pixels along its rows, or as its depth.
template <bool pixels_along, class T>
SDGAN_DEVICE void put(const Factor<T>& to, int m, int x, T value) {
  to.put(pixels_along ? x : m, pixels_along ? m : x, value);
}
// Eight from (m, x) on: along the row, or down the depth.
template <bool along, bool pixels_along, class T>
SDGAN_DEVICE void put_run(const Factor<T>& to, int m, int x, const T (&value)[8]) {
  const int k = pixels_along ? x : m, first = pixels_along ? m : x;
  if constexpr (along) {
    write_quad(to.data, to.at(k, first), Quad<T>{{value[0], value[1], value[2], value[3]}});
    write_quad(to.data, to.at(k, first + 4), Quad<T>{{value[4], value[5], value[6], value[7]}});
  } else {
    PRAGMA_UNROLL
    for (int j = 0; j < 8; ++j) to.put(k + j, first, value[j]);
  }
}

// The table of stage_large: `pixels` pixels and `channels` channels, both at most and multiples of 8. Neighbouring
// threads take neighbouring pixels where `to` has pixels along its rows, else what is contiguous in memory.
inline int large_columns(const SmallChannelProblem& p, bool pixels_along, int pixels, int channels) {
  if (!p.channels_last) return pixels / 8;
  return pixels_along ? pixels : channels / 8;
}

// Eight elements as they are in memory: 16 bits a lane would cost a register each.
template <class S>
struct Run {
  struct alignas(16) Words {
    uint32_t word[4];
  };
  Words words[sizeof(S) / 2];

  SDGAN_DEVICE static Run load(const void* from, int64_t i) {  // aligned to 16 bytes
    Run run;
    memcpy(&run, __builtin_assume_aligned(static_cast<const S*>(from) + i, 16), sizeof run);
    return run;
  }
  SDGAN_DEVICE compute_t<S> operator[](int j) const {
    if constexpr (sizeof(S) == 2) {
      return to_compute(S{static_cast<uint16_t>(words[0].word[j / 2] >> (j % 2 * 16))});
    } else {
      constexpr int kLanes = 16 / sizeof(S);
      S x;
      memcpy(&x, words[j / kLanes].word + j % kLanes * (4 / kLanes), sizeof x);
      return x;
    }
  }
};

// X[m, first_channel + c], m < count, c < channels, in runs of 8 channels of a pixel or of 8 pixels of a channel. Where
// channels is no multiple of 8, the rest of the 8 is zero. A thread reads kRuns of them before it waits.
template <class S, bool pixels_along, int kRuns>
SDGAN_DEVICE void stage_large(const SmallChannelProblem& p, const Pixels& pixels, int count, int first_channel,
                              int channels, Walk walk, const Factor<compute_t<S>>& to) {
  using T = compute_t<S>;
  const Reader<S> reader = large_reader<S>(p);
  const bool last = p.channels_last;
  const int last_rows = pixels_along ? (channels + 7) / 8 : count;
  const int rows = last ? last_rows : channels;
  const auto pixel_of = [&](const Walk& w) {
    const int of_last = pixels_along ? w.column : w.row;
    return last ? of_last : 8 * w.column;
  };
  const auto channel_of = [&](const Walk& w) { return last ? 8 * (pixels_along ? w.row : w.column) : w.row; };
  const auto index_of = [&](int m, int c) {
    return large_index(p, pixels.image[m], first_channel + c, pixels.pixel[m]);
  };
  // Masked, half of the runs are of saved. silu's derivative is long: not in eight copies.
  const bool masked = reader.saved != nullptr, simple = !masked || reader.activation != Activation::silu;
  const int batch = masked && kRuns > 1 ? kRuns / 2 : kRuns;
  while (walk.row < rows) {
    Run<S> run[kRuns];
    unsigned whole = 0;  // bits: the runs that are in `run`
    Walk ahead = walk;
    PRAGMA_UNROLL
    for (int b = 0; b < kRuns; ++b) {
      const int m = pixel_of(ahead), c = channel_of(ahead);
      if (b < batch && ahead.row < rows && m < count && (last ? channels - c : count - m) >= 8) {
        const int64_t i = index_of(m, c);
        const bool aligned = aligned16(static_cast<const S*>(reader.image) + i) &&
                             (!masked || aligned16(static_cast<const S*>(reader.saved) + i));
        if (simple && aligned && (last || neighbours(pixels, m, 8))) {
          whole |= 1u << b;
          run[b] = Run<S>::load(reader.image, i);
          if (masked && 2 * b < kRuns && kRuns > 1) run[(b + kRuns / 2) % kRuns] = Run<S>::load(reader.saved, i);
        }
      }
      ahead.next();
    }
    PRAGMA_UNROLL
    for (int b = 0; b < kRuns; ++b) {
      if (b >= batch || walk.row >= rows) continue;
      const int m = pixel_of(walk), c = channel_of(walk);
      walk.next();
      if (m >= count || c >= channels) continue;
      if (whole >> b & 1) {
        T x[8];
        PRAGMA_UNROLL
        for (int j = 0; j < 8; ++j) x[j] = run[b][j];
        if (masked) {
          const Run<S> saved = kRuns > 1 ? run[(b + kRuns / 2) % kRuns] : Run<S>::load(reader.saved, index_of(m, c));
          PRAGMA_UNROLL
          for (int j = 0; j < 8; ++j) x[j] *= reader.derivative(saved[j]);
        }
        if (last) {
          put_run<!pixels_along, pixels_along>(to, m, c, x);
        } else {
          put_run<pixels_along, pixels_along>(to, m, c, x);
        }
      } else {
        const int most = last ? channels - c : count - m;
        SDGAN_ROLLED
        for (int j = 0; j < 8; ++j) {
          const int m_j = last ? m : m + j, c_j = last ? c + j : c;
          put<pixels_along>(to, m_j, c_j, j < most ? reader.one(index_of(m_j, c_j)) : T(0));
        }
      }
    }
  }
}

// A[m, t], m < count, t < tap_count. `walk` is over pixels where they are along the rows of `to`, else over taps.
template <class S, bool pixels_along>
SDGAN_DEVICE void stage_small(const SmallChannelProblem& p, const Pixels& pixels, int count, const Taps& taps,
                              int tap_count, Walk walk, const Factor<compute_t<S>>& to) {
  using T = compute_t<S>;
  const Reader<S> reader = small_reader<S>(p);
  const int height = static_cast<int>(p.small.height), width = static_cast<int>(p.small.width);
  for (; walk.row < (pixels_along ? tap_count : count); walk.next()) {
    const int m = pixels_along ? walk.column : walk.row, t = pixels_along ? walk.row : walk.column;
    if (m >= count || t >= tap_count) continue;
    const int row = pixels.row[m] + taps.row[t], column = pixels.column[m] + taps.column[t], k = taps.channel[t];
    const bool inside = row >= 0 && row < height && column >= 0 && column < width;
    T x = 0;
    if (k == kOnes) {
      x = 1;
    } else if (inside) {
      x = reader.one(small_index(p, pixels.image[m], k, row, column));
    }
    put<pixels_along>(to, m, t, x);
  }
}

// W[first_channel + c, t]: channels along the rows of `to` and taps as its depth, or the other way round; zero for
// channels and taps past the last.
template <class S, bool channels_along>
SDGAN_DEVICE void stage_weight(const SmallChannelProblem& p, const Taps& taps, int tap_count, int first_channel,
                               int channels, int depth, Walk walk, const Factor<compute_t<S>>& to) {
  using T = compute_t<S>;
  for (; walk.row < depth; walk.next()) {
    const int c = channels_along ? walk.column : walk.row, t = channels_along ? walk.row : walk.column;
    T w = 0;
    if (c < channels && t < tap_count) {
      w = load_one<S>(p.weight, int64_t{first_channel + c} * p.weight_stride[0] + taps.weight[t]);
    }
    to.put(walk.row, walk.column, w);
  }
}

}  // namespace sdgan::cuda
