// The matrix product of the convolutions against sums in double: rows that fill no register tile, panels that are not
// full, depths around kDepth, transposed left, packed and strided right operand. Whole numbers, so every sum is exact.
#include "kernels/cpu/gemm.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/check.h"

namespace sdgan::SDGAN_ISA {

void test_gemm();

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;  // unoptimised: fewer cases
#else
constexpr bool kSanitized = false;
#endif

// n floats that end where an unmapped page begins; the same ones at every call.
float* guarded(int64_t n) {
  constexpr int64_t kCapacity = 1 << 17;
  static float* const region = static_cast<float*>(testing::guarded(kCapacity * sizeof(float)));
  if (n > kCapacity) std::abort();
  return region + kCapacity - n;
}

float whole(int64_t i, int64_t salt) { return static_cast<float>((i * 7919 + salt * 104729 + i * i % 31) % 7 - 3); }

struct Call {
  int64_t m, n, k;
  bool accumulate, packed;
  int64_t extra;  // elements between rows, of all operands
};

template <bool transposed>
void check(const Call& call) {
  const auto [m, n, k, accumulate, packed, extra] = call;
  const int64_t lda = (transposed ? m : k) + extra, ldb = n + extra, ldc = n + extra;
  const int64_t a_size = transposed ? (k - 1) * lda + m : (m - 1) * lda + k;
  const int64_t b_size = packed ? k * n : (k - 1) * ldb + n, c_size = (m - 1) * ldc + n;
  std::vector<float> a(a_size, NAN);
  const auto at_a = [&](int64_t i, int64_t kk) -> float& { return a[transposed ? kk * lda + i : i * lda + kk]; };
  std::vector<float> b(b_size, NAN), c(c_size, NAN);
  const auto at_b = [&](int64_t kk, int64_t j) -> float& {
    if (!packed) return b[kk * ldb + j];
    const int64_t panel = j / kPanel, width = n - panel * kPanel < kPanel ? n - panel * kPanel : kPanel;
    return b[panel * kPanel * k + kk * width + j % kPanel];
  };
  for (int64_t i = 0; i < m; ++i)
    for (int64_t kk = 0; kk < k; ++kk) at_a(i, kk) = whole(i * k + kk, 1);
  for (int64_t kk = 0; kk < k; ++kk)
    for (int64_t j = 0; j < n; ++j) at_b(kk, j) = whole(kk * n + j, 2);
  for (int64_t i = 0; accumulate && i < m; ++i)
    for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = whole(i * n + j, 3);

  const auto place = [&](const std::vector<float>& from) {
    float* to = guarded(static_cast<int64_t>(from.size()));
    std::memcpy(to, from.data(), from.size() * sizeof(float));
    return to;
  };
  // Each operand at the end of guarded memory in turn; the others are vectors.
  for (int which = 0; which < 3; ++which) {
    std::vector<float> out = c;
    float* c_at = which == 2 ? place(c) : out.data();
    gemm<transposed>(m, n, k, {which == 0 ? place(a) : a.data(), lda},
                     {which == 1 ? place(b) : b.data(), packed ? 0 : ldb}, c_at, ldc, accumulate);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < ldc && i * ldc + j < c_size; ++j) {
        double want = NAN;  // between the rows nothing is written
        if (j < n) {
          want = accumulate ? whole(i * n + j, 3) : 0;
          for (int64_t kk = 0; kk < k; ++kk) want += static_cast<double>(at_a(i, kk)) * at_b(kk, j);
        }
        EXPECT_CLOSE(static_cast<double>(i * n + j), c_at[i * ldc + j], want, 0);
      }
  }
}

void check_both(const Call& call) {
  check<false>(call);
  check<true>(call);
}

}  // namespace

void test_gemm() {
  const int64_t lanes = kLanes<float>;
  int64_t turn = 0;
  for (int64_t m : {1, 2, 5, 6, 7, 11, 13, 32})
    for (int64_t n : {lanes, 2 * lanes, 3 * lanes, kPanel, kPanel + lanes, 2 * kPanel + 3 * lanes})
      for (int64_t k : {int64_t{1}, int64_t{5}, kDepth - 1, kDepth, kDepth + 1, 2 * kDepth + 3}) {
        ++turn;
        if (kSanitized && turn % 11 != 0) continue;
        check_both({m, n, k, turn % 2 == 0, turn % 3 != 0, turn % 4 == 0 ? 5 : 0});
      }

  // A block whose tiles have no second row, or column, asks for no rows; wgrad adds a sum of none.
  for (bool accumulate : {false, true}) {
    gemm<false>(0, lanes, 5, {nullptr, 5}, {nullptr, 0}, nullptr, lanes, accumulate);
    gemm<true>(0, lanes, 5, {nullptr, 0}, {nullptr, lanes}, nullptr, lanes, accumulate);
  }
  std::vector<float> kept(6 * lanes, 1);
  gemm<true>(6, lanes, 0, {nullptr, 6}, {nullptr, lanes}, kept.data(), lanes, true);
  EXPECT(kept == std::vector<float>(6 * lanes, 1));

  // How rows and columns are grouped changes no bit.
  const int64_t m = 23, n = 2 * kPanel, k = kDepth + 40;
  std::vector<float> a(m * k), b(k * n), all(m * n), apart(m * n);
  for (int64_t i = 0; i < m * k; ++i) a[i] = std::sin(static_cast<float>(i));
  for (int64_t i = 0; i < k * n; ++i) b[i] = std::cos(static_cast<float>(3 * i));
  gemm<false>(m, n, k, {a.data(), k}, {b.data(), n}, all.data(), n, false);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; j += lanes) {
      gemm<false>(1, lanes, k, {a.data() + i * k, k}, {b.data() + j, n}, apart.data() + i * n + j, n, false);
    }
  EXPECT(std::memcmp(all.data(), apart.data(), all.size() * sizeof(float)) == 0);
}

}  // namespace sdgan::SDGAN_ISA
