// The weight gradient of implicit_gemm.h on tensor cores (sm_80 and later): bfloat16, float16, and float32 as tf32.
//
//   rows      channels of y                           A  y[n, p, q, channel]                                  NHWC
//   columns   (tap, channel of x), channel fastest    B  x[n, p * stride + r * dilation - pad, ..., channel]  NHWC
//   K         pixels of y, in fixed slices; the slices' sums are added in order by another kernel
//
// Organised as implicit_gemm_tensor.cu, but in both operands the contiguous dimension is not K. A step is 32 pixels
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

  const ImplicitGemmWgradArguments& g;
  S* to;               // of this thread in stage 0, its first pixel
  int64_t left;        // pixels from the first one to the end
  int i[2], j[2];      // rows and columns of the two pixels of y
  int64_t y[2], x[2];  // offsets of this thread's channels there and in the pixels of x that they meet, if those exist
  int dv, dh;          // dilated tap - pad: what is added to a strided position of y
  bool has_y_channel;  // else there is nothing to copy
  bool has_x_channel;

  SDGAN_DEVICE Loader(const ImplicitGemmWgradArguments& arguments, int first_row, int first_column, int64_t first_pixel,
                      S* stages)
      : g(arguments) {
    const ImplicitGemmWgradParams& p = g.p;
    const ConvAxis &vertical = p.geometry.vertical, &horizontal = p.geometry.horizontal;
    const int height = static_cast<int>(vertical.y), width = static_cast<int>(horizontal.y);
    const int c = threadIdx.x % kChunks * kPack<S>;
    to = stages + swizzled<S, kTile>(threadIdx.x / kChunks, threadIdx.x % kChunks);
    has_y_channel = first_row + c < p.geometry.y_channels;
    const int column = first_column + c, channels = static_cast<int>(p.geometry.x_channels);
    const int across = static_cast<int>(horizontal.taps), tap = column / channels;
    has_x_channel = column < p.columns();
    dv = tap / across * static_cast<int>(vertical.dilation) - static_cast<int>(vertical.pad);
    dh = tap % across * static_cast<int>(horizontal.dilation) - static_cast<int>(horizontal.pad);
    const int64_t pixel = first_pixel + threadIdx.x / kChunks;
    left = p.geometry.y_pixels() - pixel;
    PRAGMA_UNROLL
    for (int k = 0; k < 2; ++k) {
      const int64_t line = (pixel + k * kApart) / width, n = line / height;
      j[k] = static_cast<int>(pixel + k * kApart - line * width);
      i[k] = static_cast<int>(line - n * height);
      y[k] = n * p.y_stride[0] + i[k] * p.y_stride[2] + j[k] * p.y_stride[3] + first_row + c;
      x[k] = n * p.x_stride[0] + (i[k] * vertical.stride + dv) * p.x_stride[2] +
             (j[k] * horizontal.stride + dh) * p.x_stride[3] + column - tap * channels;
    }
  }

  SDGAN_DEVICE void load(int stage) {
    const ImplicitGemmWgradParams& p = g.p;
    S* a = to + stage * 2 * kTile * kPixels<S>;
    S* b = a + kTile * kPixels<S>;
    const ConvAxis &vertical = p.geometry.vertical, &horizontal = p.geometry.horizontal;
    const int height = static_cast<int>(vertical.y), width = static_cast<int>(horizontal.y);
    PRAGMA_UNROLL
    for (int k = 0; k < 2; ++k) {
      const bool has_pixel = k * kApart < left;
      const bool reads_y = has_pixel && has_y_channel;
      cp_async_16(a + k * kApart * kTile, static_cast<const S*>(p.y) + (reads_y ? y[k] : 0), reads_y ? 16 : 0);
      const int v = i[k] * static_cast<int>(vertical.stride) + dv;
      const int h = j[k] * static_cast<int>(horizontal.stride) + dh;
      const bool reads_x = has_pixel && has_x_channel && static_cast<unsigned>(v) < static_cast<unsigned>(vertical.x) &&
                           static_cast<unsigned>(h) < static_cast<unsigned>(horizontal.x);
      cp_async_16(b + k * kApart * kTile, static_cast<const S*>(p.x) + (reads_x ? x[k] : 0), reads_x ? 16 : 0);

      j[k] += g.column_step;
      i[k] += g.row_step;
      y[k] += g.y_step[0];
      x[k] += g.x_step[0];
      if (j[k] >= width) {
        j[k] -= width;
        ++i[k];
        y[k] += g.y_step[1];
        x[k] += g.x_step[1];
      }
      if (i[k] >= height) {
        i[k] -= height;
        y[k] += g.y_step[2];
        x[k] += g.x_step[2];
      }
    }
    left -= kPixels<S>;
  }
};

// Blocks of a processor: as many as their registers allow.
template <class S, int kTile>
constexpr int blocks_of_processor() {
  if (kTile == 64) return 3;
  return sizeof(S) == 4 ? 1 : 2;
}

template <class S, int kTile>
__global__ void __launch_bounds__(2 * kTile, blocks_of_processor<S, kTile>())
    implicit_gemm_wgrad_tensor_kernel(ImplicitGemmWgradArguments g) {
#if SDGAN_CUDA_ARCH >= 800
  constexpr int kRows = kTile / 2, kM = kRows / 16, kN = 4, kAcross = kTile / 32;
  constexpr int kStage = 2 * kTile * kPixels<S>;
  const ImplicitGemmWgradParams& p = g.p;
  unsigned block = blockIdx.x;
  const int first_column = static_cast<int>(block % g.column_tiles) * kTile;
  block /= g.column_tiles;
  const int first_row = static_cast<int>(block % g.row_tiles) * kTile;
  const int64_t split = block / g.row_tiles;
  const int64_t all = (p.geometry.y_pixels() + kPixels<S> - 1) / kPixels<S>;
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

  const int64_t rows = p.geometry.y_channels, columns = p.columns();
  float* parts = static_cast<float*>(g.parts) + split * rows * columns;
  PRAGMA_UNROLL
  for (int m = 0; m < kM; ++m) {
    PRAGMA_UNROLL
    for (int n = 0; n < kN; ++n) {
      PRAGMA_UNROLL
      for (int e = 0; e < 4; e += 2) {
        const int row = first_row + warp_row + m * 16 + e / 2 * 8 + lane / 4;
        const int column = first_column + warp_column + n * 8 + lane % 4 * 2;  // both of a pair: columns are even
        if (row < rows && column < columns) {
          *reinterpret_cast<float2*>(parts + row * columns + column) = make_float2(sums[m][n][e], sums[m][n][e + 1]);
        }
      }
    }
  }
#endif
}

}  // namespace

CudaError launch_implicit_gemm_wgrad_tensor(const ImplicitGemmWgradArguments& given, int tile, unsigned blocks,
                                            CudaStream stream) {
  return dispatch_tensor(given.p.dtype, [&](auto storage) {
    using S = decltype(storage);
    ImplicitGemmWgradArguments g = given;
    const ConvAxis &v = g.p.geometry.vertical, &h = g.p.geometry.horizontal;
    const int64_t images = kPixels<S> / h.y / v.y;
    g.row_step = static_cast<int>(kPixels<S> / h.y % v.y);
    g.column_step = static_cast<int>(kPixels<S> % h.y);
    // Of an image whose pixels are `down` rows and `right` columns apart for neighbouring pixels of y.
    const auto set_steps = [&](int64_t (&step)[3], const int64_t (&stride)[4], int64_t down, int64_t right) {
      step[0] = images * stride[0] + g.row_step * down * stride[2] + g.column_step * right * stride[3];
      step[1] = down * stride[2] - h.y * right * stride[3];
      step[2] = stride[0] - v.y * down * stride[2];
    };
    set_steps(g.y_step, g.p.y_stride, 1, 1);
    set_steps(g.x_step, g.p.x_stride, v.stride, h.stride);
    if (tile == 128) {
      return launch(implicit_gemm_wgrad_tensor_kernel<S, 128>, blocks, 256, kSharedBytes<128>, stream, g);
    }
    return launch(implicit_gemm_wgrad_tensor_kernel<S, 64>, blocks, 128, kSharedBytes<64>, stream, g);
  });
}

}  // namespace sdgan::cuda
