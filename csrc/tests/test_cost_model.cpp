// cost_model.h: counts by hand, the table's figures at the table's cells, and what must hold for any shape. Both
// instruction sets of the table, whatever the CPU has. What it makes of the shapes between cells is held against a
// reference in Python, python_tests/benchmarks/test_tune_convolutions.py.
#include "kernels/conv/cost_model.h"

#include <cmath>
#include <cstring>
#include <string>

#include "kernels/conv/cost_table.h"
#include "kernels/conv/winograd/winograd.h"
#include "tests/check.h"

namespace sdgan::SDGAN_ISA {

void test_cost_model();

namespace {

struct Scheme {
  int64_t taps, stride;
};
constexpr Scheme kSchemes[] = {{3, 1}, {3, 2}, {4, 2}, {5, 2}};
constexpr Pass kPasses[] = {Pass::dgrad, Pass::fprop, Pass::wgrad};  // in the table's order
constexpr Isa kIsas[] = {Isa::avx2, Isa::avx512};

// y of `side` pixels each way, x of stride * side.
ConvProblem problem_of(Scheme s, int64_t batch, int64_t side, int64_t x_channels, int64_t y_channels,
                       bool last = true) {
  const int64_t pad = s.stride == 1 || s.taps == 5 ? s.taps / 2 : 1;
  const ConvAxis axis{s.stride * side, side, s.taps, s.stride, 1, pad};
  return {{axis, axis, batch, x_channels, y_channels}, false, DType::f32, false, last};
}

double speedup(const ConvProblem& problem, Pass pass, Isa isa) {
  return winograd_estimate({problem, pass}, isa).speedup;
}

void test_work_by_hand() {
  const ConvProblem even = problem_of({4, 2}, 2, 8, 48, 32);
  const Work library = library_work({even, Pass::fprop}, Isa::avx512);
  EXPECT(library.multiplications == 2. * 64 * 16 * 48 * 32);
  EXPECT(library.images == 4. * 2 * (256 * 48 + 64 * 32) && library.reordered == 4. * 16 * 48 * 32);
  EXPECT(library.filter == 0 && library.planes == 0 && library.narrow == 0);

  const Work fprop = winograd_work({even, Pass::fprop});
  EXPECT(fprop.multiplications == 2. * 16 * 36 * 48 * 32 && fprop.narrow == fprop.multiplications / 2);
  EXPECT(fprop.images == library.images && fprop.reordered == 0);
  EXPECT(fprop.filter == 4. * 36 * 48 * 32 && fprop.planes == 4. * 32 * 9 * (48 + 32));
  const Work dgrad = winograd_work({even, Pass::dgrad});  // odd padding: 25 planes, 36 products
  EXPECT(dgrad.multiplications == fprop.multiplications && dgrad.planes == 4. * 32 * (25 * 32 + 36 * 48));
  EXPECT_CLOSE(0, dgrad.narrow, dgrad.multiplications * 16 / (48 * 36. / 25), 1e-12);

  // The second position of the last tile is missing, each way: 4 tiles, 3 of them whole.
  const Work odd = winograd_work({problem_of({5, 2}, 1, 7, 16, 16), Pass::wgrad});
  EXPECT(odd.multiplications == (4. * 5 + 3 * 2) * (4 * 5 + 3 * 2) * 256);
  // dgrad tiles x: 13 = 2 * 6 + 1 positions are 7 of a residue.
  ConvProblem x_odd = problem_of({5, 2}, 1, 6, 16, 16);
  x_odd.geometry.vertical.x = 13;
  EXPECT(winograd_work({x_odd, Pass::dgrad}).multiplications == (4. * 5 + 3 * 2) * (3 * 5 + 3 * 2) * 256);

  // Channels that pad a vector: the library's are those of the instruction set, on the side that is written.
  const ConvProblem padded = problem_of({3, 1}, 1, 8, 20, 24);
  EXPECT(winograd_work({padded, Pass::fprop}).multiplications == 16. * 16 * 32 * 32);
  EXPECT(library_work({padded, Pass::fprop}, Isa::avx512).multiplications == 64. * 9 * 20 * 32);
  EXPECT(library_work({padded, Pass::fprop}, Isa::avx2).multiplications == 64. * 9 * 20 * 24);
  EXPECT(library_work({padded, Pass::dgrad}, Isa::avx2).multiplications == 64. * 9 * 24 * 24);

  // Tiles of 4 x 4: 7 positions are 2 of them, one whole.
  ConvProblem large = problem_of({3, 1}, 1, 7, 16, 32);
  const Work f43 = winograd_work({large, Pass::fprop}, 4);
  EXPECT(f43.multiplications == 11. * 11 * 16 * 32 && f43.narrow == f43.multiplications / 2);
  EXPECT(f43.filter == 4. * 36 * 16 * 32 && f43.planes == 4. * 4 * 36 * (16 + 32));

  const ConvProblem planar = problem_of({4, 2}, 2, 8, 48, 32, false);
  EXPECT(winograd_work({planar, Pass::wgrad}).reordered == library.images);
  EXPECT(library_work({planar, Pass::wgrad}, Isa::avx2).reordered == 2 * 4. * 16 * 48 * 32 + library.images);
  EXPECT(library_work({even, Pass::dgrad}, Isa::avx2).reordered == 4. * 16 * 48 * 32 + 4. * 2 * 256 * 48);
}

// Tiles of 4 x 4 where precision may be reduced, for images that are not small, and never for the weight's gradient.
void test_tile() {
  for (const Isa isa : kIsas) {
    for (const Pass pass : kPasses) {
      for (const int64_t side : {4, 64}) {
        ConvProblem problem = problem_of({3, 1}, 1, side, 128, 128);
        EXPECT(winograd_tile({problem, pass}, isa) == 2);
        const double before = speedup(problem, pass, isa);
        problem.reduced_precision = true;
        const bool larger = side == 64 && pass != Pass::wgrad;
        EXPECT(winograd_tile({problem, pass}, isa) == (larger ? 4 : 2));
        EXPECT(larger ? speedup(problem, pass, isa) > 1.2 * before : speedup(problem, pass, isa) == before);
      }
    }
    ConvProblem strided = problem_of({3, 2}, 1, 64, 128, 128);
    strided.reduced_precision = true;
    EXPECT(winograd_tile({strided, Pass::fprop}, isa) == 2);
  }
}

// Where the filter is small, which a network finds in its caches as well.
void test_cells() {
  for (const Isa isa : kIsas) {
    for (const bool last : {false, true}) {
      for (int pass = 0; pass < 3; ++pass) {
        for (int scheme = 0; scheme < 4; ++scheme) {
          const auto& table = kWinogradPercent[isa == Isa::avx512][last][pass][scheme];
          for (int y = 0; y < 6; ++y) {
            for (int t = 0; t < 4; ++t) {
              for (int x = 0; x < 6; ++x) {
                const int64_t side = t == 0 ? 4 : 8, batch = kTableTiles[t] / (side * side / 4);
                const Scheme s = kSchemes[scheme];
                const int64_t pairs = kTableChannels[x] * kTableChannels[y];
                const bool measured = t < 3 || pairs <= kTablePairs;
                const bool small = pass == 2 || 4 * pairs * winograd_products(s.taps, s.stride) <= 2 << 20;
                if (!measured || !small) continue;
                const ConvProblem problem = problem_of(s, batch, side, kTableChannels[x], kTableChannels[y], last);
                EXPECT_CLOSE(t, speedup(problem, kPasses[pass], isa), table[y][t][x] / 100., 1e-9);
              }
            }
          }
        }
      }
    }
  }
}

template <class Body>
void for_all(Body body) {
  for (const Isa isa : kIsas) {
    for (const Pass pass : kPasses) {
      for (const Scheme s : kSchemes) body(isa, pass, s);
    }
  }
}

void test_any_shape() {
  for_all([](Isa isa, Pass pass, Scheme s) {
    for (const int64_t batch : {int64_t{1}, int64_t{3}, int64_t{100000}}) {
      for (const int64_t side : {0, 1, 2, 3, 5, 7, 13, 28, 511}) {
        for (const int64_t x_channels : {16, 17, 100, 3000}) {
          for (const int64_t y_channels : {16, 40, 513}) {
            const ConvProblem problem = problem_of(s, batch, side, x_channels, y_channels, side % 2 != 0);
            const Estimate once = winograd_estimate({problem, pass}, isa);
            const Estimate again = winograd_estimate({problem, pass}, isa);
            EXPECT(std::isfinite(once.speedup) && once.speedup > 0);
            EXPECT(std::memcmp(&once.speedup, &again.speedup, sizeof once.speedup) == 0);
            EXPECT(once.least >= 1.05 && once.worthwhile == (once.speedup >= once.least));
          }
        }
      }
    }
  });
}

// What is only lost, is never faster than where it is not lost.
void test_waste() {
  for_all([](Isa isa, Pass pass, Scheme s) {
    for (int64_t side = 10; side <= 64; side += 2) {  // of equal tiles, from where images count as large
      const double whole = speedup(problem_of(s, 16, side, 64, 96), pass, isa);
      EXPECT(speedup(problem_of(s, 16, side - 1, 64, 96), pass, isa) < whole);
    }
    for (const int64_t channels : {32, 64, 512}) {
      const double full = speedup(problem_of(s, 16, 16, channels, channels), pass, isa);
      EXPECT(speedup(problem_of(s, 16, 16, channels - 15, channels - 15), pass, isa) < full);
    }
    for (int64_t batch = 2; batch <= 8; batch *= 2) {  // of less than 8 tiles: 1, 2, 4
      const double more = speedup(problem_of(s, batch, 2, 256, 256), pass, isa);
      if (pass != Pass::wgrad) EXPECT(speedup(problem_of(s, batch / 2, 2, 256, 256), pass, isa) < more);
    }
  });
  const ConvProblem large = problem_of({4, 2}, 4, 8, 512, 512);  // a filter that the caches do not keep
  EXPECT(speedup(large, Pass::fprop, Isa::avx512) < kWinogradPercent[1][1][1][2][5][1][5] / 100.);
}

void test_answers() {
  const ConvProblem one_slice = problem_of({4, 2}, 64, 8, 16, 32);
  EXPECT(winograd_estimate({one_slice, Pass::wgrad}, Isa::avx512).least == 2 * 1.15);
  EXPECT(winograd_estimate({one_slice, Pass::fprop}, Isa::avx512).least == 1.15);
  EXPECT(winograd_estimate({problem_of({4, 2}, 1, 16, 64, 64), Pass::dgrad}, Isa::avx512).least == 1.25);
  EXPECT(winograd_estimate({problem_of({4, 2}, 1, 16, 64, 64), Pass::wgrad}, Isa::avx512).least == 1.05);
  for (const Pass pass : kPasses) {  // not measured: 4 tiles; images of 3 x 3
    EXPECT(winograd_estimate({problem_of({4, 2}, 1, 4, 64, 64), pass}, Isa::avx512).least == 1.5);
    EXPECT(winograd_estimate({problem_of({4, 2}, 99, 3, 64, 64), pass}, Isa::avx512).least == 1.5);
  }

  for (const Estimate& none : {winograd_estimate({one_slice, Pass::fprop}, Isa::generic),
                               winograd_estimate({problem_of({4, 2}, 64, 8, 8, 64), Pass::fprop}, Isa::avx2)}) {
    EXPECT(!none.worthwhile && none.speedup == 0 && none.text() == none.reason);
  }
  const Estimate few_tiles = winograd_estimate({problem_of({4, 2}, 1, 4, 512, 512), Pass::dgrad}, Isa::avx512);
  EXPECT(!few_tiles.worthwhile);
  const char* because = "below 1.50; largest part of its time: the transform of the weight";
  EXPECT(few_tiles.text().find(because) != std::string::npos);
  const Estimate many = winograd_estimate({problem_of({4, 2}, 64, 16, 128, 128), Pass::dgrad}, Isa::avx512);
  EXPECT(many.worthwhile && many.text().find("largest part of its time: the products") != std::string::npos);
}

}  // namespace

void test_cost_model() {
  test_work_by_hand();
  test_tile();
  test_cells();
  test_any_shape();
  test_waste();
  test_answers();
}

}  // namespace sdgan::SDGAN_ISA
