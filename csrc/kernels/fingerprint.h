// Whether an array still holds what it held: a 64-bit number that any change of its bits changes, but for a chance of
// 2^-64. Reading once is all it costs.
#pragma once

#include <cstdint>

#include "kernels/isa.h"

namespace sdgan {

struct FingerprintParams {
  const float* data = nullptr;
  int64_t count = 0;
  uint64_t* partial = nullptr;  // [slice_count()]

  int64_t slice_count() const { return (count + kElements - 1) / kElements; }
  static constexpr int64_t kElements = 16384;  // of a slice
};

// Each slice by itself; it depends on the instruction set.
SDGAN_CPU_KERNEL(fingerprint, const FingerprintParams& p, int64_t slice_begin, int64_t slice_end)

// One step of the number: `value` joins what `state` has seen. For a given value it is a bijection of the state, and
// for a given state one of the value.
constexpr uint64_t fingerprint_step(uint64_t state, uint64_t value) {
  state = (state ^ value) * 0x9e3779b97f4a7c15u;
  return state ^ (state >> 29);
}

}  // namespace sdgan
