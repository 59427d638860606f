// The weight gradient of implicit_gemm.h on tensor cores (sm_80 and later): bfloat16, float16, and float32 as tf32.
//
//   rows      coarse channels                           A  coarse[n, p, q, cc]                                     NHWC
//   columns   (tap, fine channel), channel fastest      B  fine[n, p * stride + r * dilation - pad, ..., cf]       NHWC
//   K         coarse pixels, in fixed slices; the slices' sums are added in order by another kernel
//
// The plan is that of implicit_gemm_tensor.cu, but in both operands the contiguous dimension is not K. A step is 32 pixels
// (16 of tf32), a row of shared memory is a pixel with kTile channels. 16-bit fragments are transposed by ldmatrix;
// float ones are read word by word. Chunk c of pixel k lies at c ^ (k % 8), for float at c ^ (k % 4 * 2): no bank
// conflicts. 16 bytes of columns belong to one tap, so a thread's tap is fixed, and a thread follows its two pixels by
// adding.
//
// Bytes of a block and step: 128 * kTile for 2 * kTile^2 * 32 operations in 16 bits. Parts: 4 * splits * weight
// elements written and read.
#include "kernels/conv/implicit_gemm.cuh"
#include "kernels/conv/implicit_gemm_mma.cuh"

namespace sdgan::cuda {
namespace {

template <class S>
constexpr int kPixels = kStepBytes / static_cast<int>(sizeof(S));

template <class S, int kTile>
SDGAN_DEVICE int swizzled(int k, int c) {
  return (k * (kTile / kPack<S>)+(c ^ (sizeof(S) == 4 ? k % 4 * 2 : k % 8))) * kPack<S>;
}

template <int kTile>
constexpr size_t kSharedBytes = size_t{kStages} * 2 * kTile * kStepBytes;

template <class S, int kTile>
struct Loader {
  static constexpr int kBlock = 2 * kTile;
  static constexpr int kChunks = kTile / kPack<S>;             // of a pixel
  static constexpr int kApart = kBlock / kChunks;              // two pixels of each operand a thread
  static_assert(2 * kApart == kPixels<S> && kApart % 8 == 0);  // so that both have the same swizzle

  const WgradGemm& g;
  S* to;                       // of this thread in stage 0, its first pixel
  int64_t left;                // pixels from the first one to the end
  int y[2], x[2];              // the coarse pixels
  int64_t coarse[2], fine[2];  // offsets of their channels; fine may be outside of the image
  int dv, dh;
  bool row, column;  // there are such channels

  SDGAN_DEVICE Loader(const WgradGemm& g, int first_row, int first_column, int64_t first_pixel, S* stages) : g(g) {
    const ImplicitGemmWgradParams& p = g.p;
    const int height = static_cast<int>(p.vertical.coarse), width = static_cast<int>(p.horizontal.coarse);
    const int c = threadIdx.x % kChunks * kPack<S>;
    to = stages + swizzled<S, kTile>(threadIdx.x / kChunks, threadIdx.x % kChunks);
    row = first_row + c < p.coarse_channels;
    const int from = first_column + c, channels = static_cast<int>(p.fine_channels);
    const int across = static_cast<int>(p.horizontal.taps), tap = from / channels;
    column = from < p.columns();
    dv = tap / across * static_cast<int>(p.vertical.dilation) - static_cast<int>(p.vertical.pad);
    dh = tap % across * static_cast<int>(p.horizontal.dilation) - static_cast<int>(p.horizontal.pad);
    const int64_t pixel = first_pixel + threadIdx.x / kChunks;
    left = p.pixels() - pixel;
    PRAGMA_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int64_t line = (pixel + i * kApart) / width, n = line / height;
      x[i] = static_cast<int>(pixel + i * kApart - line * width);
      y[i] = static_cast<int>(line - n * height);
      coarse[i] = n * p.coarse_stride[0] + y[i] * p.coarse_stride[2] + x[i] * p.coarse_stride[3] + first_row + c;
      fine[i] = n * p.fine_stride[0] + (y[i] * p.vertical.stride + dv) * p.fine_stride[2] +
                (x[i] * p.horizontal.stride + dh) * p.fine_stride[3] + from - tap * channels;
    }
  }

  SDGAN_DEVICE void load(int stage) {
    const ImplicitGemmWgradParams& p = g.p;
    S* a = to + stage * 2 * kTile * kPixels<S>;
    S* b = a + kTile * kPixels<S>;
    const int height = static_cast<int>(p.vertical.coarse), width = static_cast<int>(p.horizontal.coarse);
    PRAGMA_UNROLL
    for (int i = 0; i < 2; ++i) {
      const bool pixel = i * kApart < left;
      const bool out = pixel && row;
      cp_async_16(a + i * kApart * kTile, static_cast<const S*>(p.coarse) + (out ? coarse[i] : 0), out ? 16 : 0);
      const int v = y[i] * static_cast<int>(p.vertical.stride) + dv;
      const int h = x[i] * static_cast<int>(p.horizontal.stride) + dh;
      const bool in = pixel && column && static_cast<unsigned>(v) < static_cast<unsigned>(p.vertical.fine) &&
                      static_cast<unsigned>(h) < static_cast<unsigned>(p.horizontal.fine);
      cp_async_16(b + i * kApart * kTile, static_cast<const S*>(p.fine) + (in ? fine[i] : 0), in ? 16 : 0);

      x[i] += g.step_x;
      y[i] += g.step_y;
      coarse[i] += g.coarse_step[0];
      fine[i] += g.fine_step[0];
      if (x[i] >= width) {
        x[i] -= width;
        ++y[i];
        coarse[i] += g.coarse_step[1];
        fine[i] += g.fine_step[1];
      }
      if (y[i] >= height) {
        y[i] -= height;
        coarse[i] += g.coarse_step[2];
        fine[i] += g.fine_step[2];
      }
    }
    left -= kPixels<S>;
  }
};

template <class S, int kTile>
__global__ void __launch_bounds__(2 * kTile, kTile == 64      ? 3
                                             : sizeof(S) == 4 ? 1
                                                              : 2) implicit_gemm_wgrad_tensor_kernel(WgradGemm g) {
#if SDGAN_CUDA_ARCH >= 800
  constexpr int kRows = kTile / 2, kM = kRows / 16, kN = 4, kAcross = kTile / 32;
  constexpr int kStage = 2 * kTile * kPixels<S>;
  const ImplicitGemmWgradParams& p = g.p;
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
    __syncthreads();  // this step has landed; everybody has read the previous one, whose stage is filled next
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
          ldmatrix_x4<true>(fa[m],
                            a + swizzled<S, kTile>(k + lane / 16 * 8 + lane % 8, warp_row / 8 + m * 2 + lane / 8 % 2));
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

CudaError launch_wgrad_tensor(const WgradGemm& given, int tile, unsigned blocks, CudaStream stream) {
  return dispatch_tensor(given.p.dtype, [&](auto storage) {
    using S = decltype(storage);
    WgradGemm g = given;
    const ImplicitGemmAxis &v = g.p.vertical, &h = g.p.horizontal;
    const int64_t n = kPixels<S> / h.coarse / v.coarse;
    g.step_y = static_cast<int>(kPixels<S> / h.coarse % v.coarse);
    g.step_x = static_cast<int>(kPixels<S> % h.coarse);
    const auto steps = [&](int64_t (&step)[3], const int64_t (&stride)[4], int64_t down, int64_t right) {
      step[0] = n * stride[0] + g.step_y * down * stride[2] + g.step_x * right * stride[3];
      step[1] = down * stride[2] - h.coarse * right * stride[3];
      step[2] = stride[0] - v.coarse * down * stride[2];
    };
    steps(g.coarse_step, g.p.coarse_stride, 1, 1);
    steps(g.fine_step, g.p.fine_stride, v.stride, h.stride);
    return tile == 128 ? launch(implicit_gemm_wgrad_tensor_kernel<S, 128>, blocks, 256, kSharedBytes<128>, stream, g)
                       : launch(implicit_gemm_wgrad_tensor_kernel<S, 64>, blocks, 128, kSharedBytes<64>, stream, g);
  });
}

}  // namespace sdgan::cuda
