// The weight gradient of conv_gemm.h on tensor cores (sm_80 and later): bfloat16, float16, and float32 as tf32.
//
//   rows      coarse channels                           A  coarse[n, p, q, cc]                                     NHWC
//   columns   (tap, fine channel), channel fastest      B  fine[n, p * stride + r * dilation - pad, ..., cf]       NHWC
//   K         coarse pixels, in fixed slices of the batch; the slices' sums are added in order by another kernel
//
// The plan is that of conv_gemm_tensor.cu, but in both operands the contiguous dimension is not K. A step is 32 pixels (16
// of tf32), a row of shared memory is a pixel with kTile channels. 16-bit fragments are transposed by ldmatrix; float ones
// are read word by word. Chunk c of pixel k lies at c ^ (k % 8), for float at c ^ (k % 4 * 2): no bank conflicts. 16 bytes
// of columns belong to one tap, so a thread's tap is fixed, and a thread follows its two pixels by adding.
//
// Bytes of a block and step: 128 * kTile for 2 * kTile^2 * 32 operations in 16 bits. Parts: 4 * splits * weight elements
// written and read.
#include "kernels/cuda/conv_gemm.cuh"
#include "kernels/cuda/conv_gemm_mma.cuh"

namespace sdgan::cuda {
namespace {

template <class S>
constexpr int kPixels = kStepBytes / static_cast<int>(sizeof(S));

template <class S, int kTile>
SDGAN_DEVICE int swizzled(int k, int c) {
  return (k * (kTile / kPack<S>) + (c ^ (sizeof(S) == 4 ? k % 4 * 2 : k % 8))) * kPack<S>;
}

template <int kTile>
constexpr size_t kSharedBytes = size_t{kStages} * 2 * kTile * kStepBytes;

template <class S, int kTile>
struct Loader {
  static constexpr int kBlock = 2 * kTile;
  static constexpr int kChunks = kTile / kPack<S>;    // of a pixel
  static constexpr int kApart = kBlock / kChunks;     // two pixels of each operand a thread
  static_assert(2 * kApart == kPixels<S>);

  const ConvGemmWgradParams& p;
  S* stages;
  int n[2], y[2], x[2];           // the coarse pixels
  int step_n, step_y, step_x;     // a step of K in these coordinates
  int64_t coarse;                 // offset of the thread's channels
  int64_t fine;
  int dv, dh;
  bool row, column;               // there are such channels

  SDGAN_DEVICE Loader(const WgradGemm& g, int first_row, int first_column, int64_t first_pixel, S* stages)
      : p(g.p), stages(stages) {
    const int height = static_cast<int>(p.vertical.coarse), width = static_cast<int>(p.horizontal.coarse);
    PRAGMA_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int64_t pixel = first_pixel + threadIdx.x / kChunks + i * kApart;
      const int64_t line = pixel / width;
      x[i] = static_cast<int>(pixel - line * width);
      n[i] = static_cast<int>(line / height);
      y[i] = static_cast<int>(line % height);
    }
    step_x = kPixels<S> % width;
    step_y = kPixels<S> / width % height;
    step_n = kPixels<S> / width / height;

    const int c = threadIdx.x % kChunks * kPack<S>;
    row = first_row + c < p.coarse_channels;
    coarse = first_row + c;
    const int from = first_column + c, channels = static_cast<int>(p.fine_channels);
    const int across = static_cast<int>(p.horizontal.taps), tap = from / channels;
    column = from < p.columns();
    dv = tap / across * static_cast<int>(p.vertical.dilation) - static_cast<int>(p.vertical.pad);
    dh = tap % across * static_cast<int>(p.horizontal.dilation) - static_cast<int>(p.horizontal.pad);
    fine = from - tap * channels + dv * p.fine_stride[2] + dh * p.fine_stride[3];
  }

  SDGAN_DEVICE void load(int stage) {
    S* a = stages + stage * 2 * kTile * kPixels<S>;
    S* b = a + kTile * kPixels<S>;
    PRAGMA_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int to = swizzled<S, kTile>(threadIdx.x / kChunks + i * kApart, threadIdx.x % kChunks);
      const bool pixel = n[i] < p.batch;
      const bool out = pixel && row;
      cp_async_16(a + to,
                  static_cast<const S*>(p.coarse) +
                      (out ? n[i] * p.coarse_stride[0] + y[i] * p.coarse_stride[2] + x[i] * p.coarse_stride[3] + coarse : 0),
                  out ? 16 : 0);
      const int v = y[i] * static_cast<int>(p.vertical.stride), h = x[i] * static_cast<int>(p.horizontal.stride);
      const bool in = pixel && column && static_cast<unsigned>(v + dv) < static_cast<unsigned>(p.vertical.fine) &&
                      static_cast<unsigned>(h + dh) < static_cast<unsigned>(p.horizontal.fine);
      cp_async_16(b + to,
                  static_cast<const S*>(p.fine) +
                      (in ? n[i] * p.fine_stride[0] + v * p.fine_stride[2] + h * p.fine_stride[3] + fine : 0),
                  in ? 16 : 0);
      x[i] += step_x;
      const int carry_x = x[i] >= p.horizontal.coarse;
      x[i] -= carry_x ? static_cast<int>(p.horizontal.coarse) : 0;
      y[i] += step_y + carry_x;
      const int carry_y = y[i] >= p.vertical.coarse;
      y[i] -= carry_y ? static_cast<int>(p.vertical.coarse) : 0;
      n[i] += step_n + carry_y;
    }
  }
};

template <class S, int kTile>
__global__ void __launch_bounds__(2 * kTile, kTile == 64 ? 3 : sizeof(S) == 4 ? 1 : 2) conv_gemm_wgrad_tensor_kernel(WgradGemm g) {
#if SDGAN_CUDA_ARCH >= 800
  constexpr int kRows = kTile / 2, kM = kRows / 16, kN = 4, kAcross = kTile / 32;
  constexpr int kStage = 2 * kTile * kPixels<S>;
  const ConvGemmWgradParams& p = g.p;
  unsigned block = blockIdx.x;
  const int first_column = static_cast<int>(block % g.column_tiles) * kTile;
  block /= g.column_tiles;
  const int first_row = static_cast<int>(block % g.row_tiles) * kTile;
  const int64_t split = block / g.row_tiles;
  const int64_t all = (p.pixels() + kPixels<S> - 1) / kPixels<S>;
  const int64_t begin = all * split / g.splits;
  const int steps = static_cast<int>(all * (split + 1) / g.splits - begin);
  S* stages = dynamic_smem<S>();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / kAcross * kRows, warp_column = warp % kAcross * 32;

  float sums[kM][kN][4];
  PRAGMA_UNROLL
  for (int m = 0; m < kM; ++m) {
    PRAGMA_UNROLL
    for (int n = 0; n < kN; ++n) {
      PRAGMA_UNROLL
      for (int e = 0; e < 4; ++e) sums[m][n][e] = 0;
    }
  }

  Loader<S, kTile> loader(g, first_row, first_column, begin * kPixels<S>, stages);
  PRAGMA_UNROLL
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < steps) loader.load(stage);
    cp_async_commit();
  }
  int stage = 0;
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // this step has landed, and everybody has read the previous one, whose stage is filled next
    if (step + kStages - 1 < steps) loader.load(stage == 0 ? kStages - 1 : stage - 1);
    cp_async_commit();
    const S* a = stages + stage * kStage;
    const S* b = a + kStage / 2;
    PRAGMA_UNROLL
    for (int k = 0; k < kPixels<S>; k += kPixels<S> / 2) {
      uint32_t fa[kM][4], fb[kN / 2][4];
      if constexpr (sizeof(S) == 2) {
        PRAGMA_UNROLL
        for (int m = 0; m < kM; ++m) {
          ldmatrix_x4<true>(fa[m], a + swizzled<S, kTile>(k + lane / 16 * 8 + lane % 8,
                                                          warp_row / 8 + m * 2 + lane / 8 % 2));
        }
        PRAGMA_UNROLL
        for (int n = 0; n < kN / 2; ++n) {
          ldmatrix_x4<true>(fb[n], b + swizzled<S, kTile>(k + lane % 16, warp_column / 8 + n * 2 + lane / 16));
        }
      } else {
        const Smem<uint32_t> wa{reinterpret_cast<uint32_t*>(const_cast<S*>(a))};
        const Smem<uint32_t> wb{reinterpret_cast<uint32_t*>(const_cast<S*>(b))};
        PRAGMA_UNROLL
        for (int m = 0; m < kM; ++m) {
          PRAGMA_UNROLL
          for (int e = 0; e < 4; ++e) {
            const int channel = warp_row + m * 16 + e % 2 * 8 + lane / 4;
            fa[m][e] = wa[swizzled<S, kTile>(k + e / 2 * 4 + lane % 4, channel / 4) + channel % 4];
          }
          round_fragment<S>(fa[m]);
        }
        PRAGMA_UNROLL
        for (int n = 0; n < kN / 2; ++n) {
          PRAGMA_UNROLL
          for (int e = 0; e < 4; ++e) {
            const int channel = warp_column + n * 16 + e / 2 * 8 + lane / 4;
            fb[n][e] = wb[swizzled<S, kTile>(k + e % 2 * 4 + lane % 4, channel / 4) + channel % 4];
          }
          round_fragment<S>(fb[n]);
        }
      }
      PRAGMA_UNROLL
      for (int m = 0; m < kM; ++m) {
        PRAGMA_UNROLL
        for (int n = 0; n < kN; ++n) mma<S>(sums[m][n], fa[m], fb[n / 2][n % 2 * 2], fb[n / 2][n % 2 * 2 + 1]);
      }
    }
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  cp_async_wait<0>();

  const int64_t columns = p.columns();
  float* parts = static_cast<float*>(g.parts) + split * p.coarse_channels * columns;
  PRAGMA_UNROLL
  for (int m = 0; m < kM; ++m) {
    PRAGMA_UNROLL
    for (int n = 0; n < kN; ++n) {
      PRAGMA_UNROLL
      for (int e = 0; e < 4; e += 2) {
        const int row = first_row + warp_row + m * 16 + e / 2 * 8 + lane / 4;
        const int column = first_column + warp_column + n * 8 + lane % 4 * 2;  // both of a pair: columns are even
        if (row < p.coarse_channels && column < columns) {
          *reinterpret_cast<float2*>(parts + row * columns + column) = make_float2(sums[m][n][e], sums[m][n][e + 1]);
        }
      }
    }
  }
#endif
}

}  // namespace

CudaError launch_wgrad_tensor(const WgradGemm& g, int tile, unsigned blocks, CudaStream stream) {
  return dispatch_tensor(g.p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return tile == 128 ? launch(conv_gemm_wgrad_tensor_kernel<S, 128>, blocks, 256, kSharedBytes<128>, stream, g)
                       : launch(conv_gemm_wgrad_tensor_kernel<S, 64>, blocks, 128, kSharedBytes<64>, stream, g);
  });
}

}  // namespace sdgan::cuda
