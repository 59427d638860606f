// geometry.h against the definition: every pair of positions and every tap, one by one.
#include "kernels/conv/geometry.h"

#include "tests/check.h"

namespace sdgan::SDGAN_ISA {

void test_conv_geometry();

namespace {

// Whether written position `at` is one of the residue's, and then its place among them.
int place_in(const Residue& r, int64_t at) {
  const int64_t behind = at - r.first;
  if (behind < 0 || behind % r.step != 0 || behind / r.step >= r.count) return -1;
  return static_cast<int>(behind / r.step);
}

// Whether the residue's place n meets `tap` at `read`.
bool meets(const Residue& r, int n, int64_t tap, int64_t read) {
  for (int k = 0; k < r.taps; ++k) {
    if (r.tap_first + k * r.tap_step == tap) return r.read_first + n * r.read_step + k * r.read_tap == read;
  }
  return false;
}

void test_axis(const ConvAxis& a, Pass pass) {
  const int64_t written = pass == Pass::dgrad ? a.x : a.y, read = pass == Pass::dgrad ? a.y : a.x;
  for (int64_t w = 0; w < written; ++w) {
    int owners = 0;
    for (int64_t v = 0; v < residue_count(a, pass); ++v) {
      const Residue r = residue(a, pass, v);
      const int n = place_in(r, w);
      if (n < 0) continue;
      ++owners;
      for (int64_t o = 0; o < read; ++o) {
        for (int64_t t = 0; t < a.taps; ++t) {
          const int64_t x = pass == Pass::dgrad ? w : o, y = pass == Pass::dgrad ? o : w;
          EXPECT(meets(r, n, t, o) == (x == y * a.stride + t * a.dilation - a.pad));
        }
      }
    }
    EXPECT(owners == 1);
  }
}

void test_order(const ConvAxis& a) {
  bool seen[8] = {};
  int64_t before = a.taps;
  for (int64_t rank = 0; rank < a.stride; ++rank) {
    const int64_t v = residue_by_taps(a, rank);
    EXPECT(v >= 0 && v < a.stride && !seen[v]);
    seen[v] = true;
    const int taps = residue(a, Pass::dgrad, v).taps;
    EXPECT(taps <= before);
    before = taps;
  }
}

void test_counts() {
  ConvGeometry g;
  g.vertical = {8, 4, 3, 2, 1, 1};
  g.horizontal = {10, 5, 2, 2, 1, 0};
  g.batch = 3;
  g.x_channels = 6;
  g.y_channels = 4;
  g.groups = 2;
  EXPECT(g.x_pixels() == 3 * 8 * 10 && g.y_pixels() == 3 * 4 * 5 && g.taps() == 6);
  EXPECT(g.multiplications() == 3 * 4 * 5 * 6 * 4 * 3);
}

}  // namespace

void test_conv_geometry() {
  for (int64_t stride = 1; stride <= 6; ++stride) {
    for (int64_t dilation = 1; dilation <= 4; ++dilation) {
      for (int64_t taps = 1; taps <= 5; ++taps) {
        for (int64_t pad : {-2, 0, 1, 4}) {
          for (int64_t y = 1; y <= 4; ++y) {
            const int64_t reach = (y - 1) * stride + (taps - 1) * dilation + 1;
            for (int64_t behind : {int64_t{0}, stride - 1}) {
              const ConvAxis a{reach - pad + behind, y, taps, stride, dilation, pad};
              if (a.x < 1) continue;
              test_axis(a, Pass::fprop);
              test_axis(a, Pass::dgrad);
              test_order(a);
            }
          }
        }
      }
    }
  }
  test_counts();
}

}  // namespace sdgan::SDGAN_ISA
