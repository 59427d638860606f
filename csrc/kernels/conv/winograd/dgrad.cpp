// x[i] = sum w[t] y[o]: the transposed convolution. A block of tiles stays in the cache:
//
//   pixels of y -> planes V [plane][tile][Cy] -> products M [plane][tile][slots * Cx] = V U -> pixels of x
//
// Bytes of memory: x and y once, the filter once a block. 4 x 4 taps: 36 products a tile in place of 64; 5 x 5: 49 in
// place of 100; 3 x 3: 25 in place of 36; 3 x 3 of stride 1: 16 in place of 36.
#include "kernels/conv/winograd/tiles.h"

namespace sdgan::SDGAN_ISA {
namespace {

template <class S>
struct Dgrad {
  static constexpr auto kPlanes = S::dgrad;
  static constexpr PlaneMap kMap = kPlanes.map;
  static constexpr int kWindow = S::window();

  const WinogradParams& p;
  const int64_t channels = p.geometry.y_channels, x_channels = p.geometry.x_channels, padded = p.padded_x();
  const int64_t left_stride = p.padded_y();
  const int64_t plane_size = p.block * left_stride + kSkew;  // of V
  const int64_t v_size = kMap.planes * kMap.planes * plane_size;
  const int64_t m_size = kMap.products() * p.block * padded + kMap.planes * kMap.planes * kSkew;
  const Buffer<float> zeros;
  float* const v;
  float* const m;
  Tiles tiles;

  explicit Dgrad(const WinogradParams& params)
      : p(params),
        zeros(std::max(left_stride, padded)),
        v(workspace(Workspace::planes, v_size + m_size)),
        m(v + v_size),
        tiles(params) {}

  // M of plane (a, b), a tile's row of which is slots * padded long.
  template <int a, int b>
  float* products() {
    return m + kMap.first(a, b) * p.block * padded + (a * kMap.planes + b) * kSkew;
  }

  void transform_input(const Tile& tile, float* out) {
    const float* at[kWindow][kWindow];
    const float* image = p.y_in + tile.image * p.geometry.vertical.y * p.geometry.horizontal.y * channels;
    const int64_t row = tile.row + p.geometry.vertical.pad / S::stride + S::first_reach();
    const int64_t column = tile.column + p.geometry.horizontal.pad / S::stride + S::first_reach();
    for (int i = 0; i < kWindow; ++i) {
      for (int j = 0; j < kWindow; ++j) {
        at[i][j] =
            pixel(image, row + i, column + j, p.geometry.vertical.y, p.geometry.horizontal.y, channels, zeros.data());
      }
    }
    for_channels(channels, [&](int64_t c, int count) {
      Vector d[kMaxWindow][kMaxWindow];
#pragma GCC unroll 4
      for (int i = 0; i < kWindow; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kWindow; ++j) d[i][j] = read<float>(at[i][j], c, count);
      }
      unrolled<kMap.planes>([&]<int a> {
        Vector q[kMaxWindow];
#pragma GCC unroll 4
        for (int j = 0; j < kWindow; ++j) q[j] = combine<kPlanes.data[a].code(), kMaxWindow>(&d[0][j]);
        unrolled<kMap.planes>(
            [&]<int b> { store(out + (a * kMap.planes + b) * plane_size + c, combine<kPlanes.data[b].code()>(q)); });
      });
    });
  }

  // Whether a plane serves no more than second rows, or columns, of the residues.
  static constexpr bool only_second(int a) {
    for (int v = 0; v < S::stride; ++v) {
      const int i = kMap.find(v, a);
      if (i >= 0 && S::filtering(v).point[i] != 3) return false;
    }
    return true;
  }

  void multiply() {
    unrolled<kMap.planes>([&]<int a> {
      unrolled<kMap.planes>([&]<int b> {
        const int64_t width = kMap.slots(a, b) * padded;
        const auto [first, count] = tiles.with(only_second(a), only_second(b));
        gemm<false>(count, width, channels, {v + (a * kMap.planes + b) * plane_size + first * left_stride, left_stride},
                    {p.filter + kMap.first(a, b) * channels * padded, 0}, products<a, b>() + first * width, width,
                    false);
      });
    });
  }

  // The pixels of x of a pair of residues: two rows and two columns of the tile.
  template <int row_residue, int column_residue, Activation activation>
  void transform_output(const Tile& tile, int64_t index) {
    constexpr int rows = kMap.points[row_residue], columns = kMap.points[column_residue];
    const float* at[rows][columns];
    unrolled<rows>([&]<int i> {
      unrolled<columns>([&]<int j> {
        constexpr int a = kMap.plane[row_residue][i], b = kMap.plane[column_residue][j];
        at[i][j] =
            products<a, b>() + (index * kMap.slots(a, b) + kMap.slot(a, b, row_residue, column_residue)) * padded;
      });
    });
    const float* bias = p.bias ? p.bias : zeros.data();
    const int64_t row = S::stride * tile.row + S::place(row_residue);
    const int64_t column = S::stride * tile.column + S::place(column_residue);
    const int64_t height = p.geometry.vertical.x, width = p.geometry.horizontal.x;
    const int64_t offset = ((tile.image * height + row) * width + column) * x_channels;
    const int64_t down = S::stride * width * x_channels, right = S::stride * x_channels;
    const bool second_row = row + S::stride < height, second_column = column + S::stride < width;
    if (row >= height || column >= width) return;
    for_channels(x_channels, [&](int64_t c, int count) {
      Vector upper[columns], lower[columns];
      unrolled<columns>([&]<int j> {
        Vector t[rows];
#pragma GCC unroll 4
        for (int i = 0; i < rows; ++i) t[i] = load(at[i][j] + c);
        upper[j] = output<row_residue, 0>(t);
        lower[j] = output<row_residue, 1>(t);
      });
      const Vector b = read<float>(bias, c, count);
      const Epilogue<activation> put{p, p.x_out + offset + c, count};
      put(0, output<column_residue, 0>(upper) + b);
      if (second_column) put(right, output<column_residue, 1>(upper) + b);
      if (second_row) put(down, output<column_residue, 0>(lower) + b);
      if (second_row && second_column) put(down + right, output<column_residue, 1>(lower) + b);
    });
    if constexpr (activation == Activation::none) {
      activate_pixels(p, p.x_out, offset, right, down, second_column, second_row, x_channels);
    }
  }

  // Output `which` of the products of a residue.
  template <int v, int which>
  static SDGAN_INLINE Vector output(const Vector* t) {
    constexpr Row row = [] {
      Row r;
      for (int i = 0; i < kMap.points[v]; ++i) r.c[i] = kOutput[S::filtering(v).point[i]].c[which];
      return r;
    }();
    return combine<row.code()>(t);
  }

  void block(int64_t index) {
    tiles.fill(index * p.block);
    for (int64_t t = 0; t < tiles.count(); ++t) transform_input(tiles[t], v + t * left_stride);
    multiply();
    with_epilogue(p, [&](auto activation) {
      for (int64_t t = 0; t < tiles.count(); ++t) {
        unrolled<S::stride>([&]<int row_residue> {
          unrolled<S::stride>(
              [&]<int column_residue> { transform_output<row_residue, column_residue, activation>(tiles[t], t); });
        });
      }
    });
  }
};

}  // namespace

void winograd_dgrad(const WinogradParams& p, int64_t slice_begin, int64_t slice_end) {
  with_scheme(p, [&](auto scheme) {
    Dgrad<decltype(scheme)> work(p);
    for (int64_t index = slice_begin; index < slice_end; ++index) work.block(index);
  });
}

}  // namespace sdgan::SDGAN_ISA
