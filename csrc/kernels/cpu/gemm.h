// The matrix product of the convolutions: C = A B, or C += A B, float32, one thread. A register tile of C stays in 24
// of 32 vector registers (12 of 16); for each k it takes one broadcast element of A a row and one row of B.
//
// The sum of each element runs over k in order, in blocks of kDepth: how rows and columns are grouped changes no bit.
// Included by kernels, which are compiled once per instruction set.
#pragma once

#include <algorithm>

#include "kernels/cpu/simd.h"

namespace sdgan::SDGAN_ISA {
namespace {

constexpr int kTileVectors = kVectorBytes == 64 ? 4 : 2;
constexpr int kTileRows = 6;
constexpr int64_t kPanel = kTileVectors * kLanes<float>;  // columns of a full register tile
constexpr int64_t kDepth = 128;                           // kDepth rows of a panel of B fit the L1 cache

// The operand A: element (i, k) is data[i * stride + k], or where it is transposed data[k * stride + i].
struct GemmLeft {
  const float* data;
  int64_t stride;
};
// The operand B. Packed: panels of kPanel columns one after another, each [k][columns], the last one narrower. Else
// element (k, j) is data[k * stride + j].
struct GemmRight {
  const float* data;
  int64_t stride;  // 0: packed
};

template <bool transposed, int rows, int vectors>
void gemm_tile(int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
               bool accumulate, const float* next, int64_t ahead) {
  Vec<float> sum[rows][vectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    __builtin_prefetch(next + k * ahead, 0, 2);
    Vec<float> right[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) right[v] = load(b + k * ldb + v * kLanes<float>);
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
      const Vec<float> left = splat(transposed ? a[k * lda + i] : a[i * lda + k]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[i][v] += left * right[v];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* out = c + i * ldc + v * kLanes<float>;
      store(out, accumulate ? load(out) + sum[i][v] : sum[i][v]);
    }
  }
}

template <bool transposed, int rows, int vectors>
void gemm_rows(int64_t count, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
               int64_t ldc, bool accumulate, const float* next, int64_t ahead) {
  if constexpr (rows > 1) {
    if (count < rows) {
      return gemm_rows<transposed, rows - 1, vectors>(count, depth, a, lda, b, ldb, c, ldc, accumulate, next, ahead);
    }
  }
  gemm_tile<transposed, rows, vectors>(depth, a, lda, b, ldb, c, ldc, accumulate, next, ahead);
}

// m rows of one panel of `vectors` vectors.
template <bool transposed, int vectors>
void gemm_panel(int64_t m, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                int64_t ldc, bool accumulate, const float* next) {
  const int64_t tiles = (m + kTileRows - 1) / kTileRows;
  const int64_t share = depth * vectors * kLanes<float> / tiles;  // of the next panel, fetched during one tile
  const int64_t ahead = (share + depth - 1) / depth;
  for (int64_t tile = 0, row = 0; tile < tiles; ++tile) {  // tiles of nearly the same height
    const int64_t count = m / tiles + (tile < m % tiles);
    gemm_rows<transposed, kTileRows, vectors>(count, depth, a + row * (transposed ? 1 : lda), lda, b, ldb,
                                              c + row * ldc, ldc, accumulate, next + tile * share, ahead);
    row += count;
  }
}

template <bool transposed, int vectors>
void gemm_width(int64_t width, int64_t m, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb,
                float* c, int64_t ldc, bool accumulate, const float* next) {
  if constexpr (vectors > 1) {
    if (width < vectors) {
      return gemm_width<transposed, vectors - 1>(width, m, depth, a, lda, b, ldb, c, ldc, accumulate, next);
    }
  }
  gemm_panel<transposed, vectors>(m, depth, a, lda, b, ldb, c, ldc, accumulate, next);
}

// C [m, n] (+)= A [m, k] B [k, n]; n is a multiple of the vector's lanes.
template <bool transposed>
void gemm(int64_t m, int64_t n, int64_t k, GemmLeft left, GemmRight right, float* c, int64_t ldc, bool accumulate) {
  if (m == 0) return;
  for (int64_t from = 0; from < k; from += kDepth) {
    const int64_t depth = std::min(kDepth, k - from);
    const float* a = left.data + from * (transposed ? left.stride : 1);
    for (int64_t column = 0; column < n; column += kPanel) {
      const int64_t width = std::min(kPanel, n - column);
      const int64_t ldb = right.stride ? right.stride : width;
      const float* b = right.data + (right.stride ? column : column * k) + from * ldb;
      const float* next = right.stride ? b : b + width * k;
      gemm_width<transposed, kTileVectors>(width / kLanes<float>, m, depth, a, left.stride, b, ldb, c + column, ldc,
                                           accumulate || from > 0, next);
    }
  }
}

}  // namespace
}  // namespace sdgan::SDGAN_ISA
