// The planes of x that fprop and wgrad multiply, of `channels` channels from first_channel on: for each
// plane [tile][slots * channels], a slot for each pair of residues that has the plane's points.
#pragma once

#include "kernels/conv/winograd/tiles.h"

namespace sdgan::SDGAN_ISA {
namespace {

template <class S>
struct XPlanes {
  static constexpr PlaneMap kMap = S::fprop;

  const WinogradParams& p;
  const int64_t tiles;  // there is memory for so many
  const int64_t first_channel, channels, padded;
  const Buffer<float> zeros;

  XPlanes(const WinogradParams& params, int64_t tile_count, int64_t first, int64_t count)
      : p(params),
        tiles(tile_count),
        first_channel(first),
        channels(count),
        padded(WinogradParams::pad(count)),
        zeros(padded) {}

  int64_t size() const { return kMap.products() * tiles * padded + kMap.planes * kMap.planes * kSkew; }

  template <int a, int b>
  float* plane(float* planes) const {
    return planes + kMap.first(a, b) * tiles * padded + (a * kMap.planes + b) * kSkew;
  }

  // The planes of one tile, the one number `index` there.
  void transform(const Tile& tile, int64_t index, float* planes) const {
    unrolled<S::stride>([&]<int row_residue> {
      unrolled<S::stride>(
          [&]<int column_residue> { transform_residue<row_residue, column_residue>(tile, index, planes); });
    });
  }

 private:
  template <int row_residue, int column_residue>
  void transform_residue(const Tile& tile, int64_t index, float* planes) const {
    constexpr int rows = kMap.points[row_residue], columns = kMap.points[column_residue];  // also of the window
    constexpr int row_taps = S::residue_taps(row_residue), column_taps = S::residue_taps(column_residue);
    const int64_t height = p.geometry.vertical.x, width = p.geometry.horizontal.x, pixel_size = p.geometry.x_channels;
    const float* image = p.x_in + tile.image * height * width * pixel_size + first_channel;
    const int64_t row = S::stride * tile.row + row_residue - p.geometry.vertical.pad;
    const int64_t column = S::stride * tile.column + column_residue - p.geometry.horizontal.pad;
    const float* at[rows][columns];
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < columns; ++j) {
        at[i][j] = pixel(image, row + S::stride * i, column + S::stride * j, height, width, pixel_size, zeros.data());
      }
    }
    float* out[rows][columns];
    unrolled<rows>([&]<int i> {
      unrolled<columns>([&]<int j> {
        constexpr int a = kMap.plane[row_residue][i], b = kMap.plane[column_residue][j];
        out[i][j] =
            plane<a, b>(planes) + (index * kMap.slots(a, b) + kMap.slot(a, b, row_residue, column_residue)) * padded;
      });
    });
    for_channels(channels, [&](int64_t c, int count) {
      Vector d[rows][kMaxWindow];
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < columns; ++j) d[i][j] = read<float>(at[i][j], c, count);
      }
      unrolled<rows>([&]<int i> {
        Vector q[kMaxWindow];
#pragma GCC unroll 4
        for (int j = 0; j < columns; ++j) q[j] = combine<kFiltering[row_taps].data[i].code(), kMaxWindow>(&d[0][j]);
        unrolled<columns>([&]<int j> { store(out[i][j] + c, combine<kFiltering[column_taps].data[j].code()>(q)); });
      });
    });
    clear_padding<rows, columns>(out);
  }

  // Channels past the last vector are multiplied too.
  template <int rows, int columns>
  void clear_padding(float* (&out)[rows][columns]) const {
    for (int64_t c = (channels + kLane - 1) / kLane * kLane; c < padded; c += kLane) {
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < columns; ++j) store(out[i][j] + c, Vector{});
      }
    }
  }
};

}  // namespace
}  // namespace sdgan::SDGAN_ISA
