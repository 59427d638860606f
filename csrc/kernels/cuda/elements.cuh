// Elements of a storage type S as the kernels see them: packs of 16 bytes, computed on in compute_t<S>, and the math
// that activation.h and philox.h are written on. What cpu/simd.h is on the CPU.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/cuda/portable.cuh"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace sdgan::cuda {

constexpr int kThreads = 256;  // of a block, unless a kernel says otherwise

// A block for each piece of work, as far as a grid reaches; kernels stride over what is left.
inline unsigned grid_of(int64_t pieces) {
  constexpr int64_t kMost = 0x7fffffff;
  return static_cast<unsigned>(pieces < 1 ? 1 : pieces < kMost ? pieces : kMost);
}

// ---------------------------------------------------------------------------------------------- one element
SDGAN_DEVICE float bits_to_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
SDGAN_DEVICE uint32_t float_to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

SDGAN_DEVICE float to_compute(float x) { return x; }
SDGAN_DEVICE double to_compute(double x) { return x; }
SDGAN_DEVICE float to_compute(bf16 x) { return bits_to_float(static_cast<uint32_t>(x.bits) << 16); }
SDGAN_DEVICE float to_compute(f16 x) {
#ifdef __CUDACC__
  return __half2float(__ushort_as_half(x.bits));
#else
  _Float16 half;
  memcpy(&half, &x.bits, sizeof half);
  return static_cast<float>(half);
#endif
}

// To nearest even; a NaN stays a (quiet) NaN.
template <class S>
SDGAN_DEVICE S from_compute(compute_t<S> x) {
  return static_cast<S>(x);
}
template <>
SDGAN_DEVICE bf16 from_compute<bf16>(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};  // one instruction for two elements
#else
  const uint32_t bits = float_to_bits(x);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}
template <>
SDGAN_DEVICE f16 from_compute<f16>(float x) {
#ifdef __CUDACC__
  return {__half_as_ushort(__float2half_rn(x))};
#else
  const _Float16 half = static_cast<_Float16>(x);
  f16 stored;
  memcpy(&stored.bits, &half, sizeof half);
  return stored;
#endif
}

template <class S>
SDGAN_DEVICE compute_t<S> load_one(const void* p, int64_t i) {
  return to_compute(static_cast<const S*>(p)[i]);
}
template <class S>
SDGAN_DEVICE void store_one(void* p, int64_t i, compute_t<S> x) {
  static_cast<S*>(p)[i] = from_compute<S>(x);
}

// ---------------------------------------------------------------------------------------------------- packs
template <class S>
constexpr int kPack = 16 / static_cast<int>(sizeof(S));

// 16 bytes of S, in the type that is computed in.
template <class S>
struct Pack {
  compute_t<S> lane[kPack<S>];
  SDGAN_DEVICE compute_t<S>& operator[](int i) { return lane[i]; }
  SDGAN_DEVICE const compute_t<S>& operator[](int i) const { return lane[i]; }
};

template <class S>
struct alignas(16) Raw {
  S lane[kPack<S>];
};

SDGAN_DEVICE bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Elements i .. i + count, i a multiple of kPack<S>; lanes past count, and all of a null source, read as zero and are
// not written. One access of 16 bytes where the buffer is aligned and the pack is full. A null destination is skipped.
template <class S>
SDGAN_DEVICE Raw<S> read_raw(const void* p, int64_t i, int count) {
  Raw<S> raw{};
  if (p == nullptr) return raw;
  const S* at = static_cast<const S*>(p) + i;
  if (count >= kPack<S> && aligned16(p)) return *reinterpret_cast<const Raw<S>*>(at);
  PRAGMA_UNROLL
  for (int j = 0; j < kPack<S>; ++j) {
    if (j < count) raw.lane[j] = at[j];
  }
  return raw;
}

template <class S>
SDGAN_DEVICE Pack<S> widen(const Raw<S>& raw) {
  Pack<S> pack;
  PRAGMA_UNROLL
  for (int j = 0; j < kPack<S>; ++j) pack[j] = to_compute(raw.lane[j]);
  return pack;
}

template <class S>
SDGAN_DEVICE Pack<S> read(const void* p, int64_t i, int count) {
  return widen<S>(read_raw<S>(p, i, count));
}

template <class S>
SDGAN_DEVICE void write(void* p, int64_t i, int count, const Pack<S>& pack) {
  if (p == nullptr) return;
  S* at = static_cast<S*>(p) + i;
  if (count >= kPack<S> && aligned16(p)) {
    Raw<S> raw;
    PRAGMA_UNROLL
    for (int j = 0; j < kPack<S>; ++j) raw.lane[j] = from_compute<S>(pack[j]);
    *reinterpret_cast<Raw<S>*>(at) = raw;
  } else {
    PRAGMA_UNROLL
    for (int j = 0; j < kPack<S>; ++j) {
      if (j < count) at[j] = from_compute<S>(pack[j]);
    }
  }
}

template <class S>
SDGAN_DEVICE Pack<S> splat(compute_t<S> x) {
  Pack<S> pack;
  PRAGMA_UNROLL
  for (int j = 0; j < kPack<S>; ++j) pack[j] = x;
  return pack;
}

// --------------------------------------------------------------------------------------------------- chunks
// A pass over n elements works on chunks of this many, 8 a thread; a block of kThreads takes one at a time. Small, so
// that a loss of 100,000 elements occupies a third of a GPU of 132 multiprocessors; see for_chunk for large ones.
constexpr int kPerThread = 8;
constexpr int64_t kChunk = kPerThread * kThreads;
SDGAN_HD constexpr int64_t chunks(int64_t n) { return (n + kChunk - 1) / kChunk; }

// The blocks that a multiprocessor must be able to hold at once: 1024 threads, so 64 registers each. The kernels of
// double would spill.
template <class S>
constexpr int kResident = sizeof(S) == 8 ? 2 : 4;

// For the groups of G elements (a multiple of kPack<S>) of chunk c of n elements that are this thread's: calls
// load(i, count) for all of them, then use(i, count, loaded) for each; count <= G elements are there from i on.
//
// Loads come first because memory of 4.8 TB/s and 0.8 us (H200) is busy while 29 KB per multiprocessor are on their
// way. A thread has kPerThread * sizeof(S) bytes of each input under way, 16 or 32; with kResident blocks two inputs
// make 32 KB (bfloat16) or 64 KB (float32). (double, where that would be 64 bytes a thread and
// input, and code eight logarithms long, waits for each group.)
template <class S, int G = kPack<S>, class Load, class Use>
SDGAN_DEVICE void for_chunk(int64_t c, int64_t n, Load load, Use use) {
  static_assert(G % kPack<S> == 0 && kPerThread % G == 0);
  constexpr int kGroups = kPerThread / G, kAtOnce = sizeof(S) == 8 ? 1 : kGroups;
  const int64_t first = c * kChunk + static_cast<int64_t>(threadIdx.x) * G;
  const int64_t left = n - first;
  for (int group = 0; group < kGroups; group += kAtOnce) {
    decltype(load(first, 0)) loaded[kAtOnce];
    PRAGMA_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      const int64_t at = static_cast<int64_t>(group + k) * kThreads * G;
      loaded[k] = load(first + at, left - at < G ? static_cast<int>(left - at < 0 ? 0 : left - at) : G);
    }
    PRAGMA_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      const int64_t at = static_cast<int64_t>(group + k) * kThreads * G;
      if (at < left) use(first + at, left - at < G ? static_cast<int>(left - at) : G, loaded[k]);
    }
  }
}

// Calls body(S{}) with the storage type that dtype stands for, and returns what it returns.
template <class Body>
CudaError dispatch(DType dtype, Body body) {
  switch (dtype) {
    case DType::f64:
      return body(double{});
    case DType::bf16:
      return body(bf16{});
    case DType::f16:
      return body(f16{});
    default:
      return body(float{});
  }
}

// ----------------------------------------------------------------------------------------------------- math
// What philox.h computes on instead of uint64_t, of which nvcc would multiply all 64 bits: ">> 32" is the upper half,
// and "^" works on the lower one alone, the only one that counts there.
struct PhiloxWord {
  uint32_t low, high;
  friend SDGAN_HD PhiloxWord operator>>(PhiloxWord a, int) { return {a.high, 0}; }
  friend SDGAN_HD PhiloxWord operator^(PhiloxWord a, PhiloxWord b) { return {a.low ^ b.low, 0}; }
  friend SDGAN_HD PhiloxWord operator^(PhiloxWord a, uint64_t b) { return {a.low ^ static_cast<uint32_t>(b), 0}; }
};

// The policy through which csrc/kernels/activation.h and philox.h compute on scalars. The accurate functions of the
// CUDA math library, not the fast ones: the results agree with the CPU's to a few ulp.
struct Math {
  static SDGAN_HD float exp(float x) { return expf(x); }
  static SDGAN_HD double exp(double x) { return ::exp(x); }
  template <class V>
  static SDGAN_HD V exp_beside_one(V x) {  // a summand of 1 + e^x
    return exp(x);
  }
  static SDGAN_HD float expm1(float x) { return expm1f(x); }
  static SDGAN_HD double expm1(double x) { return ::expm1(x); }
  static SDGAN_HD float log(float x) { return logf(x); }
  static SDGAN_HD double log(double x) { return ::log(x); }
  static SDGAN_HD float log1p(float x) { return log1pf(x); }
  static SDGAN_HD double log1p(double x) { return ::log1p(x); }
  static SDGAN_HD float sqrt(float x) { return sqrtf(x); }
  static SDGAN_HD double sqrt(double x) { return ::sqrt(x); }
  static SDGAN_HD float to_float(uint32_t x) { return static_cast<float>(static_cast<int32_t>(x)); }
  static SDGAN_HD PhiloxWord multiply_low(PhiloxWord x, uint32_t constant) {
#ifdef __CUDA_ARCH__
    return {x.low * constant, __umulhi(x.low, constant)};
#else
    return {x.low * constant, static_cast<uint32_t>((uint64_t{x.low} * constant) >> 32)};
#endif
  }
  template <class V>
  static SDGAN_HD V select(bool which, V a, V b) {
    return which ? a : b;
  }
  template <class V>
  static SDGAN_HD V one(V) {
    return V(1);
  }
};

// A term of a loss beside its derivative.
template <class T>
struct Term {
  T value;
  T gradient;
};

// x / y for y in [1, 3], to 2 ulp: two instructions instead of eight and a branch.
SDGAN_DEVICE float fast_quotient(float x, float y) {
#ifdef __CUDA_ARCH__
  return __fdividef(x, y);
#else
  return x / y;
#endif
}
SDGAN_DEVICE double fast_quotient(double x, double y) { return x / y; }

// log(1 + e) for e in [0, 1], to 4 ulp: 2 atanh(q), q = e / (2 + e), as a polynomial in q^2 <= 1/9 whose relative error
// is 5e-9. A third of the instructions of log1pf, which losses in bfloat16 would otherwise wait for.
SDGAN_DEVICE float log1p_unit(float e) {
  const float q = fast_quotient(e, 2.f + e), square = q * q, twice = q + q;
  const float tail = 0.33333206f + square * (0.2001085f + square * (0.13999571f + square * 0.1401223f));
  return twice + twice * (square * tail);
}
SDGAN_DEVICE double log1p_unit(double e) { return ::log1p(e); }

// sp(x) = log(1 + e^x) and its derivative, the sigmoid, share one exponential; see cpu/term.h.
template <class T>
SDGAN_DEVICE Term<T> softplus(T x) {
  const T e = Math::exp(x < 0 ? x : -x);
  return {(x > 0 || x != x ? x : T(0)) + log1p_unit(e), fast_quotient(x < 0 ? e : T(1), T(1) + e)};
}

}  // namespace sdgan::cuda
