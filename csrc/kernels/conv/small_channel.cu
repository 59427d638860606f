// to_small and to_large: small_channel.cuh has the products.
//
// to_small: a block owns a tile of small pixels (in shared memory) and runs over the large pixels that meet it, residue
// by residue, up to 416 at a time: their products with all taps in registers, then tap by tap into the tile. Two pixels
// never add to the same small one within a tap, so the order of every sum is fixed. A tile is the whole image where
// that leaves enough blocks, so that each large pixel is read once; smaller tiles read their halo again, from the L2
// cache. Few pixels and many channels (4x4 -> 1x1) are split among threads by channels.
//   Bytes: the large image once (and its saved), the small one once.
// to_large: a block owns up to 128 channels of up to 512 large pixels.
//   Bytes: each image once.
// Multiplications an element of the large image, with taps padded to 8: 32 for 5x5 to one channel, 48 for 4x4 to three.
#include "kernels/conv/small_channel.cuh"

namespace sdgan {
namespace cuda {
namespace {

int round_up(int n, int to) { return (n + to - 1) / to * to; }
int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

// ---------------------------------------------------------------------------------------------- to_small
struct ToSmallPlan {
  int tap_groups, tap_chunks;  // of 8 taps in registers together; chunks re-read X
  int pixel_groups, splits;    // of 8 pixels; of the channels
  int depth;                   // channels that are staged together
  int images, rows, columns;   // of a tile of small pixels
  int threads;
  int64_t blocks;
  Table x_table, w_table;
  int x, w, sums, pixels, taps, scope, tile, bytes;  // shared memory

  SDGAN_HD int pixel_count() const { return kEdge * pixel_groups; }
};

// The most positions of a residue of the large side that meet `tile` neighbouring positions of the small side.
int most_met(const LargeResidues& a, int tile) {
  int64_t most = 0;
  for (int v = 0; v < a.count; ++v) {
    const Residue r = residue(a.axis, a.to_large, v);
    if (r.taps == 0) continue;
    const int64_t reach = int64_t{r.taps - 1} * (r.read_tap < 0 ? -r.read_tap : r.read_tap);
    const int64_t met = (tile - 1 + reach) / r.read_step + 1;
    const int64_t here = met < r.count ? met : r.count;
    if (here > most) most = here;
  }
  return static_cast<int>(most);
}

struct Tile {  // small pixels
  int64_t image;
  int images, row, column, rows, columns;
};

// 48 KiB of shared memory in all: X 26, W 6, sums 8, tables 8.
template <class T>
ToSmallPlan plan_to_small(const SmallChannelProblem& p) {
  constexpr int kMostGroups = 52, kTile = 8192 / sizeof(T), kStage = 26624 / sizeof(T);
  constexpr int64_t kEnoughBlocks = 128;
  ToSmallPlan plan;
  const int height = static_cast<int>(p.small.height), width = static_cast<int>(p.small.width);
  const int k = static_cast<int>(p.small.channels);
  SmallChannelSums::divide(SmallChannelSums::most_taps(p), 8, &plan.tap_groups, &plan.tap_chunks);

  const int most_columns = k <= 2 ? 64 : 32;
  plan.columns = static_cast<int>(pieces(width, pieces(width, most_columns)));
  plan.rows = kTile / k / plan.columns;
  if (plan.rows > height) plan.rows = height;
  const auto tiles = [&] { return pieces(height, plan.rows) * pieces(width, plan.columns); };
  while (p.geometry.batch * tiles() < kEnoughBlocks && plan.rows > 8) plan.rows = (plan.rows + 1) / 2;
  plan.rows = static_cast<int>(pieces(height, pieces(height, plan.rows)));

  const int64_t met = int64_t{most_met(p.vertical, plan.rows)} * most_met(p.horizontal, plan.columns);
  const int groups_fit = 256 / plan.tap_groups < kMostGroups ? 256 / plan.tap_groups : kMostGroups;
  plan.images = 1;
  if (tiles() == 1) {
    const int64_t fit[] = {kEdge * groups_fit / (met > 0 ? met : 1), kTile / (int64_t{height} * width * k),
                           p.geometry.batch / kEnoughBlocks};
    int64_t least = fit[0];
    for (int64_t f : fit) least = f < least ? f : least;
    if (least > 1) plan.images = static_cast<int>(least);
  }
  plan.blocks = pieces(p.geometry.batch, plan.images) * tiles();
  const int64_t count = plan.images * met > 0 ? plan.images * met : 1;
  plan.pixel_groups = static_cast<int>(pieces(pieces(count, pieces(count, kEdge * groups_fit)), kEdge));

  const int ld = 2 * half_row(plan.pixel_groups), w_ld = 2 * half_row(plan.tap_groups);
  const int staged = static_cast<int>(p.large.channels < 64 ? p.large.channels : 64);
  const int channels = staged > 0 ? round_up(staged, 8) : 8;
  plan.depth = kStage / ld / 8 * 8;
  const int w_fit = 6144 / static_cast<int>(sizeof(T)) / w_ld / 8 * 8;
  if (plan.depth > w_fit) plan.depth = w_fit;
  if (plan.depth > channels) plan.depth = channels;
  plan.splits = 256 / (plan.tap_groups * plan.pixel_groups);
  if (plan.splits > plan.depth) plan.splits = plan.depth;
  plan.threads = round_up(plan.tap_groups * plan.pixel_groups * plan.splits, 32);

  plan.x_table = Table(large_columns(p, true, plan.pixel_count(), plan.depth), plan.threads);
  plan.w_table = Table(kEdge * plan.tap_groups, plan.threads);

  Arena arena;
  plan.x = arena.take(sizeof(T), plan.depth * ld);
  plan.w = arena.take(sizeof(T), plan.depth * w_ld);
  plan.sums = arena.take(sizeof(T), plan.images * plan.rows * plan.columns * k);
  plan.pixels = arena.take(kPixelBytes, plan.pixel_count());
  plan.taps = arena.take(kTapBytes, kEdge * plan.tap_groups);
  plan.scope = arena.take(sizeof(Scope), 1);
  plan.tile = arena.take(sizeof(Tile), 1);
  plan.bytes = arena.bytes;
  return plan;
}

// The positions of a residue of the large side that may meet positions [begin, begin + count) of the small side.
SDGAN_DEVICE void meet(const Residue& r, int begin, int count, int* first, int* number) {
  const int reach = (r.taps - 1) * r.read_tap;
  const int low = r.read_first + (reach < 0 ? reach : 0), high = r.read_first + (reach < 0 ? 0 : reach);
  const int from = begin - high, to = begin + count - 1 - low;  // of i * read_step
  *first = from <= 0 ? 0 : (from + r.read_step - 1) / r.read_step;
  const int last = to < 0 ? -1 : least(to / r.read_step, r.count - 1);
  *number = r.taps == 0 || last < *first ? 0 : last - *first + 1;
}

SDGAN_DEVICE Tile tile_of(const SmallChannelProblem& p, const ToSmallPlan& plan, int64_t block) {
  const int height = static_cast<int>(p.small.height), width = static_cast<int>(p.small.width);
  const int across = (width + plan.columns - 1) / plan.columns, down = (height + plan.rows - 1) / plan.rows;
  const int64_t group = quotient(block, int64_t{across} * down);
  const int place = static_cast<int>(block - group * across * down);
  Tile tile{group * plan.images,           plan.images, place / across * plan.rows,
            place % across * plan.columns, plan.rows,   plan.columns};
  if (p.geometry.batch - tile.image < tile.images) tile.images = static_cast<int>(p.geometry.batch - tile.image);
  if (height - tile.row < tile.rows) tile.rows = height - tile.row;
  if (width - tile.column < tile.columns) tile.columns = width - tile.column;
  return tile;
}

// P[t, m] of the taps [first, first + taps) and the pixels of the table, added to the tile tap by tap.
template <class T>
SDGAN_DEVICE void add_products(const SmallChannelProblem& p, const Factor<T>& products, const Pixels& pixels, int count,
                               const Taps& taps, int first, int end, const Smem<Tile>& shared, const Smem<T>& sums) {
  const Tile tile = shared[0];
  const int small_channels = static_cast<int>(p.small.channels);
  for (int t = first; t < end; ++t) {
    const int k = taps.channel[t], up = taps.row[t] - tile.row, left = taps.column[t] - tile.column;
    for (int m = threadIdx.x; m < count; m += blockDim.x) {
      const int row = pixels.row[m] + up, column = pixels.column[m] + left;
      if (row < 0 || row >= tile.rows || column < 0 || column >= tile.columns) continue;
      const int image = static_cast<int>(pixels.image[m] - tile.image);
      const int at = ((image * tile.rows + row) * tile.columns + column) * small_channels + k;
      sums[at] = sums[at] + products.data[products.at(t - first, m)];
    }
    if (k == small_channels - 1) __syncthreads();  // the next tap's pixels are other threads'
  }
}

template <class S>
SDGAN_DEVICE void write_tile(const SmallChannelProblem& p, const Smem<Tile>& shared, const Smem<compute_t<S>>& sums) {
  using T = compute_t<S>;
  const Tile tile = shared[0];
  const int k_end = static_cast<int>(p.small.channels);
  const int count = tile.images * tile.rows * tile.columns * k_end;
  const T negative_slope = static_cast<T>(p.negative_slope);
  SDGAN_ROLLED
  for (int e = threadIdx.x; e < count; e += blockDim.x) {
    int rest = e;  // in the order of memory
    const auto next = [&rest](int size) {
      const int index = rest % size;
      rest /= size;
      return index;
    };
    int k = p.channels_last ? next(k_end) : 0;
    const int column = next(tile.columns);
    const int row = next(tile.rows);
    if (!p.channels_last) k = next(k_end);
    const T bias = p.bias ? load_one<S>(p.bias, k) : T(0);
    const T x = sums[((rest * tile.rows + row) * tile.columns + column) * k_end + k] + bias;
    const int64_t at = small_index(p, tile.image + rest, k, tile.row + row, tile.column + column);
    if (p.preactivation) store_one<S>(p.preactivation, at, x);
    store_one<S>(p.small_out, at, activate<Math>(p.output_activation(), x, negative_slope));
  }
}

template <class T>
SDGAN_DEVICE void put_column(const Smem<T>& to, int at, bool adds, T a, T b, T c, T d) {
  const Quad<T> before = adds ? read_quad(to, at) : Quad<T>{};
  write_quad(to, at, Quad<T>{{before.lane[0] + a, before.lane[1] + b, before.lane[2] + c, before.lane[3] + d}});
}

template <class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor<S>)
    small_channel_to_small_kernel(SmallChannelProblem p, ToSmallPlan plan) {
  using T = compute_t<S>;
  const Factor<T> x{smem_at<T>(plan.x), half_row(plan.pixel_groups)}, w{smem_at<T>(plan.w), half_row(plan.tap_groups)};
  const Smem<T> sums = smem_at<T>(plan.sums);
  const Pixels pixels = pixels_at(plan.pixels, plan.pixel_count());
  const Taps taps = taps_at(plan.taps, kEdge * plan.tap_groups);
  const Smem<Scope> scope = smem_at<Scope>(plan.scope);
  const Smem<Tile> tile = smem_at<Tile>(plan.tile);
  constexpr int kRuns = 8 / sizeof(S);  // 16 registers
  const int all_channels = static_cast<int>(p.large.channels);
  const int taps_most = kEdge * plan.tap_groups, pixels_most = plan.pixel_count();
  if (threadIdx.x == 0) tile[0] = tile_of(p, plan, blockIdx.x);
  const int tile_size = plan.images * plan.rows * plan.columns * static_cast<int>(p.small.channels);
  for (int e = threadIdx.x; e < tile_size; e += blockDim.x) sums[e] = T(0);

  const int thread = static_cast<int>(threadIdx.x);
  const int tap_group = thread % plan.tap_groups, pixel_group = thread / plan.tap_groups % plan.pixel_groups;
  const int split = thread / (plan.tap_groups * plan.pixel_groups);
  const Walk x_walk(plan.x_table), w_walk(plan.w_table);

  for (int v = 0; v < p.residues(); ++v) {
    __syncthreads();
    if (threadIdx.x == 0) {
      const Tile t = tile[0];
      Scope f = whole_residue(p, v);
      f.region.image = t.image;
      meet(f.vertical, t.row, t.rows, &f.region.row, &f.region.rows);
      meet(f.horizontal, t.column, t.columns, &f.region.column, &f.region.columns);
      scope[0] = f;
    }
    __syncthreads();
    // Read again where they are needed: registers are short.
    const auto taps_end = [&] { return Scope(scope[0]).taps(p); };
    const auto region_end = [&] {
      return Tile(tile[0]).images * static_cast<int>(Scope(scope[0]).region.image_pixels());
    };
    for (int first_pixel = 0; first_pixel < region_end(); first_pixel += pixels_most) {
      for (int first_tap = 0; first_tap < taps_end(); first_tap += taps_most) {
        const int count = least(region_end() - first_pixel, pixels_most);
        const int tap_count = least(taps_end() - first_tap, taps_most);
        __syncthreads();
        fill_pixels(p, scope, first_pixel, count, pixels);
        fill_taps(p, scope, first_tap, tap_count, 0, taps);
        T acc[kEdge][kEdge] = {};
        for (int c = 0; c < all_channels; c += plan.depth) {
          const int channels = least(all_channels - c, plan.depth);
          __syncthreads();
          stage_large<S, true, kRuns>(p, pixels, count, c, channels, x_walk, x);
          stage_weight<S, false>(p, taps, tap_count, c, channels, channels, w_walk, w);
          __syncthreads();
          if (split < plan.splits) multiply(acc, x, pixel_group, w, tap_group, split, channels, plan.splits);
        }
        // The products take the place of X, some groups of taps at a time; splits are added in order.
        for (int t = 0; t < tap_count; t += plan.depth) {
          const bool mine = kEdge * tap_group >= t && kEdge * tap_group < t + plan.depth;
          for (int s = 0; s < plan.splits; ++s) {
            __syncthreads();
            if (!mine || split != s) continue;
            int at = x.at(kEdge * tap_group - t, kEdge * pixel_group);
            PRAGMA_UNROLL
            for (int j = 0; j < kEdge; ++j, at += 2 * x.half) {
              put_column(x.data, at, s > 0, acc[0][j], acc[1][j], acc[2][j], acc[3][j]);
              put_column(x.data, at + x.half, s > 0, acc[4][j], acc[5][j], acc[6][j], acc[7][j]);
            }
          }
          __syncthreads();
          add_products(p, x, pixels, count, taps, t, least(tap_count, t + plan.depth), tile, sums);
        }
      }
    }
  }
  __syncthreads();
  write_tile<S>(p, tile, sums);
}

// ---------------------------------------------------------------------------------------------- to_large
struct ToLargePlan {
  int channel_groups, channel_chunks;
  int pixel_groups;
  int depth;  // taps that are staged together
  int threads;
  int64_t blocks;  // along x: pixels, then residues
  Table a_table, w_table;
  int a, w, pixels, taps, scope, bytes;  // shared memory

  SDGAN_HD int pixel_count() const { return kEdge * pixel_groups; }
};

template <class T>
ToLargePlan plan_to_large(const SmallChannelProblem& p) {
  ToLargePlan plan;
  SmallChannelSums::divide(p.large.channels, 16, &plan.channel_groups, &plan.channel_chunks);
  const int64_t pixels =  // of the largest residue, over the batch
      p.geometry.batch * pieces(p.large.height, p.vertical.count) * pieces(p.large.width, p.horizontal.count);
  plan.pixel_groups = 256 / plan.channel_groups < 64 ? 256 / plan.channel_groups : 64;
  const auto blocks = [&] { return pieces(pixels, plan.pixel_count()) * p.residues(); };
  while (plan.pixel_groups > 8 && blocks() * plan.channel_chunks < 128) plan.pixel_groups = (plan.pixel_groups + 1) / 2;
  plan.blocks = blocks();
  plan.threads = round_up(plan.pixel_groups * plan.channel_groups, 32);
  plan.depth = sizeof(T) == 4 ? 16 : 8;
  plan.a_table = Table(plan.pixel_count(), plan.threads);
  plan.w_table = Table(kEdge * plan.channel_groups, plan.threads);
  Arena arena;
  plan.a = arena.take(sizeof(T), plan.depth * 2 * half_row(plan.pixel_groups));
  plan.w = arena.take(sizeof(T), plan.depth * 2 * half_row(plan.channel_groups));
  plan.pixels = arena.take(kPixelBytes, plan.pixel_count());
  plan.taps = arena.take(kTapBytes, plan.depth);
  plan.scope = arena.take(sizeof(Scope), 1);
  plan.bytes = arena.bytes;
  return plan;
}

// Eight results that are neighbours in memory, or not: pixels m .. m + count of a channel, or channels of a pixel.
template <class S, class T>
SDGAN_DEVICE void write_run(const SmallChannelProblem& p, void* to, const Pixels& pixels, int m, int64_t channel,
                            int count, const T (&x)[kEdge]) {
  S* at = static_cast<S*>(to) + large_index(p, pixels.image[m], channel, pixels.pixel[m]);
  const bool dense = p.channels_last || neighbours(pixels, m, count);
  if (dense && count == kEdge && aligned16(at)) {
    PRAGMA_UNROLL
    for (int v = 0; v < kEdge / kPack<S>; ++v) {
      Raw<S> raw;
      PRAGMA_UNROLL
      for (int j = 0; j < kPack<S>; ++j) raw.lane[j] = from_compute<S>(x[v * kPack<S> + j]);
      reinterpret_cast<Raw<S>*>(at)[v] = raw;
    }
  } else {
    PRAGMA_UNROLL
    for (int j = 0; j < kEdge; ++j) {
      if (j >= count) continue;
      if (!dense) at = static_cast<S*>(to) + large_index(p, pixels.image[m + j], channel, pixels.pixel[m + j]) - j;
      at[j] = from_compute<S>(x[j]);
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor<S>)
    small_channel_to_large_kernel(SmallChannelProblem p, ToLargePlan plan) {
  using T = compute_t<S>;
  const Factor<T> a{smem_at<T>(plan.a), half_row(plan.pixel_groups)};
  const Factor<T> w{smem_at<T>(plan.w), half_row(plan.channel_groups)};
  const Pixels pixels = pixels_at(plan.pixels, plan.pixel_count());
  const Taps taps = taps_at(plan.taps, plan.depth);

  const int residues = p.residues(), v = residues == 1 ? 0 : static_cast<int>(blockIdx.x % residues);
  const Smem<Scope> scope = smem_at<Scope>(plan.scope);
  if (threadIdx.x == 0) scope[0] = whole_residue(p, v);
  __syncthreads();
  const int64_t first_pixel = quotient(blockIdx.x, residues) * plan.pixel_count();
  const int64_t pixels_left = p.geometry.batch * Scope(scope[0]).region.image_pixels() - first_pixel;
  if (pixels_left <= 0) return;
  const int count = static_cast<int>(pixels_left < plan.pixel_count() ? pixels_left : plan.pixel_count());
  const int first_channel = static_cast<int>(blockIdx.y) * kEdge * plan.channel_groups;
  const int channels_left = static_cast<int>(p.large.channels) - first_channel;
  const int channels = least(channels_left, kEdge * plan.channel_groups);
  fill_pixels(p, scope, first_pixel, count, pixels);

  // Neighbouring threads write neighbours in memory. Results are acc[pixel][channel], or in NCHW acc[channel][pixel].
  const int thread = static_cast<int>(threadIdx.x);
  const int channel_group = p.channels_last ? thread % plan.channel_groups : thread / plan.pixel_groups;
  const int pixel_group = p.channels_last ? thread / plan.channel_groups : thread % plan.pixel_groups;
  const bool active = p.channels_last ? pixel_group < plan.pixel_groups : channel_group < plan.channel_groups;
  T acc[kEdge][kEdge] = {};
  if (p.bias) {
    T bias[kEdge];
    PRAGMA_UNROLL
    for (int j = 0; j < kEdge; ++j) {
      const int c = kEdge * channel_group + j;
      bias[j] = c < channels ? load_one<S>(p.bias, first_channel + c) : T(0);
    }
    PRAGMA_UNROLL
    for (int i = 0; i < kEdge; ++i) {
      PRAGMA_UNROLL
      for (int j = 0; j < kEdge; ++j) acc[i][j] = p.channels_last ? bias[j] : bias[i];
    }
  }

  const Walk a_walk(plan.a_table), w_walk(plan.w_table);
  const int taps_end = Scope(scope[0]).taps(p);
  for (int first_tap = 0; first_tap < taps_end; first_tap += plan.depth) {
    const int tap_count = taps_end - first_tap < plan.depth ? taps_end - first_tap : plan.depth;
    fill_taps(p, scope, first_tap, tap_count, 0, taps);
    __syncthreads();
    stage_small<S, true>(p, pixels, count, taps, tap_count, a_walk, a);
    stage_weight<S, true>(p, taps, tap_count, first_channel, channels, tap_count, w_walk, w);
    __syncthreads();
    if (active && p.channels_last) multiply(acc, a, pixel_group, w, channel_group, 0, tap_count, 1);
    if (active && !p.channels_last) multiply(acc, w, channel_group, a, pixel_group, 0, tap_count, 1);
  }
  if (taps_end == 0) __syncthreads();  // the table of pixels is complete

  const int m = kEdge * pixel_group, c = kEdge * channel_group;
  const int rows = p.channels_last ? count - m : channels - c, run = p.channels_last ? channels - c : count - m;
  if (!active || run <= 0) return;
  const int run_count = run < kEdge ? run : kEdge;
  const Activation activation = p.output_activation();
  const T negative_slope = static_cast<T>(p.negative_slope);
  const auto write_row = [&](int i, void* to, const T(&x)[kEdge]) {
    if (i < rows) {
      write_run<S>(p, to, pixels, p.channels_last ? m + i : m, first_channel + (p.channels_last ? c : c + i), run_count,
                   x);
    }
  };
  if (p.preactivation == nullptr &&
      (activation == Activation::none || activation == Activation::relu || activation == Activation::leaky_relu)) {
    const T below = activation == Activation::none ? T(1) : negative_slope;
    PRAGMA_UNROLL
    for (int i = 0; i < kEdge; ++i) {
      T x[kEdge];
      PRAGMA_UNROLL
      for (int j = 0; j < kEdge; ++j) {
        const T negative = activation == Activation::relu ? T(0) : acc[i][j] * below;
        x[j] = acc[i][j] < 0 ? negative : acc[i][j];
      }
      write_row(i, p.large_out, x);
    }
    return;
  }
  // The rows take turns as row 0: the long activations are in the code once.
  SDGAN_ROLLED
  for (int i = 0; i < kEdge; ++i) {
    if (p.preactivation) write_row(i, p.preactivation, acc[0]);
    T x[kEdge];
    PRAGMA_UNROLL
    for (int j = 0; j < kEdge; ++j) x[j] = activate<Math>(activation, acc[0][j], negative_slope);
    write_row(i, p.large_out, x);
    PRAGMA_UNROLL
    for (int r = 0; r + 1 < kEdge; ++r) {
      PRAGMA_UNROLL
      for (int j = 0; j < kEdge; ++j) acc[r][j] = acc[r + 1][j];
    }
  }
}

}  // namespace
}  // namespace cuda

CudaError launch_small_channel(const SmallChannelParams& params, CudaStream stream) {
  const cuda::SmallChannelProblem p(params);
  if (p.geometry.batch == 0) return 0;
  return cuda::dispatch(p.dtype, [&](auto storage) -> CudaError {
    using S = decltype(storage);
    using T = compute_t<S>;
    if (p.small_out) {
      const cuda::ToSmallPlan plan = cuda::plan_to_small<T>(p);
      const CudaError error = cuda::launch(cuda::small_channel_to_small_kernel<S>, cuda::grid_of(plan.blocks),
                                           static_cast<unsigned>(plan.threads), plan.bytes, stream, p, plan);
      if (error != 0) return error;
    }
    if (p.large_out) {
      const cuda::ToLargePlan plan = cuda::plan_to_large<T>(p);
      const dim3 grid(cuda::grid_of(plan.blocks), static_cast<unsigned>(plan.channel_chunks));
      const CudaError error = cuda::launch(cuda::small_channel_to_large_kernel<S>, grid,
                                           static_cast<unsigned>(plan.threads), plan.bytes, stream, p, plan);
      if (error != 0) return error;
    }
    return p.sums_over_batch ? cuda::launch_small_channel_sums(p, stream) : 0;
  });
}

}  // namespace sdgan
