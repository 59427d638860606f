// F(4 x 4, 3 x 3): tiles of 4 x 4 written pixels, for 3x3 taps of stride 1 (Winograd 1980; Lavin and Gray 2016). One
// axis; the other is alike. Four neighbouring outputs of a correlation, out[i] = sum over j of g[j] d[i + j], are made
// of products of sums of d with sums of g. Derivation and errors: docs/winograd.md.
#pragma once

#include "kernels/conv/winograd/tiles.h"

namespace sdgan::SDGAN_ISA {
namespace {

// Six products (Toom-Cook) at the points 0, a, -a, b, -b and infinity. 2/3 and 3/2 leave the least error of those
// tried, half of that of the usual points, 1 and 2.
struct Correlation {
  static constexpr int window = 6;                 // positions of d
  static constexpr int planes = 6;                 // sums of d
  static constexpr int products = 6;               // the last one serves the last output alone
  static constexpr int plane(int i) { return i; }  // that product i multiplies

  static constexpr double kA = 2. / 3, kB = 1 / kA;
  static constexpr float a = kA, b = kB, aa = kA * kA, bb = kB * kB, aaa = kA * kA * kA, bbb = kB * kB * kB;
  static constexpr float both = kA * kA + kB * kB;

  // The first position of the read image for outputs from `position` on.
  static int64_t first(int64_t position, int64_t pad) { return position - pad; }
  static SDGAN_INLINE void data(const Vector* d, Vector* v) {
    const Vector even_a = d[4] - bb * d[2], odd_a = d[3] - bb * d[1];
    const Vector even_b = d[4] - aa * d[2], odd_b = d[3] - aa * d[1];
    v[0] = (d[0] + d[4]) - both * d[2];
    v[1] = even_a + a * odd_a;
    v[2] = even_a - a * odd_a;
    v[3] = even_b + b * odd_b;
    v[4] = even_b - b * odd_b;
    v[5] = (d[1] + d[5]) - both * d[3];
  }
  static SDGAN_INLINE void filter(const Vector* g, Vector* u) {
    constexpr double at_a = 2 * kA * kA * (kA * kA - kB * kB), at_b = 2 * kB * kB * (kB * kB - kA * kA);
    constexpr float a0 = 1 / at_a, a1 = kA / at_a, a2 = kA * kA / at_a;
    constexpr float b0 = 1 / at_b, b1 = kB / at_b, b2 = kB * kB / at_b;
    const Vector even_a = a0 * g[0] + a2 * g[2], even_b = b0 * g[0] + b2 * g[2];
    u[0] = g[0];
    u[1] = even_a + a1 * g[1];
    u[2] = even_a - a1 * g[1];
    u[3] = even_b + b1 * g[1];
    u[4] = even_b - b1 * g[1];
    u[5] = g[2];
  }
  static SDGAN_INLINE void output(const Vector* m, Vector* y) {
    const Vector even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + (even_a + even_b);
    y[1] = a * odd_a + b * odd_b;
    y[2] = aa * even_a + bb * even_b;
    y[3] = (aaa * odd_a + bbb * odd_b) + m[5];
  }
};

// The same of an image upsampled by 2, d = x0 x1 x1 x2 x2 x3, where five products are enough, with sums of 0, 1 and -1
// alone: the points are 0, 1, infinity, and i and -i, whose products are real because -1 gives none.
//
//   out[0] = g0 x0 + (g1 + g2) x1    out[1] = (g0 + g1) x1 + g2 x2
//   out[2] = g0 x1 + (g1 + g2) x2    out[3] = (g0 + g1) x2 + g2 x3
struct UpsampledCorrelation {
  static constexpr int window = 4, planes = 4, products = 5;
  static constexpr int plane(int i) { return i < 3 ? i : i - 1; }  // x2 - x1 meets two sums of g

  static int64_t first(int64_t position, int64_t pad) { return (position - pad - 1) / 2; }  // pad is 1
  static SDGAN_INLINE void data(const Vector* x, Vector* v) {
    v[0] = x[0] - x[2];
    v[1] = x[1] + x[2];
    v[2] = x[2] - x[1];
    v[3] = x[3] - x[1];
  }
  static SDGAN_INLINE void filter(const Vector* g, Vector* u) {
    u[0] = g[0];
    u[1] = 0.5f * (g[0] + g[1] + g[2]);
    u[2] = 0.5f * (g[0] - g[1] - g[2]);
    u[3] = 0.5f * (g[2] - g[1] - g[0]);
    u[4] = g[2];
  }
  static SDGAN_INLINE void output(const Vector* m, Vector* y) {
    y[0] = m[1] + (m[0] + m[2]);
    y[1] = m[1] + m[3];
    y[2] = m[1] - m[2];
    y[3] = m[1] + (m[4] - m[3]);
  }
};

}  // namespace
}  // namespace sdgan::SDGAN_ISA
