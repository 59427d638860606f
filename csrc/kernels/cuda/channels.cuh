// What kernels over tensors of channels share: the walk of a thread along its tile, sums over the columns of a block,
// and the sums of the blocks in order. See channel_tiles.h.
#pragma once

#include <type_traits>

#include "kernels/activation.h"
#include "kernels/channel_tiles.h"
#include "kernels/cuda/elements.cuh"

namespace sdgan::cuda {

static_assert(ChannelTiles::kThreads == kThreads);
constexpr int kTileColumns = ChannelTiles::kMostColumns;

// A pack of a thread: `count` elements from i on, which need not be aligned; none where count is 0.
struct Piece {
  int64_t i;
  int count;
};

template <class S>
SDGAN_DEVICE Pack<S> read(const void* p, Piece at) {
  return read<S>(static_cast<const S*>(p) + at.i, 0, at.count);
}
template <class S>
SDGAN_DEVICE void write(void* p, Piece at, const Pack<S>& pack) {
  if (p != nullptr) write<S>(static_cast<S*>(p) + at.i, 0, at.count, pack);
}

// Whether the pieces can be loaded 16 bytes at a time; those of no elements may.
template <class S, int n>
SDGAN_DEVICE bool whole(const void* p, const Piece (&piece)[n]) {
  bool ok = aligned16(p);
  PRAGMA_UNROLL
  for (int i = 0; i < n; ++i) {
    ok = ok && (piece[i].count == 0 || (piece[i].count == kPack<S> && piece[i].i % kPack<S> == 0));
  }
  return ok;
}

template <class S, int n>
SDGAN_DEVICE void load_whole(const void* p, const Piece (&piece)[n], Raw<S> (&raw)[n]) {
  PRAGMA_UNROLL
  for (int i = 0; i < n; ++i) {
    const int64_t at = piece[i].count == 0 ? piece[0].i : piece[i].i;
    raw[i] = *reinterpret_cast<const Raw<S>*>(static_cast<const S*>(p) + at);
  }
}
template <class S, int n>
SDGAN_DEVICE void unpack(const Piece (&piece)[n], const Raw<S> (&raw)[n], Pack<S> (&x)[n]) {
  PRAGMA_UNROLL
  for (int i = 0; i < n; ++i) {
    PRAGMA_UNROLL
    for (int j = 0; j < kPack<S>; ++j) x[i][j] = piece[i].count == 0 ? compute_t<S>(0) : to_compute(raw[i].lane[j]);
  }
}

// Reads pieces, of which the first has elements; lanes past a piece's count are 0. All loads are on their way before a
// value is used, which a branch around each of them would prevent: they hide each other's latency.
template <class S, int n>
SDGAN_DEVICE void read(const Piece (&piece)[n], const void* p, Pack<S> (&x)[n]) {
  if (whole<S>(p, piece)) {
    Raw<S> raw[n];
    load_whole<S>(p, piece, raw);
    unpack<S>(piece, raw, x);
  } else {
    PRAGMA_UNROLL
    for (int i = 0; i < n; ++i) x[i] = read<S>(p, piece[i]);
  }
}
template <class S, int n>
SDGAN_DEVICE void read(const Piece (&piece)[n], const void* p, Pack<S> (&x)[n], const void* q, Pack<S> (&y)[n]) {
  if (whole<S>(p, piece) && aligned16(q)) {
    Raw<S> of_p[n], of_q[n];
    load_whole<S>(p, piece, of_p);
    load_whole<S>(q, piece, of_q);
    unpack<S>(piece, of_p, x);
    unpack<S>(piece, of_q, y);
  } else {
    PRAGMA_UNROLL
    for (int i = 0; i < n; ++i) {
      x[i] = read<S>(p, piece[i]);
      y[i] = read<S>(q, piece[i]);
    }
  }
}

// The tile of this block and the pieces of it that are this thread's, from the first to the last.
template <class S>
class Walk {
 public:
  SDGAN_DEVICE explicit Walk(const ChannelTiles& t) : Walk(t, blockIdx.x) {}
  SDGAN_DEVICE Walk(const ChannelTiles& t, unsigned index) {
    const unsigned tiles_across = static_cast<unsigned>(t.tiles_across);
    const int64_t tile = index % tiles_across;
    down_ = index / tiles_across;
    const int64_t at_once = kThreads / t.across;
    const int64_t begin = down_ * t.tile_units + threadIdx.x / t.across;
    const int64_t end = t.units - down_ * t.tile_units < t.tile_units ? t.units : (down_ + 1) * t.tile_units;
    left_ = begin < end ? (end - begin + at_once - 1) / at_once : 0;
    if (t.in_rows) {
      tile_ = tile * t.across * kPack<S>;
      column_ = tile_ + threadIdx.x % t.across * kPack<S>;
      i_ = begin * t.columns() + column_;
      step_ = at_once * t.columns();
      length_ = t.columns() - column_;
      if (length_ <= 0) left_ = 0;
    } else {
      const int64_t packs = t.packs_of_plane();
      const int64_t plane = t.channels * t.length;  // from one of the channel's planes to the next
      tile_ = column_ = tile;
      packs_ = packs;
      at_ = begin % packs;
      at_step_ = at_once % packs;
      i_ = begin / packs * plane + tile * t.length + at_ * kPack<S>;
      step_ = at_once / packs * plane + at_step_ * kPack<S>;
      wrap_ = plane - packs * kPack<S>;
      length_ = t.length;
    }
  }

  SDGAN_DEVICE int64_t down() const { return down_; }  // which of the tiles that share columns
  SDGAN_DEVICE int64_t tile_column() const { return tile_; }
  SDGAN_DEVICE int64_t column() const { return column_; }  // of lane 0; in planes the channel, of all lanes
  SDGAN_DEVICE bool done() const { return left_ <= 0; }

  SDGAN_DEVICE Piece next() {
    if (left_-- <= 0) return {0, 0};
    const int64_t rest = length_ - at_ * kPack<S>;
    const Piece piece{i_, rest < kPack<S> ? static_cast<int>(rest) : kPack<S>};
    i_ += step_;
    at_ += at_step_;
    if (at_ >= packs_) {
      at_ -= packs_;
      i_ += wrap_;
    }
    return piece;
  }

 private:
  int64_t down_, tile_, column_;
  int64_t left_;                  // pieces
  int64_t i_, step_, length_;     // element; elements in the row from the thread's column on, or in a plane
  int64_t at_ = 0, at_step_ = 0;  // pack in the plane; in rows there is one
  int64_t packs_ = 1, wrap_ = 0;  // of a plane; elements from behind its last pack to the next plane
};

// The lane's column of a tile, for what a tile keeps per column.
SDGAN_DEVICE int tile_lane(const ChannelTiles& t, int lane) {
  return t.in_rows ? static_cast<int>(threadIdx.x) % t.across * t.pack + lane : 0;
}

// Adds the values of all threads and lanes that share a column and calls store(value, column of the tile, sum) for
// every column of the tile. All threads call it.
template <class S, int values, class Store>
SDGAN_DEVICE void sum_tile(const ChannelTiles& t, double (&v)[values][kPack<S>], Store store) {
  __shared__ double warp_sums[kThreads / 32 * values * kTileColumns];
  const Smem<double> sums{warp_sums};
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  PRAGMA_UNROLL
  for (int k = 0; k < values; ++k) {
    PRAGMA_UNROLL
    for (int j = 1; j < kPack<S>; ++j) {
      if (!t.in_rows) v[k][0] += v[k][j];
    }
    PRAGMA_UNROLL
    for (int j = 0; j < kPack<S>; ++j) {
      if (j > 0 && !t.in_rows) continue;
      PRAGMA_UNROLL
      for (int d = 16; d > 0; d /= 2) {
        if (d >= t.across) v[k][j] += __shfl_down_sync(0xffffffffu, v[k][j], d);
      }
      if (lane < t.across) sums[(warp * values + k) * kTileColumns + lane * kPack<S> + j] = v[k][j];
    }
  }
  __syncthreads();
  for (int at = threadIdx.x; at < values * kTileColumns; at += kThreads) {
    const int k = at / kTileColumns, column = at % kTileColumns;
    if (column >= t.tile_columns()) continue;
    double sum = 0;
    PRAGMA_UNROLL
    for (int w = 0; w < kThreads / 32; ++w) sum += sums[(w * values + k) * kTileColumns + column];
    store(k, column, sum);
  }
}

// Partial sums [blocks, values, C * repeat] of columns.
struct ColumnSums {
  const double* partial;
  int64_t blocks, channels, repeat;
};

// totals [values, kTileColumns] for the columns of a tile: of their channels, over all blocks. All threads call it; the
// block must wait before it reads.
template <int values>
SDGAN_DEVICE void add_blocks(const ChannelTiles& t, const ColumnSums& from, int64_t tile_column,
                             const Smem<double>& totals) {
  constexpr int kValues = values * kTileColumns, kParts = kThreads / kValues;
  __shared__ double parts_of[kParts * kValues];
  const Smem<double> parts{parts_of};
  const int at = threadIdx.x % kValues, part = threadIdx.x / kValues;
  const int k = at / kTileColumns, column = at % kTileColumns;
  double sum = 0;
  if (column < t.tile_columns() && tile_column + column < t.columns()) {
    const int64_t stride = values * from.channels * from.repeat;
    const double* first = from.partial + (k * from.channels + t.channel_of(tile_column + column)) * from.repeat;
    for (int64_t block = part; block < from.blocks; block += kParts) {
      for (int64_t i = 0; i < from.repeat; ++i) sum += first[block * stride + i];
    }
  }
  parts[part * kValues + at] = sum;
  __syncthreads();
  if (threadIdx.x < kValues) {
    sum = 0;
    PRAGMA_UNROLL
    for (int i = 0; i < kParts; ++i) sum += parts[i * kValues + at];
    totals[at] = sum;
  }
}

// The channels' sums over all blocks: a block of threads for 8 of the values * C, 32 threads for each. store(k, c, sum)
// is called once.
constexpr int kAddedAtOnce = 8;

template <class Store>
SDGAN_DEVICE void add_all_blocks(const ColumnSums& from, int values, Store store) {
  constexpr int kParts = kThreads / kAddedAtOnce;
  __shared__ double parts_of[kThreads];
  const Smem<double> parts{parts_of};
  const int slot = threadIdx.x % kAddedAtOnce, part = threadIdx.x / kAddedAtOnce;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kAddedAtOnce + slot;
  double sum = 0;
  if (at < values * from.channels) {
    const int64_t stride = values * from.channels * from.repeat;
    for (int64_t block = part; block < from.blocks; block += kParts) {
      for (int64_t i = 0; i < from.repeat; ++i) sum += from.partial[block * stride + at * from.repeat + i];
    }
  }
  parts[threadIdx.x] = sum;
  __syncthreads();
  if (part != 0 || at >= values * from.channels) return;
  for (int i = 1; i < kParts; ++i) sum += parts[i * kAddedAtOnce + slot];
  store(at / from.channels, at % from.channels, sum);
}

inline unsigned add_all_grid(const ChannelTiles& t, int values) {
  return grid_of((values * t.channels + kAddedAtOnce - 1) / kAddedAtOnce);
}

template <Activation a>
constexpr bool needs_input = derivative_needs_input(a);

}  // namespace sdgan::cuda
