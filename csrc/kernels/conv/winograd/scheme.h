// The algorithms of winograd.h as data. All of it is known at compile time; the transforms unroll it.
//
// One direction. o = stride * m + k - crop, and k = stride * j + phase: the fine pixels of a phase,
// f[u] = Y[stride * u + phase - crop], and the coarse ones are related by a convolution of stride 1 with the taps
// w[stride * j + phase], which are 1 to 3:
//
//   to_coarse   X[m] = sum over phases and j of w[stride j + phase] f[m + j]
//   to_fine     f[u] = sum over j of w[stride j + phase] X[u - j]
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
// The output column is the same for every J, so to_coarse adds the products of all phases before it transforms back.
// In to_fine the phases read the same pixels, and planes that are equal up to sign are made once.
#pragma once

namespace sdgan::winograd {

constexpr int kMaxPhases = 2, kMaxPoints = 4, kMaxWindow = 4, kMaxPlanes = 6;

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
  int taps = 0;    // J
  int points = 0;  // J + 1
  int point[kMaxPoints] = {};      // index into 0, 1, -1, infinity
  Row data[kMaxPoints] = {};       // of d
  Row filter[kMaxPoints] = {};     // of g
  bool halved[kMaxPoints] = {};    // the filter's sum counts half
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

// Which plane each product of each phase belongs to. In two directions, plane (a, b) holds one slot for each pair of
// phases that multiplies there; slots are numbered over all planes in order.
struct PlaneMap {
  int planes = 0;
  int phases = 0;
  int points[kMaxPhases] = {};
  int plane[kMaxPhases][kMaxPoints] = {};

  constexpr int find(int phase, int a) const {  // the product of this phase in plane a, or -1
    for (int i = 0; i < points[phase]; ++i) {
      if (plane[phase][i] == a) return i;
    }
    return -1;
  }
  constexpr int uses(int a) const {
    int n = 0;
    for (int phase = 0; phase < phases; ++phase) n += find(phase, a) >= 0;
    return n;
  }
  constexpr int slots(int a, int b) const { return uses(a) * uses(b); }
  constexpr int first(int a, int b) const {  // slots of the planes before
    int n = 0;
    for (int i = 0; i < a * planes + b; ++i) n += slots(i / planes, i % planes);
    return n;
  }
  constexpr int slot(int a, int b, int row_phase, int column_phase) const {  // within plane (a, b)
    int row = 0, column = 0;
    for (int phase = 0; phase < row_phase; ++phase) row += find(phase, a) >= 0;
    for (int phase = 0; phase < column_phase; ++phase) column += find(phase, b) >= 0;
    return row * uses(b) + column;
  }
  constexpr int products() const { return first(planes, 0); }
};

template <int taps_, int stride_, int parity_>
struct Scheme {
  static constexpr int taps = taps_;
  static constexpr int stride = stride_;
  static constexpr int parity = parity_;  // of the crop: crop modulo the stride

  static constexpr int phase_taps(int phase) { return (taps - phase + stride - 1) / stride; }
  static constexpr Filtering filtering(int phase) { return kFiltering[phase_taps(phase)]; }
  // The place of the phase's first fine pixel: 0 or 1.
  static constexpr int place(int phase) { return (phase - parity + stride) % stride; }
  // to_fine: the first coarse pixel that this phase reads for tile 0, less crop / stride.
  static constexpr int reach(int phase) { return (parity > phase ? 1 : 0) - (phase_taps(phase) - 1); }
  static constexpr int first_reach() {
    int least = reach(0);
    for (int phase = 1; phase < stride; ++phase) least = reach(phase) < least ? reach(phase) : least;
    return least;
  }
  static constexpr int window() {  // to_fine: coarse pixels read for a tile
    int most = 0;
    for (int phase = 0; phase < stride; ++phase) {
      const int end = reach(phase) - first_reach() + phase_taps(phase) + 1;
      most = end > most ? end : most;
    }
    return most;
  }

  // to_fine: planes of the coarse window, shared between the phases.
  struct FinePlanes {
    PlaneMap map;
    Row data[kMaxPlanes] = {};
    int sign[kMaxPhases][kMaxPoints] = {};
  };
  static constexpr FinePlanes fine_planes() {
    FinePlanes out;
    out.map.phases = stride;
    for (int phase = 0; phase < stride; ++phase) {
      const Filtering f = filtering(phase);
      out.map.points[phase] = f.points;
      for (int i = 0; i < f.points; ++i) {
        Row row;
        for (int d = 0; d <= f.taps; ++d) row.c[reach(phase) - first_reach() + d] = f.data[i].c[d];
        int plane = 0, sign = 1;
        for (; plane < out.map.planes; ++plane) {
          if (equal(row, out.data[plane], 1)) break;
          if (equal(row, out.data[plane], -1)) {
            sign = -1;
            break;
          }
        }
        if (plane == out.map.planes) out.data[out.map.planes++] = row;
        out.map.plane[phase][i] = plane;
        out.sign[phase][i] = sign;
      }
    }
    return out;
  }
  static constexpr FinePlanes to_fine = fine_planes();

  // to_coarse and wgrad: one plane for every point.
  static constexpr PlaneMap coarse_map() {
    PlaneMap map;
    map.phases = stride;
    const bool all = phase_taps(0) == 3;
    map.planes = all ? 4 : 3;
    for (int phase = 0; phase < stride; ++phase) {
      const Filtering f = filtering(phase);
      map.points[phase] = f.points;
      for (int i = 0; i < f.points; ++i) map.plane[phase][i] = all || f.point[i] < 2 ? f.point[i] : 2;
    }
    return map;
  }
  static constexpr PlaneMap to_coarse = coarse_map();
  static constexpr int point(int plane) { return to_coarse.planes == 4 || plane < 2 ? plane : 3; }
};

}  // namespace sdgan::winograd
