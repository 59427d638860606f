// How CUDA kernels cut a tensor of channels into tiles, one for a block of threads. Plain numbers: the binding asks
// them how much scratch a reduction takes, the kernels walk along them (channels.cuh).
//
//   rows    [rows, columns]  a tile is `across` packs of 16 bytes wide (64 bytes in all) and some rows deep; a thread
//                            keeps its columns. `repeat` neighbouring columns make a channel.
//   planes  [N, C, L]        a tile is some packs of one channel, in the order of memory.
//
// About kTiles tiles: four for each of an H200's 132 multiprocessors, but no fewer than 4 packs for a thread, and no
// more than kMostPacks: what a thread sums in float is short. The cut depends on the shape alone, not on the GPU, and
// with it the order of every sum.
#pragma once

#include "kernels/scalar.h"

namespace sdgan {

struct ChannelTiles {
  int64_t batch = 0;     // N
  int64_t channels = 0;  // C
  int64_t length = 0;    // L
  int64_t repeat = 1;
  bool in_rows = false;

  int32_t pack = 1;          // elements in 16 bytes
  int32_t across = 1;        // threads of a tile that are side by side: 1, 2 or 4; 1 in planes
  int64_t tiles_across = 0;  // in planes the channels
  int64_t units = 0;         // rows, or the packs of a channel
  int64_t tile_units = 0;    // of a tile
  int64_t tiles_down = 0;    // tiles that share columns, or a channel

  static constexpr int kThreads = 256;
  static constexpr int kMostColumns = 32;  // of a tile
  static constexpr int64_t kTiles = 528;
  static constexpr int64_t kMostPacks = 128;
  static constexpr int64_t kFewSums = 32;  // partial sums of a channel that every tile adds up for itself

  SDGAN_HD int64_t columns() const { return channels * repeat; }  // repeat is 1 in planes
  SDGAN_HD int64_t packs_of_plane() const { return (length + pack - 1) / pack; }
  SDGAN_HD int32_t tile_columns() const { return in_rows ? across * pack : 1; }
  SDGAN_HD int64_t count() const { return tiles_across * tiles_down; }
  SDGAN_HD int64_t channel_of(int64_t column) const { return repeat == 1 ? column : column / repeat; }

  // The tiles' partial sums are [tiles_down, values, columns()]. Where they are many, a launch adds them up first, to
  // [values, C] behind them.
  bool adds_first() const { return tiles_down * repeat > kFewSums; }
  int64_t partial_count(int values) const { return values * (tiles_down * columns() + (adds_first() ? channels : 0)); }
};

// in_rows: the tensor is [N * L / repeat, C * repeat] in memory, else [N, C, L].
inline ChannelTiles channel_tiles(DType dtype, int64_t batch, int64_t channels, int64_t length, int64_t repeat,
                                  bool in_rows) {
  ChannelTiles t;
  t.batch = batch;
  t.channels = channels;
  t.length = length;
  t.repeat = in_rows ? repeat : 1;
  t.in_rows = in_rows;
  t.pack = dtype == DType::f64 ? 2 : dtype == DType::f32 ? 4 : 8;
  if (in_rows) {
    const int64_t packs = (t.columns() + t.pack - 1) / t.pack;
    t.across = packs > 2 ? 4 : static_cast<int32_t>(packs);
    t.tiles_across = (packs + t.across - 1) / t.across;
    t.units = batch * length / repeat;
  } else {
    t.tiles_across = channels;
    t.units = batch * t.packs_of_plane();
  }
  const int64_t at_once = ChannelTiles::kThreads / t.across;
  const int64_t most = t.tiles_across < ChannelTiles::kTiles ? ChannelTiles::kTiles / t.tiles_across : 1;
  const int64_t useful = (t.units + 4 * at_once - 1) / (4 * at_once);
  const int64_t least = (t.units + ChannelTiles::kMostPacks * at_once - 1) / (ChannelTiles::kMostPacks * at_once);
  const int64_t down = useful < most ? useful : most > least ? most : least;
  t.tile_units = (t.units + down - 1) / down;
  t.tile_units = (t.tile_units + at_once - 1) / at_once * at_once;
  t.tiles_down = (t.units + t.tile_units - 1) / t.tile_units;
  return t;
}

}  // namespace sdgan
