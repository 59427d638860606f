// The weight in the transform's domain, packed for gemm.h: for each plane [k][slots * side written], k over the side
// that is read. One slice is 16 channels of the side whose channels the vectors run over, the written side.
#include "kernels/conv/winograd/tap_block.h"

namespace sdgan::SDGAN_ISA {
namespace {

// The product (row point, column point) of a pair of residues, from taps that are already those of the residues.
template <int row_taps, int column_taps, int i, int j>
SDGAN_INLINE Vector filter_product(const Vector (&g)[3][3]) {
  Vector column[3];
#pragma GCC unroll 3
  for (int x = 0; x < column_taps; ++x) {
    column[x] = combine<kFiltering[row_taps].filter[i].code(), 3>(&g[0][x]);
    if constexpr (kFiltering[row_taps].halved[i]) column[x] *= 0.5f;
  }
  Vector out = combine<kFiltering[column_taps].filter[j].code()>(column);
  if constexpr (kFiltering[column_taps].halved[j]) out *= 0.5f;
  return out;
}

// Calls put(plane row, plane column, slot, value) for every product of one channel pair (a vector of them).
template <class S, bool dgrad, class Put>
SDGAN_INLINE void filter_products(const Vector* w, Put put) {
  constexpr PlaneMap map = dgrad ? S::dgrad.map : S::fprop;
  unrolled<S::stride>([&]<int p> {
    unrolled<S::stride>([&]<int q> {
      constexpr int rows = S::residue_taps(p), columns = S::residue_taps(q);
      Vector g[3][3];
      unrolled<rows>([&]<int x> {
        unrolled<columns>([&]<int y> {
          constexpr int r = S::stride * (dgrad ? rows - 1 - x : x) + p;
          constexpr int s = S::stride * (dgrad ? columns - 1 - y : y) + q;
          g[x][y] = w[r * S::taps + s];
        });
      });
      unrolled<map.points[p]>([&]<int i> {
        unrolled<map.points[q]>([&]<int j> {
          constexpr int a = map.plane[p][i], b = map.plane[q][j];
          const Vector u = filter_product<rows, columns, i, j>(g);
          constexpr bool negative = dgrad && S::dgrad.sign[p][i] * S::dgrad.sign[q][j] < 0;
          put.template operator()<a, b, map.slot(a, b, p, q)>(negative ? -u : u);
        });
      });
    });
  });
}

template <class S, bool dgrad>
void transform(const WinogradParams& p, int64_t begin, int64_t end) {  // read channels, the padding's with them
  constexpr PlaneMap map = dgrad ? S::dgrad.map : S::fprop;
  const int64_t read_channels = p.geometry.y_channels;  // of dgrad
  const int64_t padded = dgrad ? p.padded_x() : p.padded_y(), depth = p.padded_x();
  for_taps<S::taps>(p, begin, end, [&](const Vector* w, int64_t k, int64_t c) {
    filter_products<S, dgrad>(w, [&]<int a, int b, int slot>(Vector u) {
      // dgrad: slots lie side by side in the columns; fprop: one after another along k.
      const int64_t slots = map.slots(a, b), n = dgrad ? slots * padded : padded;
      const int64_t rows = dgrad ? read_channels : slots * depth;
      const int64_t column = dgrad ? slot * padded + c : c, row = dgrad ? k : slot * depth + k;
      float* plane = p.filter + map.first(a, b) * (dgrad ? read_channels : depth) * padded;
      store(plane + packed_place(rows, n, row, column), u);
    });
  });
}

}  // namespace

void winograd_filter(const WinogradParams& p, int64_t slice_begin, int64_t slice_end) {
  with_scheme(p, [&](auto scheme) {
    if (p.pass == Pass::dgrad) {
      transform<decltype(scheme), true>(p, 16 * slice_begin, std::min(16 * slice_end, p.geometry.y_channels));
    } else {
      transform<decltype(scheme), false>(p, 16 * slice_begin, 16 * slice_end);
    }
  });
}

}  // namespace sdgan::SDGAN_ISA
