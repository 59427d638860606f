// Part of cuda_host.h: CUDA's built-in functions. Those of the math library that C has too come from <cmath>; the fast
// ones (__expf) are its accurate ones here. There is no atomicAdd on floats: its order, so its result, would be chance.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "tests/cuda_on_host/collectives.h"

// --------------------------------------------------------------------------------------------------- barriers
inline void __syncthreads(CUHOST_AT) { cuhost::sync_block(false, {file, line}); }
inline int __syncthreads_count(int pred, CUHOST_AT) {
  return static_cast<int>(cuhost::sync_block(pred != 0, {file, line}));
}
inline int __syncthreads_or(int pred, CUHOST_AT) { return cuhost::sync_block(pred != 0, {file, line}) != 0; }
inline int __syncthreads_and(int pred, CUHOST_AT) { return cuhost::sync_block(pred == 0, {file, line}) == 0; }
inline void __syncwarp(unsigned mask = ~0u, CUHOST_AT) {
  int none = 0;
  const auto count = [](unsigned, void**) { ++cuhost::device.current->warp->syncs; };
  cuhost::collective("__syncwarp", mask, none, count, {file, line});
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// --------------------------------------------------------------------------------------------------- one warp
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, CUHOST_AT) {
  const unsigned lane = cuhost::device.current->lane, inside = static_cast<unsigned>(width) - 1;
  return cuhost::shuffle("__shfl_sync", mask, value, (lane & ~inside) | (static_cast<unsigned>(from) & inside),
                         {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUHOST_AT) {
  const unsigned lane = cuhost::device.current->lane, inside = static_cast<unsigned>(width) - 1;
  return cuhost::shuffle("__shfl_up_sync", mask, value, (lane & inside) < delta ? lane : lane - delta, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUHOST_AT) {
  const unsigned lane = cuhost::device.current->lane, inside = static_cast<unsigned>(width) - 1;
  return cuhost::shuffle("__shfl_down_sync", mask, value, (lane & inside) + delta > inside ? lane : lane + delta,
                         {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUHOST_AT) {
  const unsigned lane = cuhost::device.current->lane, inside = static_cast<unsigned>(width) - 1;
  const unsigned from = lane ^ static_cast<unsigned>(bits);
  return cuhost::shuffle("__shfl_xor_sync", mask, value, from > (lane | inside) ? lane : from, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int pred, CUHOST_AT) {
  return cuhost::ballot("__ballot_sync", mask, pred != 0, {file, line});
}
inline int __any_sync(unsigned mask, int pred, CUHOST_AT) {
  return cuhost::ballot("__any_sync", mask, pred != 0, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int pred, CUHOST_AT) {
  return cuhost::ballot("__all_sync", mask, pred == 0, {file, line}) == 0;
}

// ----------------------------------------------------------------------------------------------------- memory
// Threads are not preempted: a plain read and write is atomic.
inline int atomicAdd(int* p, int value) {
  const int old = *p;
  *p = static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value));
  return old;
}
inline unsigned atomicAdd(unsigned* p, unsigned value) { return (*p += value) - value; }
inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long value) { return (*p += value) - value; }

#define CUHOST_LOAD(name) \
  template <class T>      \
  T name(const T* p) {    \
    return *p;            \
  }
#define CUHOST_STORE(name)   \
  template <class T>         \
  void name(T* p, T value) { \
    *p = value;              \
  }
CUHOST_LOAD(__ldg)
CUHOST_LOAD(__ldca)
CUHOST_LOAD(__ldcg)
CUHOST_LOAD(__ldcs)
CUHOST_STORE(__stcg)
CUHOST_STORE(__stcs)
CUHOST_STORE(__stwb)
#undef CUHOST_LOAD
#undef CUHOST_STORE

// ------------------------------------------------------------------------------------------------------- bits
namespace cuhost {
template <class To, class From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace cuhost
inline unsigned __float_as_uint(float x) { return cuhost::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return cuhost::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return cuhost::bit_cast<float>(x); }
inline float __int_as_float(int x) { return cuhost::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return cuhost::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return cuhost::bit_cast<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}

// ------------------------------------------------------------------------------------------------------- math
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }

#define CUHOST_MIN_MAX(T)                          \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
CUHOST_MIN_MAX(int)
CUHOST_MIN_MAX(unsigned)
CUHOST_MIN_MAX(long)
CUHOST_MIN_MAX(unsigned long)
CUHOST_MIN_MAX(long long)
CUHOST_MIN_MAX(unsigned long long)
#undef CUHOST_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
