// y[o] = sum w[t] x[i]: the strided convolution. The residues' products of one point are added by the matrix product,
// whose sum runs over the residues and the channels of x:
//
//   pixels of x -> V [plane][tile][slots * Cx] -> M [plane][tile][Cy] = V U -> pixels of y
//
// Bytes of memory and products as in dgrad.cpp.
#include "kernels/conv/winograd/x_planes.h"

namespace sdgan::SDGAN_ISA {
namespace {

template <class S>
struct Fprop {
  static constexpr PlaneMap kMap = S::fprop;
  static constexpr int kPlanes = kMap.planes;

  const WinogradParams& p;
  const int64_t channels = p.geometry.y_channels, padded = p.padded_y();
  const int64_t plane_size = p.block * padded + kSkew;  // of M
  XPlanes<S> x_planes;
  const Buffer<float> zeros;
  float* const v;
  float* const m;
  Tiles tiles;

  explicit Fprop(const WinogradParams& params)
      : p(params),
        x_planes(params, p.block, 0, p.geometry.x_channels),
        zeros(padded),
        v(workspace(Workspace::planes, x_planes.size() + kPlanes * kPlanes * plane_size)),
        m(v + x_planes.size()),
        tiles(params) {}

  void multiply() {
    const int64_t depth = p.padded_x();
    unrolled<kPlanes>([&]<int a> {
      unrolled<kPlanes>([&]<int b> {
        const int64_t k = kMap.slots(a, b) * depth;
        const auto [first, count] = tiles.with(a == kPlanes - 1, b == kPlanes - 1);
        gemm<false>(count, padded, k, {x_planes.template plane<a, b>(v) + first * k, k},
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
    const int64_t height = p.geometry.vertical.y, width = p.geometry.horizontal.y;
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
      const Epilogue<activation> put{p, p.y_out + offset + c, count};
      put(0, output<0>(upper) + shift);
      if (second_column) put(channels, output<1>(upper) + shift);
      if (second_row) put(width * channels, output<0>(lower) + shift);
      if (second_row && second_column) put((width + 1) * channels, output<1>(lower) + shift);
    });
    if constexpr (activation == Activation::none) {
      activate_pixels(p, p.y_out, offset, channels, width * channels, second_column, second_row, channels);
    }
  }

  void block(int64_t index) {
    tiles.fill(index * p.block);
    for (int64_t t = 0; t < tiles.count(); ++t) x_planes.transform(tiles[t], t, v);
    multiply();
    with_epilogue(p, [&](auto activation) {
      for (int64_t t = 0; t < tiles.count(); ++t) transform_output<activation>(tiles[t], m + t * padded);
    });
  }
};

}  // namespace

void winograd_fprop(const WinogradParams& p, int64_t slice_begin, int64_t slice_end) {
  with_scheme(p, [&](auto scheme) {
    Fprop<decltype(scheme)> work(p);
    for (int64_t index = slice_begin; index < slice_end; ++index) work.block(index);
  });
}

}  // namespace sdgan::SDGAN_ISA
