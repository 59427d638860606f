// What group_norm.cu and group_norm_backward.cu share: the tiles of one image after those of another.
#pragma once

#include "kernels/cuda/channels.cuh"
#include "kernels/cuda/norm_factors.cuh"
#include "kernels/group_norm.h"

namespace sdgan::cuda {
namespace {

struct ImageTile {
  int64_t image, offset;  // offset: the image's first element
  unsigned index;         // of the tile in the image
  SDGAN_DEVICE ImageTile(const GroupNormShape& p, const ChannelTiles& t) {
    const unsigned tiles = static_cast<unsigned>(t.count());
    image = blockIdx.x / tiles;
    offset = image * p.channels * p.length;
    index = blockIdx.x % tiles;
  }
  template <class S>
  SDGAN_DEVICE const S* at(const void* tensor) const {
    return static_cast<const S*>(tensor) + offset;
  }
  template <class S>
  SDGAN_DEVICE S* at(void* tensor) const {
    return static_cast<S*>(tensor) + offset;
  }
};

// Adds the threads' sums; they go to partial [N, tiles_down, 2, C]. All threads call it.
template <class S>
SDGAN_DEVICE void store_sums(const GroupNormShape& p, const ChannelTiles& t, const ImageTile& tile, const Walk<S>& walk,
                             double (&v)[2][kPack<S>]) {
  sum_tile<S, 2>(t, v, [&](int k, int column, double sum) {
    if (walk.tile_column() + column < p.channels) {
      const int64_t row = (tile.image * t.tiles_down + walk.down()) * 2 + k;
      p.partial[row * p.channels + walk.tile_column() + column] = sum;
    }
  });
}

// Sets `factors` for the columns of this block's tile; the block must wait before it reads.
template <class S>
SDGAN_DEVICE void set_affine_of_image(const GroupNormShape& p, const ChannelTiles& t, const ImageTile& tile,
                                      int64_t tile_column, const Smem<compute_t<S>>& factors) {
  using T = compute_t<S>;
  if (threadIdx.x >= kTileColumns) return;
  const int at = threadIdx.x;
  const bool exists = at < t.tile_columns() && tile_column + at < t.columns();
  const int64_t c = exists ? tile_column + at : 0, group = tile.image * p.groups + c / p.group_channels();
  set_affine(p, factors, at, exists, c, load_one<T>(p.mean, group), load_one<T>(p.rstd, group));
}

}  // namespace
}  // namespace sdgan::cuda
