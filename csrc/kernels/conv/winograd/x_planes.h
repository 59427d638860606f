// The planes of the fine side that to_coarse and wgrad multiply, of `channels` channels from first_channel on: for each
// plane [tile][slots * channels], a slot for each pair of phases that has the plane's points.
#pragma once

#include "kernels/conv/winograd/tiles.h"

namespace sdgan::SDGAN_ISA {
namespace {

template <class S>
struct FinePlanes {
  static constexpr PlaneMap kMap = S::to_coarse;

  const WinogradParams& p;
  const int64_t tiles;  // room for that many
  const int64_t first_channel, channels, padded;
  const Buffer<float> zeros;

  FinePlanes(const WinogradParams& params, int64_t tile_count, int64_t first, int64_t count)
      : p(params), tiles(tile_count), first_channel(first), channels(count), padded(WinogradParams::pad(count)),
        zeros(padded) {}

  int64_t size() const { return kMap.products() * tiles * padded + kMap.planes * kMap.planes * kSkew; }

  template <int a, int b>
  float* plane(float* planes) const {
    return planes + kMap.first(a, b) * tiles * padded + (a * kMap.planes + b) * kSkew;
  }

  // The planes of one tile, the one number `index` there.
  void transform(const Tile& tile, int64_t index, float* planes) const {
    unrolled<S::stride>([&]<int row_phase> {
      unrolled<S::stride>([&]<int column_phase> { transform_phase<row_phase, column_phase>(tile, index, planes); });
    });
  }

 private:
  template <int row_phase, int column_phase>
  void transform_phase(const Tile& tile, int64_t index, float* planes) const {
    constexpr int rows = kMap.points[row_phase], columns = kMap.points[column_phase];  // also of the window
    constexpr int row_taps = S::phase_taps(row_phase), column_taps = S::phase_taps(column_phase);
    const int64_t height = p.vertical.fine, width = p.horizontal.fine, pixel_size = p.fine_channels;
    const float* image = p.fine_in + tile.image * height * width * pixel_size + first_channel;
    const int64_t row = S::stride * tile.row + row_phase - p.vertical.crop;
    const int64_t column = S::stride * tile.column + column_phase - p.horizontal.crop;
    const float* at[rows][columns];
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < columns; ++j) {
        at[i][j] = pixel(image, row + S::stride * i, column + S::stride * j, height, width, pixel_size, zeros.data());
      }
    }
    float* out[rows][columns];
    unrolled<rows>([&]<int i> {
      unrolled<columns>([&]<int j> {
        constexpr int a = kMap.plane[row_phase][i], b = kMap.plane[column_phase][j];
        out[i][j] = plane<a, b>(planes) + (index * kMap.slots(a, b) + kMap.slot(a, b, row_phase, column_phase)) * padded;
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
