// fprop and dgrad of implicit_gemm.h on tensor cores (sm_80 and later): bfloat16, float16, and float32 as tf32.
//
//   rows      output pixels of a residue   A  input[n, read_first + i * read_step + tap * read_tap, ..., c]   NHWC
//   columns   output channels              B  weight[tap][output channel][c], c contiguous
//   K         (tap, c), c fastest, without padding: 16 bytes of K are channels of one tap, as C is a multiple of that
//
// A block makes a tile of kTile x kTile sums, a warp of kTile/2 x 32, in steps of 64 bytes along K (32 elements of 16
// bits, 16 of tf32). Of three stages one is multiplied while cp.async fills the others; what lies outside of the image,
// of K or of the tensor is filled with zeros by the copy itself. Each thread copies 16 bytes of two rows of A and of
// two of B, always at the same place within the step, so that it follows its (tap, c) by adding; no table, no division
// in the loop.
//
// Shared memory: a row of a step is 64 bytes, 4 chunks; chunk c of row r lies at c ^ (r / 2 % 4), so that ldmatrix,
// which reads one chunk of 8 neighbouring rows, and the copies touch every bank once. 48 KiB for kTile 128, 24 for 64.
// ldmatrix moves 32-bit words, and so it places float32 as mma.m16n8k8 wants it.
//
// Bytes of a block and step: 128 * kTile for 2 * kTile^2 * 32 operations in 16 bits: 64 operations a byte with kTile
// 128 where all of it comes from L2. Neighbouring taps read the same pixels, so A goes through the L1 cache, which B
// would only thrash. The output leaves through shared memory, 16 bytes a store.
// Sources: implicit GEMM, Chetlur et al. 2014 (cuDNN), section 3; fragment layouts, PTX ISA, "mma" and "ldmatrix".
#include "kernels/conv/implicit_gemm.cuh"
#include "kernels/conv/implicit_gemm_mma.cuh"

namespace sdgan::cuda {
namespace {

constexpr int kChunks = kStepBytes / 16;

// Element index in a stage of chunk c of row r.
template <class S>
SDGAN_DEVICE int swizzled(int r, int c) {
  return (r * kChunks + (c ^ (r / 2 % kChunks))) * kPack<S>;
}

template <int kTile>
constexpr size_t kSharedBytes = size_t{kStages} * 2 * kTile * kStepBytes;

// A thread's copies. All that it needs for the next step follows from the last one by adding: within a tap the channel
// moves on, and at the end of a tap all offsets jump by the same amounts.
template <class S, int kTile>
struct Loader {
  static constexpr int kBlock = 2 * kTile;
  static constexpr int kApart = kBlock / kChunks;  // kTile / 2: two rows of each operand a thread
  static constexpr int kStep = kStepBytes / static_cast<int>(sizeof(S));

  const ImplicitGemmArguments& g;
  const GemmTile& t;
  S* to;             // of this thread in stage 0, row 0 of its two
  int c, r, s;       // channel of tap (r, s) of the residue
  int v[2], h[2];    // of the rows' input pixels
  int64_t image[2];  // their offsets, with the channel
  int64_t weight;    // of the first column, with the channel
  bool column[2];    // there is one

  SDGAN_DEVICE Loader(const ImplicitGemmArguments& arguments, const GemmTile& tile, S* stages) : g(arguments), t(tile) {
    const ImplicitGemmParams& p = g.p;
    const int inputs = static_cast<int>(p.input_channels()), across = max(t.horizontal.taps, 1);
    const int first = t.first_step * kStep + threadIdx.x % kChunks * kPack<S>, tap = first / inputs;
    c = first - tap * inputs;
    r = tap / across;
    s = tap - r * across;
    to = stages + swizzled<S>(threadIdx.x / kChunks, threadIdx.x % kChunks);
    PRAGMA_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int local = threadIdx.x / kChunks + i * kApart;
      const int64_t row = t.first_row + local;
      v[i] = -(1 << 30);
      h[i] = 0;
      image[i] = 0;
      if (row < t.rows) {
        int64_t n;
        int down, right;
        t.pixel(row, n, down, right);
        v[i] = down * t.vertical.read_step + t.vertical.read_first + r * t.vertical.read_tap;
        h[i] = right * t.horizontal.read_step + t.horizontal.read_first + s * t.horizontal.read_tap;
        image[i] = n * p.input_stride[0] + v[i] * p.input_stride[2] + h[i] * p.input_stride[3] + c;
      }
      column[i] = t.first_column + local < p.output_channels();
    }
    weight = (t.first_column + static_cast<int>(threadIdx.x) / kChunks) * p.weight_output_stride() +
             (t.vertical.tap_first + static_cast<int64_t>(r) * t.vertical.tap_step) * p.weight_stride[2] +
             (t.horizontal.tap_first + static_cast<int64_t>(s) * t.horizontal.tap_step) * p.weight_stride[3] + c;
  }

  // Copies the next step into stage `stage`.
  SDGAN_DEVICE void load(int stage) {
    const ImplicitGemmParams& p = g.p;
    S* a = to + stage * 2 * kTile * kStep;
    const bool inside = r < t.vertical.taps;
    PRAGMA_UNROLL
    for (int i = 0; i < 2; ++i) {  // kApart is a multiple of 8: the swizzle of both rows is the same
      const bool pixel = inside && static_cast<unsigned>(v[i]) < static_cast<unsigned>(p.input_size(0)) &&
                         static_cast<unsigned>(h[i]) < static_cast<unsigned>(p.input_size(1));
      cp_async_16_cached(a + i * kApart * kStep, static_cast<const S*>(p.input) + (pixel ? image[i] : 0),
                         pixel ? 16 : 0);
      const bool tap = inside && column[i];
      cp_async_16(a + (kTile + i * kApart) * kStep,
                  static_cast<const S*>(p.weight) + (tap ? weight + i * kApart * p.weight_output_stride() : 0),
                  tap ? 16 : 0);
    }
    c += kStep;
    int64_t image_jump = kStep;
    weight += kStep;
    const int inputs = static_cast<int>(p.input_channels());
    while (c >= inputs) {
      const int width = t.horizontal.taps;
      int dv = 0, dh = t.horizontal.read_tap;
      int64_t weight_jump = t.horizontal.tap_step * p.weight_stride[3];
      ++s;
      if (s == width) {  // a row of taps has ended
        s = 0;
        ++r;
        dv = t.vertical.read_tap;
        dh = (1 - width) * t.horizontal.read_tap;
        weight_jump =
            t.vertical.tap_step * p.weight_stride[2] - (width - 1) * t.horizontal.tap_step * p.weight_stride[3];
      }
      c -= inputs;
      image_jump += dv * p.input_stride[2] + dh * p.input_stride[3] - inputs;
      weight += weight_jump - inputs;
      PRAGMA_UNROLL
      for (int i = 0; i < 2; ++i) {
        v[i] += dv;
        h[i] += dh;
      }
    }
    image[0] += image_jump;
    image[1] += image_jump;
  }
};

template <class S, int kTile>
__global__ void __launch_bounds__(2 * kTile, 256 / kTile) implicit_gemm_tensor_kernel(ImplicitGemmArguments g) {
#if SDGAN_CUDA_ARCH >= 800
  constexpr int kRows = kTile / 2, kM = kRows / 16, kN = 4, kAcross = kTile / 32;  // of a warp; warps side by side
  constexpr int kSlab = 32;                                                        // rows that are finished at a time
  constexpr int kStage = 2 * kTile * (kStepBytes / static_cast<int>(sizeof(S)));
  const GemmTile t = tile_of_block(g, kTile, kStepBytes / static_cast<int>(sizeof(S)));
  if (t.first_row >= t.rows) return;
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

  {
    Loader<S, kTile> loader(g, t, stages);
    const int steps = t.last_step - t.first_step;
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
      for (int k = 0; k < kChunks; k += 2) {
        uint32_t fa[kM][4], fb[kN / 2][4];
        PRAGMA_UNROLL
        for (int m = 0; m < kM; ++m) {
          ldmatrix_x4<false>(fa[m], a + swizzled<S>(warp_row + m * 16 + lane % 16, k + lane / 16));
          round_fragment<S>(fa[m]);
        }
        PRAGMA_UNROLL
        for (int n = 0; n < kN / 2; ++n) {
          ldmatrix_x4<false>(fb[n], b + swizzled<S>(warp_column + n * 16 + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
          round_fragment<S>(fb[n]);
        }
        PRAGMA_UNROLL
        for (int m = 0; m < kM; ++m) {
          PRAGMA_UNROLL
          for (int n = 0; n < kN; ++n) mma<S>(sums[m][n], fa[m], fb[n / 2][n % 2 * 2], fb[n / 2][n % 2 * 2 + 1]);
        }
      }
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
  }
  cp_async_wait<0>();
  __syncthreads();

  // 16 rows of each warp at a time, through the memory of the stages.
  float* slab = reinterpret_cast<float*>(stages);
  const Smem<float> out{slab};
  const Smem<int64_t> place{reinterpret_cast<int64_t*>(slab + kSlab * (kTile + 4))};
  place_rows<kTile>(g, t, place);
  SDGAN_NO_UNROLL
  for (int turn = 0; turn < kM; ++turn) {
    PRAGMA_UNROLL
    for (int m = 0; m < kM; ++m) {
      if (m != turn) continue;
      PRAGMA_UNROLL
      for (int n = 0; n < kN; ++n) {
        PRAGMA_UNROLL
        for (int e = 0; e < 4; ++e) {
          out[(warp_row / kRows * 16 + lane / 4 + e / 2 * 8) * (kTile + 4) + warp_column + n * 8 + lane % 4 * 2 +
              e % 2] = sums[m][n][e];
        }
      }
    }
    __syncthreads();
    finish_rows<S, kSlab, kTile, 2 * kTile>(g, t, slab, place,
                                            [=](int row) { return row / 16 * kRows + turn * 16 + row % 16; });
    __syncthreads();
  }
#endif
}

}  // namespace

CudaError launch_implicit_gemm_tensor(const ImplicitGemmArguments& g, int tile, unsigned blocks, CudaStream stream) {
  return dispatch_tensor(g.p.dtype, [&](auto storage) {
    using S = decltype(storage);
    if (tile == 128) return launch(implicit_gemm_tensor_kernel<S, 128>, blocks, 256, kSharedBytes<128>, stream, g);
    return launch(implicit_gemm_tensor_kernel<S, 64>, blocks, 128, kSharedBytes<64>, stream, g);
  });
}

}  // namespace sdgan::cuda

namespace sdgan {

bool implicit_gemm_tensor_cores() {
#ifdef __CUDACC__
  // Of the code that the runtime has loaded for this device: it may be that of an older architecture, in which these
  // kernels are empty.
  cudaFuncAttributes loaded;
  const auto kernel = reinterpret_cast<const void*>(cuda::implicit_gemm_tensor_kernel<bf16, 64>);
  if (cudaFuncGetAttributes(&loaded, kernel) == cudaSuccess) return loaded.ptxVersion >= 80;
  cudaGetLastError();  // cleared: the next launch reports the error itself
  return false;
#else
  return true;
#endif
}

}  // namespace sdgan
