// Vectors of the instruction set that this translation unit is compiled for: one text for all of them, on the
// compiler's vector extensions (GCC and Clang). Included by kernels under csrc/kernels/cpu only.
//
// Everything lives in namespace sdgan::SDGAN_ISA, so that two instruction sets never share an inline function.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/scalar.h"

#define SDGAN_INLINE inline __attribute__((always_inline))
#define SDGAN_INLINED __attribute__((always_inline))  // of a lambda: the body of a loop, which must not become a call

namespace sdgan::SDGAN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VecOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VecOf<T>::type;  // T is float, double or an integer
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// The signed integer as wide as T: the type of comparison masks and of bit tricks.
template <class T>
struct IntOf;
template <>
struct IntOf<float> {
  using type = int32_t;
};
template <>
struct IntOf<double> {
  using type = int64_t;
};
template <class T>
using Mask = Vec<typename IntOf<T>::type>;

// ------------------------------------------------------------------------------------------ loads and stores
// S is the storage type, compute_t<S> the type of the lanes. The partial forms touch exactly n elements, 0 < n <=
// lanes; lanes past n read as zero.
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));

// By intrinsics where compilers take several instructions. Lanes that are narrowed are at most 0xffff.
SDGAN_INLINE Vec<uint32_t> widen(HalfBits h) {
#if defined(__AVX512F__)
  return (Vec<uint32_t>)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)h);
#elif defined(__AVX2__)
  return (Vec<uint32_t>)_mm256_cvtepu16_epi32((__m128i)h);
#else
  return __builtin_convertvector(h, Vec<uint32_t>);
#endif
}
SDGAN_INLINE HalfBits narrow(Vec<uint32_t> v) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)v, (__m256i)v), 0x08);
  return (HalfBits)_mm256_castsi256_si128(halves);
#else
  return __builtin_convertvector(v, HalfBits);
#endif
}

template <class S>
SDGAN_INLINE Vec<compute_t<S>> load(const S* p) {
  if constexpr (sizeof(S) == sizeof(compute_t<S>)) {
    Vec<S> v;
    std::memcpy(&v, p, sizeof v);
    return v;
  } else {
    HalfBits h;
    std::memcpy(&h, p, sizeof h);
    return (Vec<float>)(widen(h) << 16);
  }
}

template <class S>
SDGAN_INLINE void store(S* p, Vec<compute_t<S>> v) {
  if constexpr (sizeof(S) == sizeof(compute_t<S>)) {
    std::memcpy(p, &v, sizeof v);
  } else {  // bf16, to nearest even; a NaN stays a (quiet) NaN
    const Vec<uint32_t> bits = (Vec<uint32_t>)v;
    const Vec<uint32_t> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Vec<uint32_t> quiet = (bits >> 16) | 0x40u;
    const HalfBits h = narrow(v == v ? rounded : quiet);
    std::memcpy(p, &h, sizeof h);
  }
}

#if defined(__AVX512VL__) && defined(__AVX512BW__)
// Masked: through memory as below, the ends of short rows took longer than the rows.
template <class S>
SDGAN_INLINE Vec<compute_t<S>> load_partial(const S* p, int n) {
  const uint32_t mask = (1u << n) - 1;
  if constexpr (sizeof(S) == 8) {
    return (Vec<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p);
  } else if constexpr (sizeof(S) == 4) {
    return (Vec<float>)_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
  } else {
    const HalfBits h = (HalfBits)_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p);
    return (Vec<float>)(widen(h) << 16);
  }
}

template <class S>
SDGAN_INLINE void store_partial(S* p, Vec<compute_t<S>> v, int n) {
  const uint32_t mask = (1u << n) - 1;
  if constexpr (sizeof(S) == 8) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), (__m512d)v);
  } else if constexpr (sizeof(S) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), (__m512)v);
  } else {
    S lanes[kLanes<float>];
    store(lanes, v);
    __m256i h;
    std::memcpy(&h, lanes, sizeof h);
    _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(mask), h);
  }
}
#else
template <class S>
SDGAN_INLINE Vec<compute_t<S>> load_partial(const S* p, int n) {
  S lanes[kLanes<compute_t<S>>] = {};
  std::memcpy(lanes, p, n * sizeof(S));
  return load(lanes);
}

template <class S>
SDGAN_INLINE void store_partial(S* p, Vec<compute_t<S>> v, int n) {
  S lanes[kLanes<compute_t<S>>];
  store(lanes, v);
  std::memcpy(p, lanes, n * sizeof(S));
}
#endif

template <class S>
SDGAN_INLINE compute_t<S> load_one(const S* p) {
  return load_partial(p, 1)[0];
}

// The same on an untyped buffer of S, at element i, for 0 < count <= lanes. A null destination is skipped.
template <class S>
SDGAN_INLINE Vec<compute_t<S>> read(const void* p, int64_t i, int count) {
  const S* at = static_cast<const S*>(p) + i;
  return count == kLanes<compute_t<S>> ? load(at) : load_partial(at, count);
}

template <class S>
SDGAN_INLINE void write(void* p, int64_t i, int count, Vec<compute_t<S>> v) {
  if (p == nullptr) return;
  S* at = static_cast<S*>(p) + i;
  if (count == kLanes<compute_t<S>>) {
    store(at, v);
  } else {
    store_partial(at, v, count);
  }
}

// The same of memory that is streamed through, in loops that compute much between two loads: the hardware's prefetcher
// then stays behind, and loads wait for memory (softplus of 4M logits took 1.7 to 2 times as long).
template <int for_writing>
SDGAN_INLINE void prefetch_ahead(const void* at) {  // as integers: there may be nothing that far ahead
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(at) + 2048), for_writing);
}

template <class S>
SDGAN_INLINE Vec<compute_t<S>> read_stream(const void* p, int64_t i, int count) {
  prefetch_ahead<0>(static_cast<const S*>(p) + i);
  return read<S>(p, i, count);
}

template <class S>
SDGAN_INLINE void write_stream(void* p, int64_t i, int count, Vec<compute_t<S>> v) {
  if (p == nullptr) return;
  prefetch_ahead<1>(static_cast<S*>(p) + i);
  write<S>(p, i, count, v);
}

// Calls body(first, count) for the vectors of slice s of n elements; count < lanes at the very end only.
template <class T, class Body>
SDGAN_INLINE void for_vectors(int64_t s, int64_t n, Body body) {
  const int64_t end = n - s * kSlice < kSlice ? n : (s + 1) * kSlice;
  int64_t i = s * kSlice;
  for (; i + kLanes<T> <= end; i += kLanes<T>) body(i, kLanes<T>);  // a constant count: no branches
  if (i < end) body(i, static_cast<int>(end - i));
}

// Calls body(S{}) with the storage type that dtype stands for.
template <class Body>
SDGAN_INLINE void dispatch(DType dtype, Body body) {
  switch (dtype) {
    case DType::f32:
      return body(float{});
    case DType::f64:
      return body(double{});
    case DType::bf16:
      return body(bf16{});
    case DType::f16:
      return;  // on CUDA only: refused by the binding
  }
}

// ------------------------------------------------------------------------------------------------ arithmetic
template <class T>
SDGAN_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};
}
// Where one is NaN, the second.
template <class V>
SDGAN_INLINE V vmax(V a, V b) {
  return a > b ? a : b;
}
template <class V>
SDGAN_INLINE V vmin(V a, V b) {
  return a < b ? a : b;
}
#if defined(__AVX512F__)  // one instruction, which compilers do not make of the above
SDGAN_INLINE Vec<float> vmax(Vec<float> a, Vec<float> b) {
  return (Vec<float>)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
}
SDGAN_INLINE Vec<float> vmin(Vec<float> a, Vec<float> b) {
  return (Vec<float>)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
}
#elif defined(__AVX2__)
SDGAN_INLINE Vec<float> vmax(Vec<float> a, Vec<float> b) { return (Vec<float>)_mm256_max_ps((__m256)a, (__m256)b); }
SDGAN_INLINE Vec<float> vmin(Vec<float> a, Vec<float> b) { return (Vec<float>)_mm256_min_ps((__m256)a, (__m256)b); }
#endif
template <class V>
SDGAN_INLINE V vabs(V a) {
  return a < 0 ? -a : a;
}

// Lanes added in order, in double.
template <class V>
SDGAN_INLINE double sum_lanes(V v) {
  double total = 0;
  for (unsigned i = 0; i < sizeof(V) / sizeof(v[0]); ++i) total += v[i];
  return total;
}

// The first n lanes of v, zero elsewhere.
template <class T>
SDGAN_INLINE Vec<T> first_lanes(Vec<T> v, int n) {
  Mask<T> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return lane < n ? v : Vec<T>{};
}

// a0 b0 a1 b1 ... from the lower (half 0) or upper (half 1) lanes of both.
template <int half, class V>
SDGAN_INLINE V interleave(V a, V b) {
  constexpr int lanes = sizeof(V) / sizeof(a[0]);
  return [&]<int... i>(std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(a, b, (half * lanes / 2 + i / 2 + i % 2 * lanes)...);
  }(std::make_integer_sequence<int, lanes>{});
}

SDGAN_INLINE Vec<float> vsqrt(Vec<float> x) {
  for (int i = 0; i < kLanes<float>; ++i) x[i] = std::sqrt(x[i]);
  return x;
}

// ------------------------------------------------------------------------------- elementary functions, float
// Cephes single-precision polynomials (Moshier 1989), a few ulp. Doubles go through <cmath>, lane by lane.
SDGAN_INLINE Vec<float> vround(Vec<float> x) {  // to the nearest integer, |x| < 2^22
  const float magic = 12582912.f;               // 1.5 * 2^23
  return (x + magic) - magic;
}

// x 2^n for integral n in [-252, 254]; without the instruction in two factors, so that results down to the denormals
// are right.
SDGAN_INLINE Vec<float> scale_by_power_of_two(Vec<float> x, Vec<float> n) {
#if defined(__AVX512F__)  // the masked form, because the other one warns in GCC's own header
  return (Vec<float>)_mm512_maskz_scalef_ps(0xffff, (__m512)x, (__m512)n);
#else
  const Vec<int32_t> whole = __builtin_convertvector(n, Vec<int32_t>);
  const Vec<int32_t> half = whole >> 1;
  const Vec<float> a = (Vec<float>)((half + 127) << 23);
  const Vec<float> b = (Vec<float>)((whole - half + 127) << 23);
  return x * a * b;
#endif
}

SDGAN_INLINE Vec<float> vexp(Vec<float> x) {
  [[maybe_unused]] const Vec<float> input = x;
  x = vmin(splat(89.f), vmax(splat(-104.f), x));  // a NaN stays one
  const Vec<float> n = vround(x * 1.44269504f);
  Vec<float> r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vec<float> p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.f);
  const Vec<float> y = scale_by_power_of_two(p, n);
#if defined(__AVX512F__)  // nothing went through an integer: a NaN is still one
  return y;
#else
  return input == input ? y : input;
#endif
}

// e^x as a summand of 1 + e^x, in half the instructions: right from 2^-126 on, 2^-126 below,
// infinity from 2^127.5 on. The integer part n is read off the bits of x log2(e) + magic.
SDGAN_INLINE Vec<float> vexp_beside_one(Vec<float> x) {
  const float magic = 12582912.f + 127.f;        // 1.5 * 2^23 + the exponent's bias
  x = vmin(splat(89.f), vmax(splat(-87.f), x));  // a NaN stays one
  const Vec<float> shifted = x * 1.44269504f + magic;
  const Vec<float> n = shifted - magic;
  Vec<float> r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vec<float> p = splat(1.377677429e-3f);  // minimax, 4e-9
  p = p * r + 8.368941024e-3f;
  p = p * r + 4.166907817e-2f;
  p = p * r + 1.666651815e-1f;
  p = p * r + 4.999999106e-1f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  return p * (Vec<float>)((Vec<int32_t>)shifted << 23);
}

// log(1 + f) - c for f in [sqrt(1/2) - 1, sqrt(2) - 1], where c is what rounding took from the result's other summands.
SDGAN_INLINE Vec<float> log_near_one(Vec<float> f, Vec<float> c) {
  const Vec<float> z = f * f;
  Vec<float> p = splat(7.0376836292e-2f);
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  return f + (p * f * z - c - 0.5f * z);
}

// Of normal numbers, positive and finite.
SDGAN_INLINE Vec<float> vlog_normal(Vec<float> x) {
  const Vec<int32_t> bits = (Vec<int32_t>)x;
  Vec<float> e = __builtin_convertvector((bits >> 23) - 126, Vec<float>);
  const Vec<float> m = (Vec<float>)((bits & 0x007fffff) | 0x3f000000);  // [0.5, 1)
  const Mask<float> low = m < 0.707106781f;
  e = low ? e - 1.f : e;
  return log_near_one((low ? m + m : m) - 1.f, 2.12194440e-4f * e) + 0.693359375f * e;
}

SDGAN_INLINE Vec<float> vlog(Vec<float> x) {     // log(0) = -infinity, of a negative number NaN
  const Mask<float> tiny = x < 1.17549435e-38f;  // denormals are scaled by 2^24 first
  Vec<float> y = vlog_normal(tiny ? x * 16777216.f : x);
  y = tiny ? y - 16.635532333f : y;
  y = x == 0.f ? splat(-INFINITY) : y;
  y = x == INFINITY ? x : y;
  return (x >= 0.f) ? y : splat(NAN);
}

// log(1 + x) for x in [0, 1], or NaN. Nothing is rounded on the way to log_near_one: x itself, or (x - 1) / 2 beside
// log 2.
SDGAN_INLINE Vec<float> vlog1p(Vec<float> x) {
  const Mask<float> high = x > 0.414213562f;
  const Vec<float> y = log_near_one(high ? 0.5f * x - 0.5f : x, high ? splat(2.12194440e-4f) : Vec<float>{});
  return high ? y + 0.693359375f : y;
}

#define SDGAN_LANE_BY_LANE(name, function)                          \
  SDGAN_INLINE Vec<double> name(Vec<double> x) {                    \
    for (int i = 0; i < kLanes<double>; ++i) x[i] = function(x[i]); \
    return x;                                                       \
  }
SDGAN_LANE_BY_LANE(vexp, std::exp)
SDGAN_LANE_BY_LANE(vlog, std::log)
SDGAN_LANE_BY_LANE(vlog1p, std::log1p)
#undef SDGAN_LANE_BY_LANE

SDGAN_INLINE Vec<double> vexp_beside_one(Vec<double> x) { return vexp(x); }

// e^x - 1, with full relative accuracy near 0: a Taylor polynomial where the subtraction would cancel.
SDGAN_INLINE Vec<float> vexpm1(Vec<float> x) {
  const Vec<float> taylor =
      x * (1.f + x * (0.5f + x * (1.f / 6 + x * (1.f / 24 + x * (1.f / 120 + x * (1.f / 720 + x * (1.f / 5040)))))));
  return vabs(x) < 0.41f ? taylor : vexp(x) - 1.f;
}
SDGAN_INLINE Vec<double> vexpm1(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::expm1(x[i]);
  return x;
}

// The policy through which csrc/kernels/activation.h and philox.h compute on vectors.
struct Math {
  template <class V>
  static SDGAN_INLINE V exp(V x) {
    return vexp(x);
  }
  template <class V>
  static SDGAN_INLINE V exp_beside_one(V x) {
    return vexp_beside_one(x);
  }
  template <class V>
  static SDGAN_INLINE V expm1(V x) {
    return vexpm1(x);
  }
  static SDGAN_INLINE Vec<float> log(Vec<float> x) { return vlog_normal(x); }  // philox.h takes it of (0, 1] alone
  static SDGAN_INLINE Vec<float> sqrt(Vec<float> x) { return vsqrt(x); }
  // The bits read as a signed integer.
  static SDGAN_INLINE Vec<float> to_float(Vec<uint32_t> x) {
    return __builtin_convertvector((Vec<int32_t>)x, Vec<float>);
  }
  // Product of the lower half of each lane with a 32-bit constant, 64 bits wide.
  static SDGAN_INLINE Vec<uint64_t> multiply_low(Vec<uint64_t> x, uint32_t constant) {
    const Vec<uint64_t> factor = splat<uint64_t>(constant);
#if defined(__AVX512F__)  // the masked form, because the other one warns in GCC's own header
    return (Vec<uint64_t>)_mm512_maskz_mul_epu32(0xff, (__m512i)x, (__m512i)factor);
#elif defined(__AVX2__)
    return (Vec<uint64_t>)_mm256_mul_epu32((__m256i)x, (__m256i)factor);
#elif defined(__SSE2__)
    return (Vec<uint64_t>)_mm_mul_epu32((__m128i)x, (__m128i)factor);
#else
    return (x & 0xffffffffu) * factor;
#endif
  }
  template <class C, class V>
  static SDGAN_INLINE V select(C mask, V a, V b) {
    return mask ? a : b;
  }
  template <class V>
  static SDGAN_INLINE V one(V) {
    return V{} + 1;
  }
};

}  // namespace sdgan::SDGAN_ISA
