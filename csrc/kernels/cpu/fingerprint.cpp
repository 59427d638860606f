#include "kernels/fingerprint.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/simd.h"

namespace sdgan::SDGAN_ISA {
namespace {

using Words = Vec<uint64_t>;
constexpr int kWords = kLanes<uint64_t>;
constexpr int kStates = 8;  // independent ones hide the latency of a multiplication
constexpr int64_t kStride = kStates * sizeof(Words);

uint64_t fingerprint_of(const char* bytes, int64_t size) {
  Words state[kStates];
  for (int j = 0; j < kStates; ++j) {
    for (int i = 0; i < kWords; ++i) state[j][i] = j * kWords + i;  // so that equal lanes do not have equal states
  }
  const auto step = [&](const char* from) SDGAN_INLINED {
#pragma GCC unroll 8
    for (int j = 0; j < kStates; ++j) {
      Words value;
      std::memcpy(&value, from + j * sizeof value, sizeof value);
      state[j] = (state[j] ^ value) * 0x9e3779b97f4a7c15u;
      state[j] ^= state[j] >> 29;
    }
  };
  int64_t at = 0;
  for (; at + kStride <= size; at += kStride) step(bytes + at);
  char rest[kStride] = {};
  std::memcpy(rest, bytes + at, size - at);
  step(rest);

  uint64_t all = static_cast<uint64_t>(size);
  for (int j = 0; j < kStates; ++j) {
    for (int i = 0; i < kWords; ++i) all = fingerprint_step(all, state[j][i]);
  }
  return all;
}

}  // namespace

void fingerprint(const FingerprintParams& p, int64_t slice_begin, int64_t slice_end) {
  for (int64_t slice = slice_begin; slice < slice_end; ++slice) {
    const int64_t from = slice * FingerprintParams::kElements;
    const int64_t count = std::min(p.count - from, FingerprintParams::kElements);
    p.partial[slice] = fingerprint_of(reinterpret_cast<const char*>(p.data + from), count * int64_t{sizeof(float)});
  }
}

}  // namespace sdgan::SDGAN_ISA
