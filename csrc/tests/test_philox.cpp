// philox.h: the known answers of Random123 (kat_vectors, philox 4x32 10) on scalars and in every lane, Box-Muller in
// float against double; on CUDA's math as well.
#include "kernels/philox.h"

#include "kernels/cpu/simd.h"
#include "tests/check.h"
#if SDGAN_CUDA_ON_HOST
#include "kernels/cuda/elements.cuh"
#endif

namespace sdgan::SDGAN_ISA {

void test_philox();

namespace {

#if SDGAN_CUDA_ON_HOST
using ScalarMath = cuda::Math;
using Word = cuda::PhiloxWord;

Word word_of(uint32_t low, uint32_t high) { return {low, high}; }
uint32_t low_half(Word word) { return word.low; }
#else
struct ScalarMath {
  static uint64_t multiply_low(uint64_t x, uint32_t constant) { return (x & 0xffffffffu) * constant; }
};
using Word = uint64_t;

Word word_of(uint32_t low, uint32_t high) { return uint64_t{high} << 32 | low; }
uint32_t low_half(Word word) { return static_cast<uint32_t>(word); }
#endif

struct KnownAnswer {
  uint32_t counter[4];
  uint64_t key;
  uint32_t words[4];
};

constexpr KnownAnswer kKnown[] = {
    {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     0xffffffffffffffff,
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     0x299f31d0a4093822,
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

void known_answers() {
  for (const KnownAnswer& known : kKnown) {
    Word scalar[4];
    Vec<uint64_t> lanes[4];
    for (int j = 0; j < 4; ++j) {
      scalar[j] = word_of(known.counter[j], 0xdeadbeef);  // upper halves are ignored
      lanes[j] = splat(uint64_t{0xdeadbeef} << 32 | known.counter[j]);
    }
    philox<ScalarMath>(scalar, known.key);
    philox<Math>(lanes, known.key);
    for (int j = 0; j < 4; ++j) {
      EXPECT(low_half(scalar[j]) == known.words[j]);
      for (int i = 0; i < kLanes<uint64_t>; ++i) EXPECT(static_cast<uint32_t>(lanes[j][i]) == known.words[j]);
    }
  }
}

void normals() {
  uint32_t radius = 1, angle = 2;
  for (int n = 0; n < 20000; ++n) {
    radius = radius * 1664525u + 1013904223u;  // a linear congruence, for the test only
    angle = angle * 22695477u + radius;
    if (n < 8) radius = n % 2 ? 0xffffffffu : 0u;
    if (n < 8) angle = n / 2 * 0x40000000u + 0x20000000u;  // where the nearest quarter changes
    Vec<float> first, second;
    box_muller<Math>(splat(radius), splat(angle), first, second);
    double want_first, want_second;
    box_muller(radius, angle, want_first, want_second);
    EXPECT_CLOSE(angle, first[0], want_first, 1e-6);
    EXPECT_CLOSE(angle, second[0], want_second, 1e-6);
    EXPECT(std::hypot(first[0], second[0]) < 5.78);
#if SDGAN_CUDA_ON_HOST
    float cuda_first, cuda_second;
    box_muller<cuda::Math>(radius, angle, cuda_first, cuda_second);
    EXPECT_CLOSE(angle, cuda_first, want_first, 1e-6);
    EXPECT_CLOSE(angle, cuda_second, want_second, 1e-6);
#endif
  }
}

}  // namespace

void test_philox() {
  known_answers();
  normals();
}

}  // namespace sdgan::SDGAN_ISA
