// F(4 x 4, 3 x 3), fprop and dgrad of stride 1, which are the same correlation but for the side that is read and the
// order of the taps. A block of tiles stays in the cache:
//
//   pixels read -> planes V [plane][tile][read] -> products M [product][tile][written] = V U -> pixels written
//
// Bytes of memory: both images once, the filter once a block. 36 products for 16 pixels in place of 144, or 25 for
// those of an upsampled image.
#include "kernels/conv/winograd/f43.h"

#include "kernels/conv/winograd/tap_block.h"

namespace sdgan::SDGAN_ISA {
namespace {

constexpr int kTile = 4;

template <class Body>
SDGAN_INLINE void with_correlation(const WinogradParams& p, Body body) {
  if (p.upsampled) return body(UpsampledCorrelation{});
  body(Correlation{});
}

// A side of the convolution as a pass reads or writes it.
struct Side {
  int64_t rows, columns, channels, padded;
};
Side side_of(const WinogradParams& p, bool x) {
  const ConvGeometry& g = p.geometry;
  if (!x) return {g.vertical.y, g.horizontal.y, g.y_channels, p.padded_y()};
  const int64_t scale = p.upsampled ? 2 : 1;
  return {g.vertical.x / scale, g.horizontal.x / scale, g.x_channels, p.padded_x()};
}

// The weight for gemm.h: for each pair of products [k][written], k over the channels that are read.
template <class C>
void transform_filter(const WinogradParams& p, int64_t begin, int64_t end) {
  const bool dgrad = p.pass == Pass::dgrad;
  const int64_t depth = side_of(p, !dgrad).channels, padded = side_of(p, dgrad).padded;
  for_taps<3>(p, begin, std::min(end, depth), [&](const Vector* w, int64_t k, int64_t c) {
    Vector columns[C::products][3];
    for (int s = 0; s < 3; ++s) {
      Vector g[3], u[C::products];
      for (int r = 0; r < 3; ++r) g[r] = w[dgrad ? 8 - 3 * r - s : 3 * r + s];
      C::filter(g, u);
      for (int i = 0; i < C::products; ++i) columns[i][s] = u[i];
    }
    float* out = p.filter + packed_place(depth, padded, k, c);
    for (int i = 0; i < C::products; ++i) {
      Vector u[C::products];
      C::filter(columns[i], u);
      for (int j = 0; j < C::products; ++j) store(out + (i * C::products + j) * depth * padded, u[j]);
    }
  });
}

template <class C>
struct F43 {
  static constexpr int kWindow = C::window, kPlanes = C::planes, kProducts = C::products;

  const WinogradParams& p;
  const bool dgrad = p.pass == Pass::dgrad;
  const Side read_side = side_of(p, !dgrad), written = side_of(p, dgrad);
  const float* const image = dgrad ? p.y_in : p.x_in;
  float* const result = dgrad ? p.x_out : p.y_out;
  const int64_t pad_top = dgrad ? 2 - p.geometry.vertical.pad : p.geometry.vertical.pad;
  const int64_t pad_left = dgrad ? 2 - p.geometry.horizontal.pad : p.geometry.horizontal.pad;
  const int64_t v_plane = p.block * read_side.padded + kSkew, m_plane = p.block * written.padded + kSkew;
  const Buffer<float> zeros;
  float* const v;
  float* const m;
  Tiles tiles;

  explicit F43(const WinogradParams& params)
      : p(params),
        zeros(std::max(read_side.padded, written.padded)),
        v(workspace(Workspace::planes, kPlanes * kPlanes * v_plane + kProducts * kProducts * m_plane)),
        m(v + kPlanes * kPlanes * v_plane),
        tiles(params) {}

  void transform_input(const Tile& tile, float* out) {
    const float* at[kWindow][kWindow];
    const float* from = image + tile.image * read_side.rows * read_side.columns * read_side.channels;
    const int64_t row = C::first(tile.row, pad_top), column = C::first(tile.column, pad_left);
    for (int i = 0; i < kWindow; ++i) {
      for (int j = 0; j < kWindow; ++j) {
        at[i][j] =
            pixel(from, row + i, column + j, read_side.rows, read_side.columns, read_side.channels, zeros.data());
      }
    }
    for_channels(read_side.channels, [&](int64_t c, int count) SDGAN_INLINED {
      Vector rows[kPlanes][kWindow];
      unrolled<kWindow>([&]<int j> {
        Vector d[kWindow], q[kPlanes];
        unrolled<kWindow>([&]<int i> { d[i] = read<float>(at[i][j], c, count); });
        C::data(d, q);
        unrolled<kPlanes>([&]<int a> { rows[a][j] = q[a]; });
      });
      unrolled<kPlanes>([&]<int a> {
        Vector q[kPlanes];
        C::data(rows[a], q);
        unrolled<kPlanes>([&]<int b> { store(out + (a * kPlanes + b) * v_plane + c, q[b]); });
      });
    });
  }

  void multiply() {
    for (int i = 0; i < kProducts; ++i) {
      for (int j = 0; j < kProducts; ++j) {
        const auto [first, count] = tiles.with(i == kProducts - 1, j == kProducts - 1);
        const int product = i * kProducts + j, plane = C::plane(i) * kPlanes + C::plane(j);
        gemm<false>(count, written.padded, read_side.channels,
                    {v + plane * v_plane + first * read_side.padded, read_side.padded},
                    {p.filter + product * read_side.channels * written.padded, 0},
                    m + product * m_plane + first * written.padded, written.padded, false);
      }
    }
  }

  template <Activation activation>
  void transform_output(const Tile& tile, const float* in) {
    const int64_t right = written.channels, down = written.columns * right;
    const int64_t offset = (tile.image * written.rows + tile.row) * down + tile.column * right;
    const int64_t rows = std::min<int64_t>(kTile, written.rows - tile.row);
    const int64_t columns = std::min<int64_t>(kTile, written.columns - tile.column);
    const float* bias = p.bias ? p.bias : zeros.data();
    for_channels(written.channels, [&](int64_t c, int count) SDGAN_INLINED {
      Vector half[kTile][kProducts];
      unrolled<kProducts>([&]<int j> {
        Vector t[kProducts], y[kTile];
        unrolled<kProducts>([&]<int i> { t[i] = load(in + (i * kProducts + j) * m_plane + c); });
        C::output(t, y);
        unrolled<kTile>([&]<int i> { half[i][j] = y[i]; });
      });
      const Vector shift = read<float>(bias, c, count);
      const Epilogue<activation> put{p, result + offset + c, count};
      unrolled<kTile>([&]<int i> {
        if (i >= rows) return;
        Vector y[kTile];
        C::output(half[i], y);
        unrolled<kTile>([&]<int j> {
          if (j < columns) put(i * down + j * right, y[j] + shift);
        });
      });
    });
    if constexpr (activation == Activation::none) {
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) activate_pixel(p, result, offset + i * down + j * right, right);
      }
    }
  }

  void block(int64_t index) {
    tiles.fill(index * p.block);
    for (int64_t t = 0; t < tiles.count(); ++t) transform_input(tiles[t], v + t * read_side.padded);
    multiply();
    with_epilogue(p, [&](auto activation) {
      for (int64_t t = 0; t < tiles.count(); ++t) transform_output<activation>(tiles[t], m + t * written.padded);
    });
  }
};

}  // namespace

void winograd_f43_filter(const WinogradParams& p, int64_t slice_begin, int64_t slice_end) {
  with_correlation(
      p, [&](auto correlation) { transform_filter<decltype(correlation)>(p, 16 * slice_begin, 16 * slice_end); });
}

void winograd_f43(const WinogradParams& p, int64_t slice_begin, int64_t slice_end) {
  with_correlation(p, [&](auto correlation) {
    F43<decltype(correlation)> work(p);
    for (int64_t index = slice_begin; index < slice_end; ++index) work.block(index);
  });
}

}  // namespace sdgan::SDGAN_ISA
