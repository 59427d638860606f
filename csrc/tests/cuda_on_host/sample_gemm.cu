// C = A B on tensor cores, as a kernel of the library would do it: tiles of 64 x 64, four warps of 32 x 32, two stages
// of cp.async. bf16 and f16 read both fragments by ldmatrix. tf32 reads A by ldmatrix, whose matrices of 8 x 8 16-bit
// elements are 8 x 4 floats, and B float by float, since there is no transposition of 32-bit elements.
#include "tests/cuda_on_host/samples.h"

namespace sdgan::cuda {
namespace {

constexpr int kGemmThreads = 128;
constexpr int kTile = 64;  // rows and columns

template <class S>
struct Tile {
  static constexpr int kPack = 16 / sizeof(S);
  static constexpr int kDepth = 4 * kPack;         // of k in a stage
  static constexpr int kStrideA = kDepth + kPack;  // padded: no bank conflicts in ldmatrix
  static constexpr int kStrideB = kTile + kPack;
  static constexpr int kStage = kTile * kStrideA + kDepth * kStrideB;
};

template <class S>
SDGAN_DEVICE int bytes_left(int elements) {
  return elements <= 0 ? 0 : elements < Tile<S>::kPack ? elements * static_cast<int>(sizeof(S)) : 16;
}

// rows x columns at smem, `stride` apart, from the rows_left x columns_left that are there at `from`; zeros elsewhere.
template <class S, int Rows, int Columns>
SDGAN_DEVICE void load_tile(S* smem, int stride, const S* from, int64_t ld, int rows_left, int columns_left) {
  constexpr int kPacks = Columns / Tile<S>::kPack;
  for (int i = static_cast<int>(threadIdx.x); i < Rows * kPacks; i += kGemmThreads) {
    const int r = i / kPacks, c = i % kPacks * Tile<S>::kPack;
    const int bytes = r < rows_left ? bytes_left<S>(columns_left - c) : 0;
    cp_async_16(smem + r * stride + c, bytes != 0 ? from + r * ld + c : from, bytes);
  }
}

// acc += the warp's part of a stage. a: its 32 rows; b: its 32 columns.
template <class S>
SDGAN_DEVICE void multiply(float (&acc)[2][4][4], const S* a, const S* b, int lane) {
  using T = Tile<S>;
  PRAGMA_UNROLL
  for (int k = 0; k < T::kDepth; k += 2 * T::kPack) {
    uint32_t fa[2][4], fb[4][2];
    PRAGMA_UNROLL
    for (int i = 0; i < 2; ++i) {
      ldmatrix_x4<false>(fa[i], a + (i * 16 + lane % 16) * T::kStrideA + k + lane / 16 * T::kPack);
    }
    if constexpr (sizeof(S) == 2) {
      PRAGMA_UNROLL
      for (int j = 0; j < 4; j += 2) {
        uint32_t r[4];
        ldmatrix_x4<true>(r, b + (k + lane % 16) * T::kStrideB + j * 8 + lane / 16 * 8);
        fb[j][0] = r[0], fb[j][1] = r[1], fb[j + 1][0] = r[2], fb[j + 1][1] = r[3];
      }
    } else {
      PRAGMA_UNROLL
      for (int i = 0; i < 2; ++i) {
        PRAGMA_UNROLL
        for (int e = 0; e < 4; ++e) fa[i][e] = to_tf32(__uint_as_float(fa[i][e]));
      }
      PRAGMA_UNROLL
      for (int j = 0; j < 4; ++j) {
        PRAGMA_UNROLL
        for (int e = 0; e < 2; ++e) fb[j][e] = to_tf32(b[(k + e * 4 + lane % 4) * T::kStrideB + j * 8 + lane / 4]);
      }
    }
    PRAGMA_UNROLL
    for (int i = 0; i < 2; ++i) {
      PRAGMA_UNROLL
      for (int j = 0; j < 4; ++j) {
        if constexpr (sizeof(S) == 2) {
          mma_m16n8k16(acc[i][j], fa[i], fb[j][0], fb[j][1], S{});
        } else {
          mma_m16n8k8_tf32(acc[i][j], fa[i], fb[j][0], fb[j][1]);
        }
      }
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kGemmThreads)
    sample_gemm_kernel(int m, int n, int k, const S* a, int lda, const S* b, int ldb, float* c, int ldc) {
#if SDGAN_CUDA_ARCH >= 800
  using T = Tile<S>;
  S* smem = dynamic_smem<S>();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
  const int row0 = blockIdx.y * kTile, column0 = blockIdx.x * kTile, steps = (k + T::kDepth - 1) / T::kDepth;
  const auto load = [&](int step) {
    S* stage = smem + step % 2 * T::kStage;
    const int k0 = step * T::kDepth;
    load_tile<S, kTile, T::kDepth>(stage, T::kStrideA, a + int64_t{row0} * lda + k0, lda, m - row0, k - k0);
    load_tile<S, T::kDepth, kTile>(stage + kTile * T::kStrideA, T::kStrideB, b + int64_t{k0} * ldb + column0, ldb,
                                   k - k0, n - column0);
  };
  float acc[2][4][4] = {};
  if (steps > 0) load(0);
  cp_async_commit();
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) load(step + 1);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const S* stage = smem + step % 2 * T::kStage;
    multiply<S>(acc, stage + warp_row * T::kStrideA, stage + kTile * T::kStrideA + warp_column, lane);
    __syncthreads();  // the next turn overwrites this stage
  }
  PRAGMA_UNROLL
  for (int i = 0; i < 2; ++i) {
    PRAGMA_UNROLL
    for (int j = 0; j < 4; ++j) {
      PRAGMA_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int row = row0 + warp_row + i * 16 + lane / 4 + e / 2 * 8;
        const int column = column0 + warp_column + j * 8 + lane % 4 * 2 + e % 2;
        if (row < m && column < n) c[int64_t{row} * ldc + column] = acc[i][j][e];
      }
    }
  }
#endif
}

}  // namespace

template <class S>
CudaError launch_sample_gemm(int m, int n, int k, const S* a, int lda, const S* b, int ldb, float* c, int ldc,
                             CudaStream stream) {
  const dim3 grid((n + kTile - 1) / kTile, (m + kTile - 1) / kTile);
  return launch(sample_gemm_kernel<S>, grid, kGemmThreads, 2 * Tile<S>::kStage * sizeof(S), stream, m, n, k, a, lda, b,
                ldb, c, ldc);
}

template CudaError launch_sample_gemm(int, int, int, const bf16*, int, const bf16*, int, float*, int, CudaStream);
template CudaError launch_sample_gemm(int, int, int, const f16*, int, const f16*, int, float*, int, CudaStream);
template CudaError launch_sample_gemm(int, int, int, const float*, int, const float*, int, float*, int, CudaStream);

}  // namespace sdgan::cuda
