// The passes of implicit_gemm.h without tensor cores: every architecture, dtype, stride, group and number of channels.
//
// A block of 128 threads makes a tile of 64 x 64 sums, 8 x 4 a thread, in steps of 16 along K through two buffers in
// shared memory: while one is multiplied the next is on its way in registers. 12 reads of shared memory feed 32
// multiplications.
//
// An operand is an array of elements (i, k) that are read in place: the offset of an element is the sum of one that
// belongs to i and one that belongs to k, and so is its image coordinate, which decides whether it is 0 (padding). Both
// halves are looked up in small tables in shared memory (Place): 64 rows once, 16 of K for each step.
//
//                   A (i = row)                   B (i = column)                  k
//   fprop, dgrad    input   i: output pixel       weight   i: output channel      tap, input channel
//   wgrad           y       i: channel            x        i: tap, channel        pixel of y
//
// Bytes of a block and step: 2 * 64 * 16 elements for 2 * 64 * 64 * 16 operations. Exact float32 (or float64) sums.
#include "kernels/conv/implicit_gemm.cuh"

namespace sdgan::cuda {
namespace {

constexpr int kTile = 64;
constexpr int kStep = static_cast<int>(implicit_gemm::kSimtStep);
constexpr int kBlock = 128;
constexpr int kRow = kTile + 4;                 // of a tile in shared memory
constexpr int kBuffer = 2 * kStep * kRow;       // A and B
constexpr int kLoads = kTile * kStep / kBlock;  // elements of an operand that a thread reads in a step
constexpr int kOutside = -(1 << 30);            // a coordinate: plus another one it is outside of any image

struct alignas(16) Place {
  int64_t offset = 0;
  int v = 0, h = 0;
};

SDGAN_DEVICE Place nowhere() { return {0, kOutside, 0}; }

template <class S>
struct Operand {
  const S* data;
  int size_v, size_h;  // what coordinates are inside of; 1 x 1 where there are none
  Smem<Place> rows;    // [kTile]
  Smem<Place> ks;      // [2, kStep]
  bool along_k;        // neighbours in memory are neighbours in k rather than in i
};

template <class S>
SDGAN_DEVICE S element(const Operand<S>& o, const Place& a, const Place& b) {
  const bool inside = static_cast<unsigned>(a.v + b.v) < static_cast<unsigned>(o.size_v) &&
                      static_cast<unsigned>(a.h + b.h) < static_cast<unsigned>(o.size_h);
  return inside ? o.data[a.offset + b.offset] : S{};
}

// This thread's elements of step `step`.
template <class S>
SDGAN_DEVICE void fetch(const Operand<S>& o, int step, S (&x)[kLoads]) {
  const int k0 = step % 2 * kStep;
  if (o.along_k) {
    const Place k = o.ks[k0 + threadIdx.x % kStep];
    PRAGMA_UNROLL
    for (int j = 0; j < kLoads; ++j) x[j] = element(o, o.rows[threadIdx.x / kStep + j * (kBlock / kStep)], k);
  } else {
    const Place row = o.rows[threadIdx.x % kTile];
    PRAGMA_UNROLL
    for (int j = 0; j < kLoads; ++j) x[j] = element(o, row, o.ks[k0 + threadIdx.x / kTile + j * (kBlock / kTile)]);
  }
}

template <class S>
SDGAN_DEVICE void keep(const Operand<S>& o, Smem<compute_t<S>> tile, const S (&x)[kLoads]) {
  PRAGMA_UNROLL
  for (int j = 0; j < kLoads; ++j) {
    const int i = o.along_k ? threadIdx.x / kStep + j * (kBlock / kStep) : threadIdx.x % kTile;
    const int k = o.along_k ? threadIdx.x % kStep : threadIdx.x / kTile + j * (kBlock / kTile);
    tile[k * kRow + i] = to_compute(x[j]);
  }
}

// sums[i][j] is of row 4 * (thread / 16) + i % 4 + i / 4 * 32 and column 4 * (thread % 16) + j of the tile.
SDGAN_DEVICE int row_of(int i) { return 4 * (threadIdx.x / 16) + i % 4 + i / 4 * 32; }

// The tile's sums over steps [first, last). place_k(step) writes the tables of K of one step; those of the rows are
// written, no barrier since.
template <class S, class PlaceK>
SDGAN_DEVICE void multiply(const Operand<S>& a, const Operand<S>& b, int first, int last, PlaceK place_k,
                           compute_t<S>* buffers, compute_t<S> (&sums)[8][4]) {
  using T = compute_t<S>;
  PRAGMA_UNROLL
  for (int i = 0; i < 8; ++i) {
    PRAGMA_UNROLL
    for (int j = 0; j < 4; ++j) sums[i][j] = T(0);
  }
  if (first == last) return;
  S next_a[kLoads], next_b[kLoads];
  place_k(first);
  __syncthreads();
  fetch(a, first, next_a);
  fetch(b, first, next_b);
  place_k(first + 1);
  for (int step = first; step < last; ++step) {
    T* buffer = buffers + step % 2 * kBuffer;
    keep(a, Smem<T>{buffer}, next_a);
    keep(b, Smem<T>{buffer + kStep * kRow}, next_b);
    __syncthreads();
    if (step + 1 < last) {
      fetch(a, step + 1, next_a);
      fetch(b, step + 1, next_b);
    }
    const Smem<Four<T>> fours{reinterpret_cast<Four<T>*>(buffer)};
    PRAGMA_UNROLL
    for (int k = 0; k < kStep; ++k) {
      const Four<T> low = fours[k * (kRow / 4) + threadIdx.x / 16];
      const Four<T> high = fours[k * (kRow / 4) + threadIdx.x / 16 + 8];
      const Four<T> right = fours[(kStep + k) * (kRow / 4) + threadIdx.x % 16];
      PRAGMA_UNROLL
      for (int i = 0; i < 4; ++i) {
        PRAGMA_UNROLL
        for (int j = 0; j < 4; ++j) {
          sums[i][j] += low.lane[i] * right.lane[j];
          sums[i + 4][j] += high.lane[i] * right.lane[j];
        }
      }
    }
    place_k(step + 2);  // where step's tables were, last read before the barrier
  }
}

template <class S>
constexpr size_t kSharedBytes =
    2 * kBuffer * sizeof(compute_t<S>) + (2 * kTile + 4 * kStep) * sizeof(Place) + kTile * sizeof(int64_t);

// The tables behind the buffers.
template <class S>
SDGAN_DEVICE Place* tables(compute_t<S>* buffers) {
  return reinterpret_cast<Place*>(buffers + 2 * kBuffer);
}

template <class S>
__global__ void __launch_bounds__(kBlock, sizeof(S) == 8 ? 2 : 3) implicit_gemm_simt_kernel(ImplicitGemmArguments g) {
  using T = compute_t<S>;
  const ImplicitGemmParams& p = g.p;
  const GemmTile t = tile_of_block(g, kTile, kStep);
  if (t.first_row >= t.rows) return;
  T* buffers = dynamic_smem<T>();
  Place* table = tables<S>(buffers);
  const Operand<S> a{static_cast<const S*>(p.input),
                     static_cast<int>(p.input_size(0)),
                     static_cast<int>(p.input_size(1)),
                     {table},
                     {table + 2 * kTile},
                     p.input_stride[1] == 1};
  const Operand<S> b{static_cast<const S*>(p.weight),
                     1,
                     1,
                     {table + kTile},
                     {table + 2 * kTile + 2 * kStep},
                     p.weight_input_stride() <= p.weight_output_stride()};
  const Smem<int64_t> place{reinterpret_cast<int64_t*>(table + 2 * kTile + 4 * kStep)};

  const int inputs = static_cast<int>(p.group_inputs());
  if (threadIdx.x < kTile) {
    const int64_t row = t.first_row + threadIdx.x;
    Place at = nowhere();
    if (row < t.rows) {
      int64_t n;
      int i, j;
      t.pixel(row, n, i, j);
      at.v = i * t.vertical.read_step + t.vertical.read_first;
      at.h = j * t.horizontal.read_step + t.horizontal.read_first;
      at.offset = n * p.input_stride[0] + at.v * p.input_stride[2] + at.h * p.input_stride[3] +
                  static_cast<int64_t>(t.group) * inputs * p.input_stride[1];
    }
    a.rows[threadIdx.x] = at;
  } else {
    const int i = threadIdx.x - kTile, column = t.first_column + i;
    Place at = nowhere();
    if (column < p.group_outputs()) {
      const int64_t y_channels = p.geometry.y_channels / p.geometry.groups;
      at = {t.group * y_channels * p.weight_stride[0] + column * p.weight_output_stride(), 0, 0};
    }
    b.rows[i] = at;
  }
  const auto place_k = [&](int step) {
    if (threadIdx.x >= kStep) return;
    const int k = step * kStep + threadIdx.x;
    Place in = nowhere(), weight = nowhere();
    if (k < t.depth) {
      const int tap = k / inputs, c = k - tap * inputs;
      const int r = tap / t.horizontal.taps, s = tap - r * t.horizontal.taps;
      in.v = r * t.vertical.read_tap;
      in.h = s * t.horizontal.read_tap;
      in.offset = in.v * p.input_stride[2] + in.h * p.input_stride[3] + c * p.input_stride[1];
      weight = {(t.vertical.tap_first + static_cast<int64_t>(r) * t.vertical.tap_step) * p.weight_stride[2] +
                    (t.horizontal.tap_first + static_cast<int64_t>(s) * t.horizontal.tap_step) * p.weight_stride[3] +
                    c * p.weight_input_stride(),
                0, 0};
    }
    a.ks[step % 2 * kStep + threadIdx.x] = in;
    b.ks[step % 2 * kStep + threadIdx.x] = weight;
  };

  T sums[8][4];
  multiply<S>(a, b, t.first_step, t.last_step, place_k, buffers, sums);
  __syncthreads();
  place_rows<kTile>(g, t, place);
  const Smem<Four<T>> fours{reinterpret_cast<Four<T>*>(buffers)};
  PRAGMA_UNROLL
  for (int i = 0; i < 8; ++i) {
    fours[row_of(i) * (kRow / 4) + threadIdx.x % 16] = {sums[i][0], sums[i][1], sums[i][2], sums[i][3]};
  }
  __syncthreads();
  finish_rows<S, kTile, kTile, kBlock>(g, t, buffers, place, [](int row) { return row; });
}

template <class S>
__global__ void __launch_bounds__(kBlock) implicit_gemm_wgrad_simt_kernel(ImplicitGemmWgradArguments g) {
  using T = compute_t<S>;
  const ImplicitGemmWgradParams& p = g.p;
  const ConvAxis &vertical = p.geometry.vertical, &horizontal = p.geometry.horizontal;
  unsigned block = blockIdx.x;
  const int first_column = static_cast<int>(block % g.column_tiles) * kTile;
  block /= g.column_tiles;
  const int first_row = static_cast<int>(block % g.row_tiles) * kTile;
  block /= g.row_tiles;
  const unsigned groups = static_cast<unsigned>(p.geometry.groups);
  const int64_t group = block % groups, split = block / groups;

  T* buffers = dynamic_smem<T>();
  Place* table = tables<S>(buffers);
  const Operand<S> a{static_cast<const S*>(p.y), 1, 1, {table}, {table + 2 * kTile}, p.y_stride[1] != 1};
  const int height = static_cast<int>(vertical.x), width = static_cast<int>(horizontal.x);
  const Operand<S> b{static_cast<const S*>(p.x), height, width, {table + kTile}, {table + 2 * kTile + 2 * kStep},
                     p.x_stride[1] != 1};
  const int rows = static_cast<int>(p.group_y_channels()), columns = static_cast<int>(p.columns());
  if (threadIdx.x < kTile) {
    const int row = first_row + threadIdx.x;
    a.rows[threadIdx.x] = row < rows ? Place{(group * rows + row) * p.y_stride[1], 0, 0} : nowhere();
  } else {
    const int i = threadIdx.x - kTile, column = first_column + i;
    Place at = nowhere();
    if (column < columns) {
      const int channels = static_cast<int>(p.group_x_channels()), across = static_cast<int>(horizontal.taps);
      const int tap = column / channels, c = column - tap * channels;
      const int r = tap / across, s = tap - r * across;
      at.v = r * static_cast<int>(vertical.dilation);
      at.h = s * static_cast<int>(horizontal.dilation);
      at.offset = at.v * p.x_stride[2] + at.h * p.x_stride[3] + (group * channels + c) * p.x_stride[1];
    }
    b.rows[i] = at;
  }
  const int64_t pixels = p.geometry.y_pixels();
  const int64_t steps = (pixels + kStep - 1) / kStep;
  const int64_t begin = steps * split / g.splits, end = steps * (split + 1) / g.splits;
  const auto place_k = [&](int step) {
    if (threadIdx.x >= kStep) return;
    const int64_t pixel = (begin + step) * kStep + threadIdx.x;
    Place of_y = nowhere(), of_x = nowhere();
    if (pixel < pixels) {
      const int64_t line = pixel / horizontal.y, n = line / vertical.y;
      const int64_t i = line - n * vertical.y, j = pixel - line * horizontal.y;
      of_y = {n * p.y_stride[0] + i * p.y_stride[2] + j * p.y_stride[3], 0, 0};
      of_x.v = static_cast<int>(i * vertical.stride - vertical.pad);
      of_x.h = static_cast<int>(j * horizontal.stride - horizontal.pad);
      of_x.offset = n * p.x_stride[0] + of_x.v * p.x_stride[2] + of_x.h * p.x_stride[3];
    }
    a.ks[step % 2 * kStep + threadIdx.x] = of_y;
    b.ks[step % 2 * kStep + threadIdx.x] = of_x;
  };

  T sums[8][4];
  multiply<S>(a, b, 0, static_cast<int>(end - begin), place_k, buffers, sums);
  T* parts = static_cast<T*>(g.parts) + (split * p.geometry.y_channels + group * rows) * columns;
  PRAGMA_UNROLL
  for (int i = 0; i < 8; ++i) {
    const int row = first_row + row_of(i);
    PRAGMA_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int column = first_column + 4 * (threadIdx.x % 16) + j;
      if (row < rows && column < columns) parts[static_cast<int64_t>(row) * columns + column] = sums[i][j];
    }
  }
}

}  // namespace

CudaError launch_implicit_gemm_simt(const ImplicitGemmArguments& g, unsigned blocks, CudaStream stream) {
  return dispatch(g.p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return launch(implicit_gemm_simt_kernel<S>, blocks, kBlock, kSharedBytes<S>, stream, g);
  });
}

CudaError launch_implicit_gemm_wgrad_simt(const ImplicitGemmWgradArguments& g, unsigned blocks, CudaStream stream) {
  return dispatch(g.p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return launch(implicit_gemm_wgrad_simt_kernel<S>, blocks, kBlock, kSharedBytes<S>, stream, g);
  });
}

}  // namespace sdgan::cuda
