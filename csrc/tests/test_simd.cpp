// simd.h: loads, stores and bfloat16 rounding exactly, elementary functions against <cmath> in double.
#include <cmath>
#include <cstring>

#include "kernels/cpu/simd.h"
#include "tests/check.h"

namespace sdgan::SDGAN_ISA {

void test_simd();

namespace {

using testing::guarded;

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Calls check(x) for a whole vector at a time: every float whose bits are a multiple of `stride`, which is prime and
// so meets every exponent and sign, infinities, NaNs and denormals.
template <class Check>
void sweep(Check check) {
  constexpr uint32_t stride = 1009;
  Vec<float> x{};
  int lane = 0;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += stride) {
    x[lane++] = from_bits(static_cast<uint32_t>(bits));
    if (lane == kLanes<float>) {
      check(x);
      lane = 0;
    }
  }
  for (float special : {0.f, -0.f, 1.f, -1.f, INFINITY, -INFINITY, NAN, 1e-45f, 1.17549435e-38f, 3.40282347e38f,
                        88.72283f, 88.7229f, -87.33654f, -103.97f, -104.1f, 0.41f, -0.41f, 0.99999994f, 1.0000001f}) {
    check(splat(special));
  }
}

template <class Got, class Want>
void compare(Got got, Want want, double ulps) {
  sweep([&](Vec<float> x) {
    const Vec<float> y = got(x);
    for (int i = 0; i < kLanes<float>; ++i) EXPECT_ULPS(x[i], y[i], want(static_cast<double>(x[i])), ulps);
  });
}

void elementary_functions() {
  compare([](Vec<float> x) { return vexp(x); }, [](double x) { return std::exp(x); }, 1.5);
  compare([](Vec<float> x) { return vlog(x); }, [](double x) { return std::log(x); }, 1.5);
  compare([](Vec<float> x) { return vexpm1(x); }, [](double x) { return std::expm1(x); }, 3);
  sweep([](Vec<float> x) {  // only [0, 1] and NaN are asked of log1p
    const Vec<float> e = vexp(-vabs(x));
    const Vec<float> y = vlog1p(e);
    for (int i = 0; i < kLanes<float>; ++i) EXPECT_ULPS(e[i], y[i], std::log1p(static_cast<double>(e[i])), 1.5);
  });
  EXPECT(vexp(splat(0.f))[0] == 1 && vlog(splat(1.f))[0] == 0);
  for (double x : {-800.0, -1e-9, 0.0, 0.3, 5.0, 800.0}) {
    EXPECT(vexp(splat(x))[0] == std::exp(x) && vexpm1(splat(x))[0] == std::expm1(x));
    EXPECT(vlog(splat(std::fabs(x)))[0] == std::log(std::fabs(x)) &&
           vlog1p(splat(std::fabs(x)))[0] == std::log1p(std::fabs(x)));
  }
}

void bf16_rounding() {
  bf16 stored[kLanes<float>];
  for (uint32_t high = 0; high < 0x10000; ++high) {
    Vec<float> x{};
    int lane = 0;
    for (uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      x[lane++ % kLanes<float>] = from_bits(high << 16 | low);
      if (lane % kLanes<float> != 0 && low != 0xffffu) continue;
      store(stored, x);
      const Vec<float> back = load(stored);
      for (int i = 0; i < kLanes<float>; ++i) {
        EXPECT(stored[i].bits == testing::to_bf16(x[i]).bits);
        EXPECT_CLOSE(x[i], back[i], testing::from_bf16(stored[i]), 0);
      }
    }
  }
}

// Partial loads and stores touch exactly n elements (the memory is guarded) and nothing else (the neighbours stay).
template <class S>
void partial_access() {
  using T = compute_t<S>;
  constexpr int lanes = kLanes<T>;
  for (int n = 1; n <= lanes; ++n) {
    S* source = static_cast<S*>(guarded(n * sizeof(S)));
    S* target = static_cast<S*>(guarded(n * sizeof(S)));
    Vec<T> values{};
    for (int i = 0; i < n; ++i) values[i] = static_cast<T>(i + 1);
    write<S>(source, 0, n, values);
    const Vec<T> loaded = read<S>(source, 0, n);
    for (int i = 0; i < lanes; ++i) EXPECT(loaded[i] == (i < n ? T(i + 1) : T(0)));
    write<S>(target, 0, n, loaded);
    EXPECT(std::memcmp(source, target, n * sizeof(S)) == 0);
    EXPECT(load_one(source) == T(1));

    S row[lanes + 1];
    std::memset(row, 0xab, sizeof row);
    S untouched[lanes + 1];
    std::memcpy(untouched, row, sizeof row);
    store_partial(row, values, n);
    EXPECT(std::memcmp(row + n, untouched + n, (lanes + 1 - n) * sizeof(S)) == 0);
    EXPECT(sum_lanes(first_lanes<T>(splat(T(2)), n)) == 2 * n);
  }
  write<S>(nullptr, 0, lanes, Vec<T>{});  // a result that nobody asked for is skipped
}

template <class T>
void arithmetic() {
  const Vec<T> a = splat(T(-3)), b = splat(T(2));
  EXPECT(vmax(a, b)[0] == T(2) && vmin(a, b)[0] == T(-3) && vabs(a)[0] == T(3));
  EXPECT(sum_lanes(a) == -3.0 * kLanes<T>);
  for (int64_t n : {int64_t{1}, int64_t{kLanes<T>}, kSlice - 1, kSlice, kSlice + 1, 2 * kSlice + 5}) {
    int64_t next = 0;
    for (int64_t s = 0; s < slices(n); ++s) {
      for_vectors<T>(s, n, [&](int64_t first, int count) {
        EXPECT(first == next && count > 0 && count <= kLanes<T>);
        EXPECT(count == kLanes<T> || first + count == n);
        next = first + count;
      });
    }
    EXPECT(next == n);
  }
  EXPECT(slices(0) == 0);
}

}  // namespace

void test_simd() {
  elementary_functions();
  bf16_rounding();
  partial_access<float>();
  partial_access<double>();
  partial_access<bf16>();
  arithmetic<float>();
  arithmetic<double>();
}

}  // namespace sdgan::SDGAN_ISA
