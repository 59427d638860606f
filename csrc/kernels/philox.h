// Standard normal numbers by position: Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as
// easy as 1, 2, 3") and the Box-Muller transform. Torch-free; one text for CPU and CUDA: M is the backend's math.
//
// Element i of stream s depends on (s, i) only: it is normal i % 4 of the block whose counter is i / 4 and whose key is
// s. Neither the memory layout, nor the vector width, nor the number of threads changes it.
#pragma once

#include <cmath>

#include "kernels/scalar.h"

namespace sdgan {

// The four words of blocks, in place: counter in, random words out. W is uint64_t, something like it or a vector of it;
// each lane is a block and holds its word in the lower half. The upper half is ignored on entry and undefined on
// return.
template <class M, class W>
SDGAN_HD void philox(W (&word)[4], uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const W product0 = M::multiply_low(word[0], 0xD2511F53u);
    const W product1 = M::multiply_low(word[2], 0xCD9E8D57u);
    word[0] = (product1 >> 32) ^ word[1] ^ uint64_t { key0 };
    word[1] = product1;
    word[2] = (product0 >> 32) ^ word[3] ^ uint64_t { key1 };
    word[3] = product0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// Two normals from two random words: sqrt(-2 log u) times the cosine and the sine of a turn t, where
// u = (radius / 2^8 + 1) / 2^24 is in (0, 1] and exact in float, and t = angle / 2^32. U is uint32_t or a vector of it,
// F the float of the same shape. Errors stay below 1e-6.
template <class M, class U, class F>
SDGAN_HD void box_muller(U radius, U angle, F& first, F& second) {
  const F u = M::to_float((radius >> 8) + 1u) * 0x1p-24f;
  const F length = M::sqrt(-2.f * M::log(u));

  // The turn is the nearest quarter and a remainder in [-pi/4, pi/4], split exactly in integers.
  const U quarter = (angle + 0x20000000u) >> 30;
  const F x = M::to_float(angle - (quarter << 30)) * 1.46291807926715968e-9f;  // 2 pi / 2^32
  const F square = x * x;
  const F sine = x + x * square * (-1.6666654611e-1f + square * (8.3321608736e-3f - square * 1.9515295891e-4f));
  const F tail = 4.166664568298827e-2f + square * (-1.388731625493765e-3f + square * 2.443315711809948e-5f);
  const F cosine = 1.f - 0.5f * square + square * square * tail;
  const auto odd = (quarter & 1u) != 0u;
  const F c = M::select(odd, sine, cosine);
  const F s = M::select(odd, cosine, sine);
  first = length * M::select(((quarter + 1u) & 2u) != 0u, -c, c);
  second = length * M::select((quarter & 2u) != 0u, -s, s);
}

// The same words in double: the numbers agree with those above to 1e-6.
SDGAN_HD void box_muller(uint32_t radius, uint32_t angle, double& first, double& second) {
  const double length = sqrt(-2 * log(((radius >> 8) + 1) * 0x1p-24));
#ifdef __CUDA_ARCH__
  double sine, cosine;
  sincospi(angle * 0x1p-31, &sine, &cosine);  // no slow path for large arguments, which would need local memory
#else
  const double turn = angle * (6.283185307179586 * 0x1p-32);
  const double sine = sin(turn), cosine = cos(turn);
#endif
  first = length * cosine;
  second = length * sine;
}

}  // namespace sdgan
