// The algorithms of winograd.h as data. All of it is known at compile time; the transforms unroll it.
//
// One axis. Position i of x and o of y meet in tap t when i = stride * o + t - pad. With t = stride * j + v, the
// positions of x that have the residue v, f[u] = x[stride * u + v - pad], and those of y are related by a convolution
// of stride 1 with the taps w[stride * j + v], which are 1 to 3:
//
//   fprop   y[o] = sum over v and j of w[stride j + v] f[o + j]
//   dgrad   f[u] = sum over j of w[stride j + v] y[u - j]
//
// Two neighbouring outputs of a correlation with J taps, out[i] = sum over j of g[j] d[i + j], take J + 1 products
// instead of 2 J (Toom-Cook at the points 0, 1, -1 and infinity):
//
//   point      data            filter               output 0, 1
//   0          d0 - d2         g0                   1, 0          J = 2: d0 - d1    J = 1: d0
//   1          d1 + d2         (g0 + g1 + g2) / 2   1, 1          d1, g0 + g1       (absent)
//   -1         d2 - d1         (g0 - g1 + g2) / 2   1, -1         (absent)          (absent)
//   infinity   d3 - d1         g2                   0, 1          d2 - d1, g1       d1, g0
//
// The output column is the same for every J, so fprop adds the products of all residues before it transforms back.
// In dgrad the residues read the same pixels, and planes that are equal up to sign are made once.
#pragma once

namespace sdgan::winograd {

constexpr int kMaxResidues = 2, kMaxPoints = 4, kMaxWindow = 4, kMaxPlanes = 6;

struct Row {  // coefficients of a sum: 0, 1, -1
  int c[kMaxWindow] = {};

  // As one integer, to be a template's argument: GCC 12 gives {0, 1} and {0, 0, 1} one name.
  constexpr int code() const {
    int digits = 0;
    for (int i = 0; i < kMaxWindow; ++i) digits |= (c[i] + 1) << 2 * i;
    return digits;
  }
};
constexpr int coefficient(int code, int i) { return (code >> 2 * i & 3) - 1; }
constexpr bool equal(Row a, Row b, int sign) {
  for (int i = 0; i < kMaxWindow; ++i) {
    if (a.c[i] != sign * b.c[i]) return false;
  }
  return true;
}

// F(2, J).
struct Filtering {
  int taps = 0;                  // J
  int points = 0;                // J + 1
  int point[kMaxPoints] = {};    // index into 0, 1, -1, infinity
  Row data[kMaxPoints] = {};     // of d
  Row filter[kMaxPoints] = {};   // of g
  bool halved[kMaxPoints] = {};  // the filter's sum counts half
};
constexpr Filtering kFiltering[4] = {
    {},
    {1, 2, {0, 3}, {{{1}}, {{0, 1}}}, {{{1}}, {{1}}}, {}},
    {2, 3, {0, 1, 3}, {{{1, -1}}, {{0, 1}}, {{0, -1, 1}}}, {{{1}}, {{1, 1}}, {{0, 1}}}, {}},
    {3,
     4,
     {0, 1, 2, 3},
     {{{1, 0, -1}}, {{0, 1, 1}}, {{0, -1, 1}}, {{0, -1, 0, 1}}},
     {{{1}}, {{1, 1, 1}}, {{1, -1, 1}}, {{0, 0, 1}}},
     {false, true, true, false}},
};
// What a point adds to the two outputs.
constexpr Row kOutput[kMaxPoints] = {{{1, 0}}, {{1, 1}}, {{1, -1}}, {{0, 1}}};

// Which plane each product of each residue belongs to. In two directions, plane (a, b) holds one slot for each pair of
// residues that multiplies there; slots are numbered over all planes in order.
struct PlaneMap {
  int planes = 0;
  int residues = 0;
  int points[kMaxResidues] = {};
  int plane[kMaxResidues][kMaxPoints] = {};

  constexpr int find(int v, int a) const {  // the product of this residue in plane a, or -1
    for (int i = 0; i < points[v]; ++i) {
      if (plane[v][i] == a) return i;
    }
    return -1;
  }
  constexpr int uses(int a) const {
    int n = 0;
    for (int v = 0; v < residues; ++v) n += find(v, a) >= 0;
    return n;
  }
  constexpr int slots(int a, int b) const { return uses(a) * uses(b); }
  constexpr int first(int a, int b) const {  // slots of the planes before
    int n = 0;
    for (int i = 0; i < a * planes + b; ++i) n += slots(i / planes, i % planes);
    return n;
  }
  constexpr int slot(int a, int b, int row_residue, int column_residue) const {  // within plane (a, b)
    int row = 0, column = 0;
    for (int v = 0; v < row_residue; ++v) row += find(v, a) >= 0;
    for (int v = 0; v < column_residue; ++v) column += find(v, b) >= 0;
    return row * uses(b) + column;
  }
  constexpr int products() const { return first(planes, 0); }
};

template <int taps_, int stride_, int parity_>
struct Scheme {
  static constexpr int taps = taps_;
  static constexpr int stride = stride_;
  static constexpr int parity = parity_;  // of the pad: pad modulo the stride

  static constexpr int residue_taps(int v) { return (taps - v + stride - 1) / stride; }
  static constexpr Filtering filtering(int v) { return kFiltering[residue_taps(v)]; }
  // The first position of x that has the residue: 0 or 1.
  static constexpr int place(int v) { return (v - parity + stride) % stride; }
  // dgrad: the first position of y that this residue reads for tile 0, less pad / stride.
  static constexpr int reach(int v) { return (parity > v ? 1 : 0) - (residue_taps(v) - 1); }
  static constexpr int first_reach() {
    int least = reach(0);
    for (int v = 1; v < stride; ++v) least = reach(v) < least ? reach(v) : least;
    return least;
  }
  static constexpr int window() {  // dgrad: positions of y read for a tile
    int most = 0;
    for (int v = 0; v < stride; ++v) {
      const int end = reach(v) - first_reach() + residue_taps(v) + 1;
      most = end > most ? end : most;
    }
    return most;
  }

  // dgrad: planes of the window of y, shared between the residues.
  struct DgradPlanes {
    PlaneMap map;
    Row data[kMaxPlanes] = {};
    int sign[kMaxResidues][kMaxPoints] = {};
  };
  static constexpr DgradPlanes dgrad_planes() {
    DgradPlanes out;
    out.map.residues = stride;
    for (int v = 0; v < stride; ++v) {
      const Filtering f = filtering(v);
      out.map.points[v] = f.points;
      for (int i = 0; i < f.points; ++i) {
        Row row;
        for (int d = 0; d <= f.taps; ++d) row.c[reach(v) - first_reach() + d] = f.data[i].c[d];
        int plane = 0, sign = 1;
        for (; plane < out.map.planes; ++plane) {
          if (equal(row, out.data[plane], 1)) break;
          if (equal(row, out.data[plane], -1)) {
            sign = -1;
            break;
          }
        }
        if (plane == out.map.planes) out.data[out.map.planes++] = row;
        out.map.plane[v][i] = plane;
        out.sign[v][i] = sign;
      }
    }
    return out;
  }
  static constexpr DgradPlanes dgrad = dgrad_planes();

  // fprop and wgrad: one plane for every point.
  static constexpr PlaneMap fprop_map() {
    PlaneMap map;
    map.residues = stride;
    const bool all = residue_taps(0) == 3;
    map.planes = all ? 4 : 3;
    for (int v = 0; v < stride; ++v) {
      const Filtering f = filtering(v);
      map.points[v] = f.points;
      for (int i = 0; i < f.points; ++i) map.plane[v][i] = all || f.point[i] < 2 ? f.point[i] : 2;
    }
    return map;
  }
  static constexpr PlaneMap fprop = fprop_map();
  static constexpr int point(int plane) { return fprop.planes == 4 || plane < 2 ? plane : 3; }
};

}  // namespace sdgan::winograd
