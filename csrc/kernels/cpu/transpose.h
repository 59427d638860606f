// A square block of lanes, transposed in registers: log2(lanes) rounds of pairwise exchanges (Eklundh 1972).
#pragma once

#include <utility>

#include "kernels/cpu/simd.h"

namespace sdgan::SDGAN_ISA {

// Swaps the blocks of M lanes off the diagonal: lane j of `a` with bit M set <-> lane j - M of `b`.
template <class T, int M, size_t... J>
SDGAN_INLINE void exchange(Vec<T>& a, Vec<T>& b, std::index_sequence<J...>) {
  constexpr int lanes = kLanes<T>;
#if defined(__clang__)
  const Vec<T> low = __builtin_shufflevector(a, b, (J & M ? int(J) - M + lanes : int(J))...);
  const Vec<T> high = __builtin_shufflevector(a, b, (J & M ? int(J) + lanes : int(J) + M)...);
#else
  const Vec<T> low = __builtin_shuffle(a, b, Mask<T>{(J & M ? int(J) - M + lanes : int(J))...});
  const Vec<T> high = __builtin_shuffle(a, b, Mask<T>{(J & M ? int(J) + lanes : int(J) + M)...});
#endif
  a = low;
  b = high;
}

template <class T, int M = 1>
SDGAN_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
  if constexpr (M < kLanes<T>) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i) {
      if ((i & M) == 0) exchange<T, M>(rows[i], rows[i + M], std::make_index_sequence<kLanes<T>>{});
    }
    transpose<T, 2 * M>(rows);
  }
}

}  // namespace sdgan::SDGAN_ISA
