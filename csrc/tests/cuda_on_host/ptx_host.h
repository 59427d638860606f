// Host versions of kernels/cuda/ptx.cuh, which has their contracts. They compute from the PTX ISA's layouts through
// whole matrices, and refuse what a GPU would make an error of: a misaligned address, an incomplete warp.
//
// A copy lands as late as the rules allow, in cp_async_wait, so that a missing wait leaves NaN or stale data in place.
// Sums inside mma are exact up to one rounding to float; a GPU's order and truncation are not modelled.
#pragma once

#include <cstring>
#include <utility>

#include "kernels/scalar.h"
#include "tests/cuda_on_host/cuda_host.h"

namespace sdgan::cuda {

// ------------------------------------------------------------------------------------------- asynchronous copies
namespace host {

inline void cp_async(void* smem, const void* global, int src_bytes, unsigned size, cuhost::Place at) {
  if (reinterpret_cast<uintptr_t>(smem) % size != 0) cuhost::die("cp_async: misaligned shared address", at);
  if (reinterpret_cast<uintptr_t>(global) % size != 0) cuhost::die("cp_async: misaligned global address", at);
  if (src_bytes < 0 || src_bytes > static_cast<int>(size)) cuhost::die("cp_async: src_bytes out of range", at);
  cuhost::note_access(smem, size, true, at);
  cuhost::device.current->open_copies.push_back({smem, global, static_cast<unsigned>(src_bytes), size, at});
}

}  // namespace host

inline void cp_async_16(void* smem, const void* global, int src_bytes, CUHOST_AT) {
  host::cp_async(smem, global, src_bytes, 16, {file, line});
}
inline void cp_async_16_cached(void* smem, const void* global, int src_bytes, CUHOST_AT) {
  host::cp_async(smem, global, src_bytes, 16, {file, line});
}
inline void cp_async_4(void* smem, const void* global, int src_bytes, CUHOST_AT) {
  host::cp_async(smem, global, src_bytes, 4, {file, line});
}

inline void cp_async_commit() {
  cuhost::Thread& me = *cuhost::device.current;
  me.copy_groups.push_back(std::move(me.open_copies));
  me.open_copies.clear();
}

template <int N>
void cp_async_wait() {
  cuhost::Thread& me = *cuhost::device.current;
  for (; me.copy_groups.size() > N; me.copy_groups.pop_front()) {
    for (const cuhost::Copy& c : me.copy_groups.front()) {
      cuhost::note_access(c.to, c.size, true, c.issued);
      std::memcpy(c.to, c.from, c.bytes);
      std::memset(static_cast<char*>(c.to) + c.bytes, 0, c.size - c.bytes);
    }
  }
}

// ------------------------------------------------------------------------------------------------- tensor cores
template <bool Trans>
void ldmatrix_x4(uint32_t (&r)[4], const void* row, CUHOST_AT) {
  struct Lane {
    const void* row;
    uint32_t* r;
  } mine{row, r};
  const cuhost::Place at{file, line};
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) cuhost::die("ldmatrix_x4: misaligned row", at);
  cuhost::note_access(row, 16, false, at);
  const auto load = [](unsigned, void** lanes) {
    for (int i = 0; i < 4; ++i) {
      uint16_t matrix[8][8];
      for (int j = 0; j < 8; ++j) std::memcpy(matrix[j], static_cast<Lane*>(lanes[8 * i + j])->row, 16);
      for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        const uint32_t first = Trans ? matrix[2 * t][g] : matrix[g][2 * t];
        const uint32_t second = Trans ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
        static_cast<Lane*>(lanes[lane])->r[i] = first | second << 16;
      }
    }
  };
  cuhost::collective(Trans ? "ldmatrix_x4<true>" : "ldmatrix_x4<false>", ~0u, mine, load, at, true);
}

namespace host {

struct MmaLane {
  float* c;
  const uint32_t* a;
  uint32_t b[2];
};

// What a register of a fragment holds: 2 elements of bf16 or f16, 1 of tf32.
struct Tf32 {};
inline double element(uint32_t bits, int, Tf32) {
  bits &= ~0x1fffu;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline double element(uint32_t bits, int i, bf16) {
  bits = (bits >> 16 * i) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline double element(uint32_t bits, int i, f16) {
  const uint16_t half = static_cast<uint16_t>(bits >> 16 * i);
  _Float16 x;
  std::memcpy(&x, &half, sizeof x);
  return static_cast<double>(x);
}

// K columns of A, of which a register holds E neighbours: K = 8 E.
template <class S, int E>
void mma(const char* what, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, cuhost::Place at) {
  MmaLane mine{c, a, {b0, b1}};
  const auto multiply = [](unsigned, void** lanes) {
    constexpr int K = 8 * E;
    double A[16][K], B[K][8], C[16][8] = {};
    for (int lane = 0; lane < 32; ++lane) {
      const MmaLane& in = *static_cast<const MmaLane*>(lanes[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int e = 0; e < E; ++e) {
        for (int i = 0; i < 4; ++i) A[g + i % 2 * 8][E * t + i / 2 * (K / 2) + e] = element(in.a[i], e, S{});
        for (int i = 0; i < 2; ++i) B[E * t + i * (K / 2) + e][g] = element(in.b[i], e, S{});
      }
    }
    for (int i = 0; i < 16; ++i) {
      for (int k = 0; k < K; ++k) {
        for (int j = 0; j < 8; ++j) C[i][j] += A[i][k] * B[k][j];
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      float* out = static_cast<MmaLane*>(lanes[lane])->c;
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) out[i] = static_cast<float>(out[i] + C[g + i / 2 * 8][2 * t + i % 2]);
    }
  };
  cuhost::collective(what, ~0u, mine, multiply, at, true);
}

}  // namespace host

inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bf16, CUHOST_AT) {
  host::mma<bf16, 2>("mma_m16n8k16 of bf16", c, a, b0, b1, {file, line});
}
inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, f16, CUHOST_AT) {
  host::mma<f16, 2>("mma_m16n8k16 of f16", c, a, b0, b1, {file, line});
}
inline void mma_m16n8k8_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, CUHOST_AT) {
  host::mma<host::Tf32, 1>("mma_m16n8k8_tf32", c, a, b0, b1, {file, line});
}

inline uint32_t to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return 0x7fffffffu;
  return (bits + 0x1000u) & ~0x1fffu;  // a carry into the exponent is right, up to infinity
}

}  // namespace sdgan::cuda
