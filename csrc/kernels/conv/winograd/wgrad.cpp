// dw[t] = sum y[o] x[i]. The filter is one of the three factors of a bilinear form, so its gradient takes as many
// products: with V the planes of x (those of fprop) and A those of y (the transform of the outputs,
// transposed),
//
//   Z [plane][slots * Cx][Cy] = sum over tiles of V [tile][slots * Cx] A [tile][Cy],   dw = Z through the filter's
//   transform
//
// A slice owns the dw of a block of channels of both sides, so that its Z stays in the cache while all tiles go by. An
// element adds the tiles in order, in blocks: the bits depend on nothing but the size of such a block.
#include "kernels/conv/winograd/tap_block.h"
#include "kernels/conv/winograd/x_planes.h"

namespace sdgan::SDGAN_ISA {
namespace {

template <class S>
struct Wgrad {
  static constexpr PlaneMap kMap = S::fprop;
  static constexpr int kPlanes = kMap.planes;

  const WinogradParams& p;
  const int64_t first_channel, channels, padded = WinogradParams::pad(channels);  // of y
  const int64_t row = padded + kSkew;                                             // floats between tiles of A
  const int64_t plane_size = p.block * row + kSkew;                               // of A
  XPlanes<S> x_planes;
  const int64_t a_size = kPlanes * kPlanes * plane_size;
  const int64_t z_size = kMap.products() * x_planes.padded * padded + kPlanes * kPlanes * kSkew;
  const Buffer<float> zeros;
  float* const v;
  float* const a;
  float* const z;
  Tiles tiles;

  Wgrad(const WinogradParams& params, int64_t y_first, int64_t y_count, int64_t x_first, int64_t x_count)
      : p(params),
        first_channel(y_first),
        channels(y_count),
        x_planes(params, p.block, x_first, x_count),
        zeros(padded),
        v(workspace(Workspace::planes, x_planes.size() + a_size + z_size)),
        a(v + x_planes.size()),
        z(a + a_size),
        tiles(params) {}

  void transform_y(const Tile& tile, float* out) const {
    const int64_t height = p.geometry.vertical.y, width = p.geometry.horizontal.y;
    const float* image = p.y_in + tile.image * height * width * p.geometry.y_channels + first_channel;
    const float* at[2][2];
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) {
        at[i][j] = pixel(image, tile.row + i, tile.column + j, height, width, p.geometry.y_channels, zeros.data());
      }
    }
    for_channels(channels, [&](int64_t c, int count) {
      Vector x[2][kMaxWindow];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) x[i][j] = read<float>(at[i][j], c, count);
      }
      unrolled<kPlanes>([&]<int i> {
        constexpr int code = kOutput[S::point(i)].code();
        const Vector q[2] = {combine<code, kMaxWindow>(&x[0][0]), combine<code, kMaxWindow>(&x[0][1])};
        unrolled<kPlanes>(
            [&]<int j> { store(out + (i * kPlanes + j) * plane_size + c, combine<kOutput[S::point(j)].code()>(q)); });
      });
    });
  }

  // Z of a plane. Between planes a skew, as in FinePlanes.
  template <int i, int j>
  float* products() const {
    return z + kMap.first(i, j) * x_planes.padded * padded + (i * kPlanes + j) * kSkew;
  }

  void multiply() {
    unrolled<kPlanes>([&]<int i> {
      unrolled<kPlanes>([&]<int j> {
        const int64_t rows = kMap.slots(i, j) * x_planes.padded;
        const auto [first, count] = tiles.with(i == kPlanes - 1, j == kPlanes - 1);
        gemm<true>(rows, padded, count, {x_planes.template plane<i, j>(v) + first * rows, rows},
                   {a + (i * kPlanes + j) * plane_size + first * row, row}, products<i, j>(), padded, true);
      });
    });
  }

  // What the products of a pair of residues, in[row point][column point], add to the taps of these residues.
  template <int row_residue, int column_residue, int x, int y>
  static SDGAN_INLINE Vector tap(const Vector (&in)[kMaxPoints][kMaxPoints]) {
    constexpr auto code = [](int v, int t) {
      Row r;
      for (int i = 0; i < kMap.points[v]; ++i) r.c[i] = S::filtering(v).filter[i].c[t];
      return r.code();
    };
    Vector column[kMaxPoints];
    unrolled<kMap.points[column_residue]>([&]<int j> {
      Vector t[kMaxPoints];
      unrolled<kMap.points[row_residue]>([&]<int i> {
        constexpr bool halved = S::filtering(row_residue).halved[i] != S::filtering(column_residue).halved[j];
        constexpr bool quartered = S::filtering(row_residue).halved[i] && S::filtering(column_residue).halved[j];
        t[i] = halved ? 0.5f * in[i][j] : quartered ? 0.25f * in[i][j] : in[i][j];
      });
      column[j] = combine<code(row_residue, x)>(t);
    });
    return combine<code(column_residue, y)>(column);
  }

  // The taps of channel d of the block and a vector of channels of y.
  SDGAN_INLINE void gradient(int64_t d, int64_t c, Vector* out) const {
    unrolled<S::stride>([&]<int row_residue> {
      unrolled<S::stride>([&]<int column_residue> {
        Vector in[kMaxPoints][kMaxPoints];
        unrolled<kMap.points[row_residue]>([&]<int i> {
          unrolled<kMap.points[column_residue]>([&]<int j> {
            constexpr int row_plane = kMap.plane[row_residue][i], column_plane = kMap.plane[column_residue][j];
            constexpr int slot = kMap.slot(row_plane, column_plane, row_residue, column_residue);
            in[i][j] = load(products<row_plane, column_plane>() + (slot * x_planes.padded + d) * padded + c);
          });
        });
        unrolled<S::residue_taps(row_residue)>([&]<int x> {
          unrolled<S::residue_taps(column_residue)>([&]<int y> {
            constexpr int r = S::stride * x + row_residue, s = S::stride * y + column_residue;
            out[r * S::taps + s] = tap<row_residue, column_residue, x, y>(in);
          });
        });
      });
    });
  }

  void store_gradient() const {
    TapBlock<S::taps> taps;
    taps.k_step = p.weight_stride[1];
    taps.lane_step = p.weight_stride[0];
    taps.row = p.weight_stride[2];
    taps.column = p.weight_stride[3];
    for (int64_t first = 0; first < x_planes.channels; first += kLane) {
      const int64_t some = std::min<int64_t>(kLane, x_planes.channels - first);
      for_channels(channels, [&](int64_t c, int count) {
        for (int64_t k = 0; k < some; ++k) gradient(first + k, c, taps.block[k]);
        taps.store_to(
            p.grad_weight + (first_channel + c) * taps.lane_step + (x_planes.first_channel + first) * taps.k_step,
            static_cast<int>(some), count);
      });
    }
  }

  void run() {
    std::fill_n(z, z_size, 0.f);
    for (int64_t begin = 0; begin < p.tile_count(); begin += p.block) {
      tiles.fill(begin);
      for (int64_t t = 0; t < tiles.count(); ++t) {
        x_planes.transform(tiles[t], t, v);
        transform_y(tiles[t], a + t * row);
      }
      multiply();
    }
    store_gradient();
  }
};

}  // namespace

void winograd_wgrad(const WinogradParams& p, int64_t slice_begin, int64_t slice_end) {
  with_scheme(p, [&](auto scheme) {
    const int64_t y_blocks = (p.geometry.y_channels + p.y_block - 1) / p.y_block;
    for (int64_t slice = slice_begin; slice < slice_end; ++slice) {
      const int64_t c = slice % y_blocks * p.y_block, d = slice / y_blocks * p.x_block;
      Wgrad<decltype(scheme)>(p, c, std::min(p.y_block, p.geometry.y_channels - c), d,
                              std::min(p.x_block, p.geometry.x_channels - d))
          .run();
    }
  });
}

}  // namespace sdgan::SDGAN_ISA
