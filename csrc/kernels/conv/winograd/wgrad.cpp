// dw[k] = sum X[m] Y[o]. The filter is one of the three factors of a bilinear form, so its gradient takes as many
// products: with V the planes of the fine side (those of to_coarse) and A those of the coarse side (the transform of the
// outputs, transposed),
//
//   Z [plane][slots * D][C] = sum over tiles of V [tile][slots * D] A [tile][C],   dw = Z through the filter's transform
//
// A slice owns the dw of a block of channels of both sides, so that its Z stays in the cache while all tiles go by. An
// element adds the tiles in order, in blocks: the bits depend on nothing but the size of such a block.
#include "kernels/conv/winograd/x_planes.h"
#include "kernels/conv/winograd/tap_block.h"

namespace sdgan::SDGAN_ISA {
namespace {

template <class S>
struct Wgrad {
  static constexpr PlaneMap kMap = S::to_coarse;
  static constexpr int kPlanes = kMap.planes;

  const WinogradParams& p;
  const int64_t first_channel, channels, padded = WinogradParams::pad(channels);  // of the coarse side
  const int64_t row = padded + kSkew;                                            // floats between tiles of A
  const int64_t plane_size = p.block * row + kSkew;                              // of A
  FinePlanes<S> fine;
  const int64_t a_size = kPlanes * kPlanes * plane_size;
  const int64_t z_size = kMap.products() * fine.padded * padded + kPlanes * kPlanes * kSkew;
  const Buffer<float> zeros;
  float* const v;
  float* const a;
  float* const z;
  Tiles tiles;

  Wgrad(const WinogradParams& params, int64_t coarse_first, int64_t coarse_count, int64_t fine_first,
        int64_t fine_count)
      : p(params), first_channel(coarse_first), channels(coarse_count), fine(params, p.block, fine_first, fine_count),
        zeros(padded), v(workspace(Workspace::planes, fine.size() + a_size + z_size)), a(v + fine.size()), z(a + a_size),
        tiles(params) {}

  void transform_coarse(const Tile& tile, float* out) const {
    const int64_t height = p.vertical.coarse, width = p.horizontal.coarse;
    const float* image = p.coarse_in + tile.image * height * width * p.coarse_channels + first_channel;
    const float* at[2][2];
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) {
        at[i][j] = pixel(image, tile.row + i, tile.column + j, height, width, p.coarse_channels, zeros.data());
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
        unrolled<kPlanes>([&]<int j> {
          store(out + (i * kPlanes + j) * plane_size + c, combine<kOutput[S::point(j)].code()>(q));
        });
      });
    });
  }

  // Z of a plane. Between planes a skew, as in FinePlanes.
  template <int i, int j>
  float* products() const {
    return z + kMap.first(i, j) * fine.padded * padded + (i * kPlanes + j) * kSkew;
  }

  void multiply() {
    unrolled<kPlanes>([&]<int i> {
      unrolled<kPlanes>([&]<int j> {
        const int64_t rows = kMap.slots(i, j) * fine.padded;
        const auto [first, count] = tiles.with(i == kPlanes - 1, j == kPlanes - 1);
        gemm<true>(rows, padded, count, {fine.template plane<i, j>(v) + first * rows, rows},
                   {a + (i * kPlanes + j) * plane_size + first * row, row}, products<i, j>(), padded, true);
      });
    });
  }

  // What the products of a pair of phases, in[row point][column point], add to the taps of these phases.
  template <int row_phase, int column_phase, int x, int y>
  static SDGAN_INLINE Vector tap(const Vector (&in)[kMaxPoints][kMaxPoints]) {
    constexpr auto code = [](int phase, int t) {
      Row r;
      for (int i = 0; i < kMap.points[phase]; ++i) r.c[i] = S::filtering(phase).filter[i].c[t];
      return r.code();
    };
    Vector column[kMaxPoints];
    unrolled<kMap.points[column_phase]>([&]<int j> {
      Vector t[kMaxPoints];
      unrolled<kMap.points[row_phase]>([&]<int i> {
        constexpr bool halved = S::filtering(row_phase).halved[i] != S::filtering(column_phase).halved[j];
        constexpr bool quartered = S::filtering(row_phase).halved[i] && S::filtering(column_phase).halved[j];
        t[i] = halved ? 0.5f * in[i][j] : quartered ? 0.25f * in[i][j] : in[i][j];
      });
      column[j] = combine<code(row_phase, x)>(t);
    });
    return combine<code(column_phase, y)>(column);
  }

  // The taps of channel d of the block and a vector of coarse channels.
  SDGAN_INLINE void gradient(int64_t d, int64_t c, Vector* out) const {
    unrolled<S::stride>([&]<int row_phase> {
      unrolled<S::stride>([&]<int column_phase> {
        Vector in[kMaxPoints][kMaxPoints];
        unrolled<kMap.points[row_phase]>([&]<int i> {
          unrolled<kMap.points[column_phase]>([&]<int j> {
            constexpr int a = kMap.plane[row_phase][i], b = kMap.plane[column_phase][j];
            constexpr int slot = kMap.slot(a, b, row_phase, column_phase);
            in[i][j] = load(products<a, b>() + (slot * fine.padded + d) * padded + c);
          });
        });
        unrolled<S::phase_taps(row_phase)>([&]<int x> {
          unrolled<S::phase_taps(column_phase)>([&]<int y> {
            constexpr int r = S::stride * x + row_phase, s = S::stride * y + column_phase;
            out[r * S::taps + s] = tap<row_phase, column_phase, x, y>(in);
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
    for (int64_t first = 0; first < fine.channels; first += kLane) {
      const int64_t some = std::min<int64_t>(kLane, fine.channels - first);
      for_channels(channels, [&](int64_t c, int count) {
        for (int64_t k = 0; k < some; ++k) gradient(first + k, c, taps.block[k]);
        taps.store_to(p.grad_weight + (first_channel + c) * taps.lane_step + (fine.first_channel + first) * taps.k_step,
                      static_cast<int>(some), count);
      });
    }
  }

  void run() {
    std::fill_n(z, z_size, 0.f);
    for (int64_t begin = 0; begin < p.tile_count(); begin += p.block) {
      tiles.fill(begin);
      for (int64_t t = 0; t < tiles.count(); ++t) {
        fine.transform(tiles[t], t, v);
        transform_coarse(tiles[t], a + t * row);
      }
      multiply();
    }
    store_gradient();
  }
};

}  // namespace

void winograd_wgrad(const WinogradParams& p, int64_t slice_begin, int64_t slice_end) {
  with_scheme(p, [&](auto scheme) {
    const int64_t coarse_blocks = (p.coarse_channels + p.coarse_block - 1) / p.coarse_block;
    for (int64_t slice = slice_begin; slice < slice_end; ++slice) {
      const int64_t c = slice % coarse_blocks * p.coarse_block, d = slice / coarse_blocks * p.fine_block;
      Wgrad<decltype(scheme)>(p, c, std::min(p.coarse_block, p.coarse_channels - c), d,
                              std::min(p.fine_block, p.fine_channels - d))
          .run();
    }
  });
}

}  // namespace sdgan::SDGAN_ISA
