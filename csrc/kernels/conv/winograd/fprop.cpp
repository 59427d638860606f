// X[m] = sum w[k] Y[o]: the strided convolution. The phases' products of one point are added by the matrix product, whose
// sum runs over the phases and the fine channels:
//
//   fine pixels -> V [plane][tile][slots * D] -> M [plane][tile][C] = V U -> coarse pixels
//
// Bytes of memory and products as in winograd_dgrad.cpp.
#include "kernels/conv/winograd/x_planes.h"

namespace sdgan::SDGAN_ISA {
namespace {

template <class S>
struct ToCoarse {
  static constexpr PlaneMap kMap = S::to_coarse;
  static constexpr int kPlanes = kMap.planes;

  const WinogradParams& p;
  const int64_t channels = p.coarse_channels, padded = p.padded_coarse();
  const int64_t plane_size = p.block * padded + kSkew;  // of M
  FinePlanes<S> fine;
  const Buffer<float> zeros;
  float* const v;
  float* const m;
  Tiles tiles;

  explicit ToCoarse(const WinogradParams& params)
      : p(params), fine(params, p.block, 0, p.fine_channels), zeros(padded),
        v(workspace(Workspace::planes, fine.size() + kPlanes * kPlanes * plane_size)), m(v + fine.size()),
        tiles(params) {}

  void multiply() {
    const int64_t depth = p.padded_fine();
    unrolled<kPlanes>([&]<int a> {
      unrolled<kPlanes>([&]<int b> {
        const int64_t k = kMap.slots(a, b) * depth;
        const auto [first, count] = tiles.with(a == kPlanes - 1, b == kPlanes - 1);
        gemm<false>(count, padded, k, {fine.template plane<a, b>(v) + first * k, k},
                    {p.filter + kMap.first(a, b) * depth * padded, 0},
                    m + (a * kPlanes + b) * plane_size + first * padded, padded, false);
      });
    });
  }

  // The two outputs of the products along one direction.
  template <int which>
  static SDGAN_INLINE Vector output(const Vector* t) {
    constexpr Row row = [] {
      Row r;
      for (int a = 0; a < kPlanes; ++a) r.c[a] = kOutput[S::point(a)].c[which];
      return r;
    }();
    return combine<row.code()>(t);
  }

  template <Activation activation>
  void transform_output(const Tile& tile, const float* in) {
    const int64_t height = p.vertical.coarse, width = p.horizontal.coarse;
    const int64_t offset = ((tile.image * height + tile.row) * width + tile.column) * channels;
    const bool second_row = tile.row + 1 < height, second_column = tile.column + 1 < width;
    const float* bias = p.bias ? p.bias : zeros.data();
    for_channels(channels, [&](int64_t c, int count) {
      Vector upper[kPlanes], lower[kPlanes];
#pragma GCC unroll 4
      for (int b = 0; b < kPlanes; ++b) {
        Vector t[kPlanes];
#pragma GCC unroll 4
        for (int a = 0; a < kPlanes; ++a) t[a] = load(in + (a * kPlanes + b) * plane_size + c);
        upper[b] = output<0>(t);
        lower[b] = output<1>(t);
      }
      const Vector shift = read<float>(bias, c, count);
      const Epilogue<activation> put{p, p.coarse_out + offset + c, count};
      put(0, output<0>(upper) + shift);
      if (second_column) put(channels, output<1>(upper) + shift);
      if (second_row) put(width * channels, output<0>(lower) + shift);
      if (second_row && second_column) put((width + 1) * channels, output<1>(lower) + shift);
    });
    if constexpr (activation == Activation::none) {
      activate_pixels(p, p.coarse_out, offset, channels, width * channels, second_column, second_row, channels);
    }
  }

  void block(int64_t index) {
    tiles.fill(index * p.block);
    for (int64_t t = 0; t < tiles.count(); ++t) fine.transform(tiles[t], t, v);
    multiply();
    with_epilogue(p, [&](auto activation) {
      for (int64_t t = 0; t < tiles.count(); ++t) transform_output<activation>(tiles[t], m + t * padded);
    });
  }
};

}  // namespace

void winograd_fprop(const WinogradParams& p, int64_t slice_begin, int64_t slice_end) {
  with_scheme(p, [&](auto scheme) {
    ToCoarse<decltype(scheme)> work(p);
    for (int64_t index = slice_begin; index < slice_end; ++index) work.block(index);
  });
}

}  // namespace sdgan::SDGAN_ISA
