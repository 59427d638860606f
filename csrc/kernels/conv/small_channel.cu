// wide_to_thin and thin_to_wide: small_channel.cuh has the products.
//
// wide_to_thin: a block owns a tile of thin pixels (in shared memory) and runs over the wide pixels that meet it, phase
// by phase, up to 416 at a time: their products with all taps in registers, then tap by tap into the tile. Two pixels
// never add to the same thin one within a tap, so the order of every sum is fixed. A tile is the whole image where that
// leaves enough blocks, so that each wide pixel is read once; smaller tiles read their halo again, from the L2
// cache. Few pixels and many channels (4x4 -> 1x1) are split among threads by channels.
//   Bytes: X once (and its saved), Y once.
// thin_to_wide: a block owns up to 128 wide channels of up to 512 wide pixels.
//   Bytes: X once, Y once.
// Multiplications a wide element, with taps padded to 8: 32 for 5x5 to one channel, 48 for 4x4 to three.
#include "kernels/conv/small_channel.cuh"

namespace sdgan {
namespace cuda {
namespace {

int round_up(int n, int to) { return (n + to - 1) / to * to; }
int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

// ------------------------------------------------------------------------------------------ wide_to_thin
struct ToThinPlan {
  int tap_groups, tap_chunks;  // of 8 taps in registers together; chunks re-read X
  int pixel_groups, splits;    // of 8 pixels; of the channels
  int depth;                   // channels that are staged together
  int images, rows, columns;   // the thin tile
  int threads;
  int64_t blocks;
  Table x_table, w_table;
  int x, w, sums, pixels, taps, scope, tile, bytes;  // shared memory

  SDGAN_HD int pixel_count() const { return kEdge * pixel_groups; }
};

// For Y = 0 .. extent - 1 in tiles of `tile`: the wide positions of a phase that meet a tile are at most these.
int most_met(const SmallChannelAxis& a, bool fine, int tile) {
  int most = 0;
  for (int f = 0; f < (fine ? a.stride : 1); ++f) {
    const SmallChannelPhase phase = small_channel_phase(a, fine, f);
    const int64_t met = (tile - 1 + int64_t{phase.taps - 1} * (phase.shift < 0 ? -phase.shift : phase.shift)) /
                            phase.advance + 1;
    const int here = phase.taps == 0 ? 0 : met < phase.count ? static_cast<int>(met) : phase.count;
    if (here > most) most = here;
  }
  return most;
}

struct Tile {  // thin pixels
  int64_t image;
  int images, row, column, rows, columns;
};

// 48 KiB of shared memory in all: X 26, W 6, sums 8, tables 8.
template <class T>
ToThinPlan plan_to_thin(const SmallChannelParams& p) {
  constexpr int kMostGroups = 52, kTile = 8192 / sizeof(T), kStage = 26624 / sizeof(T);
  constexpr int64_t kEnoughBlocks = 128;
  ToThinPlan plan;
  const int height = static_cast<int>(p.vertical.thin), width = static_cast<int>(p.horizontal.thin);
  const int k = static_cast<int>(p.thin_channels);
  SmallChannelSums::divide(SmallChannelSums::most_taps(p), 8, &plan.tap_groups, &plan.tap_chunks);

  const int most_columns = k <= 2 ? 64 : 32;
  plan.columns = static_cast<int>(pieces(width, pieces(width, most_columns)));
  plan.rows = kTile / k / plan.columns;
  if (plan.rows > height) plan.rows = height;
  const auto tiles = [&] { return pieces(height, plan.rows) * pieces(width, plan.columns); };
  while (p.batch * tiles() < kEnoughBlocks && plan.rows > 8) plan.rows = (plan.rows + 1) / 2;
  plan.rows = static_cast<int>(pieces(height, pieces(height, plan.rows)));

  const int64_t met = int64_t{most_met(p.vertical, p.wide_is_fine, plan.rows)} *
                      most_met(p.horizontal, p.wide_is_fine, plan.columns);
  const int groups_fit = 256 / plan.tap_groups < kMostGroups ? 256 / plan.tap_groups : kMostGroups;
  plan.images = 1;
  if (tiles() == 1) {
    const int64_t fit[] = {kEdge * groups_fit / (met > 0 ? met : 1), kTile / (int64_t{height} * width * k),
                           p.batch / kEnoughBlocks};
    int64_t least = fit[0];
    for (int64_t f : fit) least = f < least ? f : least;
    if (least > 1) plan.images = static_cast<int>(least);
  }
  plan.blocks = pieces(p.batch, plan.images) * tiles();
  const int64_t count = plan.images * met > 0 ? plan.images * met : 1;
  plan.pixel_groups = static_cast<int>(pieces(pieces(count, pieces(count, kEdge * groups_fit)), kEdge));

  const int ld = 2 * half_row(plan.pixel_groups), w_ld = 2 * half_row(plan.tap_groups);
  const int channels = p.channels > 0 ? round_up(static_cast<int>(p.channels < 64 ? p.channels : 64), 8) : 8;
  plan.depth = kStage / ld / 8 * 8;
  const int w_fit = 6144 / static_cast<int>(sizeof(T)) / w_ld / 8 * 8;
  if (plan.depth > w_fit) plan.depth = w_fit;
  if (plan.depth > channels) plan.depth = channels;
  plan.splits = 256 / (plan.tap_groups * plan.pixel_groups);
  if (plan.splits > plan.depth) plan.splits = plan.depth;
  plan.threads = round_up(plan.tap_groups * plan.pixel_groups * plan.splits, 32);

  plan.x_table = Table(wide_columns(p, true, plan.pixel_count(), plan.depth), plan.threads);
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

// The wide positions of a phase that may meet thin positions [begin, begin + count).
SDGAN_DEVICE void meet(const SmallChannelPhase& f, int begin, int count, int* first, int* number) {
  const int reach = (f.taps - 1) * f.shift;
  const int low = f.origin + (reach < 0 ? reach : 0), high = f.origin + (reach < 0 ? 0 : reach);
  const int from = begin - high, to = begin + count - 1 - low;  // of i * advance
  *first = from <= 0 ? 0 : (from + f.advance - 1) / f.advance;
  const int last = to < 0 ? -1 : to / f.advance < f.count ? to / f.advance : f.count - 1;
  *number = f.taps == 0 || last < *first ? 0 : last - *first + 1;
}

SDGAN_DEVICE Tile tile_of(const SmallChannelParams& p, const ToThinPlan& plan, int64_t block) {
  const int height = static_cast<int>(p.vertical.thin), width = static_cast<int>(p.horizontal.thin);
  const int across = (width + plan.columns - 1) / plan.columns, down = (height + plan.rows - 1) / plan.rows;
  const int64_t group = quotient(block, int64_t{across} * down);
  const int place = static_cast<int>(block - group * across * down);
  Tile tile{group * plan.images, plan.images, place / across * plan.rows, place % across * plan.columns, plan.rows,
            plan.columns};
  if (p.batch - tile.image < tile.images) tile.images = static_cast<int>(p.batch - tile.image);
  if (height - tile.row < tile.rows) tile.rows = height - tile.row;
  if (width - tile.column < tile.columns) tile.columns = width - tile.column;
  return tile;
}

// P[t, m] of the taps [first, first + taps) and the pixels of the table, added to the tile tap by tap.
template <class T>
SDGAN_DEVICE void add_products(const SmallChannelParams& p, const Factor<T>& products, const Pixels& pixels, int count,
                               const Taps& taps, int first, int end, const Smem<Tile>& shared, const Smem<T>& sums) {
  const Tile tile = shared[0];
  const int thin_channels = static_cast<int>(p.thin_channels);
  for (int t = first; t < end; ++t) {
    const int k = taps.channel[t], up = taps.row[t] - tile.row, left = taps.column[t] - tile.column;
    for (int m = threadIdx.x; m < count; m += blockDim.x) {
      const int row = pixels.row[m] + up, column = pixels.column[m] + left;
      if (row < 0 || row >= tile.rows || column < 0 || column >= tile.columns) continue;
      const int image = static_cast<int>(pixels.image[m] - tile.image);
      const int at = ((image * tile.rows + row) * tile.columns + column) * thin_channels + k;
      sums[at] = sums[at] + products.data[products.at(t - first, m)];
    }
    if (k == thin_channels - 1) __syncthreads();  // the next tap's pixels are other threads'
  }
}

template <class S>
SDGAN_DEVICE void write_tile(const SmallChannelParams& p, const Smem<Tile>& shared, const Smem<compute_t<S>>& sums) {
  using T = compute_t<S>;
  const Tile tile = shared[0];
  const int k_end = static_cast<int>(p.thin_channels);
  const int count = tile.images * tile.rows * tile.columns * k_end;
  const T slope = static_cast<T>(p.negative_slope);
  SDGAN_ROLLED
  for (int e = threadIdx.x; e < count; e += blockDim.x) {
    int rest = e, k = 0, row, column;  // in the order of memory
    if (p.channels_last) k = rest % k_end, rest /= k_end;
    column = rest % tile.columns, rest /= tile.columns;
    row = rest % tile.rows, rest /= tile.rows;
    if (!p.channels_last) k = rest % k_end, rest /= k_end;
    const T bias = p.bias ? load_one<S>(p.bias, k) : T(0);
    const T x = sums[((rest * tile.rows + row) * tile.columns + column) * k_end + k] + bias;
    const int64_t at = thin_index(p, tile.image + rest, k, tile.row + row, tile.column + column);
    if (p.preactivation) store_one<S>(p.preactivation, at, x);
    store_one<S>(p.thin_out, at, activate<Math>(p.output_activation(), x, slope));
  }
}

template <class T>
SDGAN_DEVICE void put_column(const Smem<T>& to, int at, bool adds, T a, T b, T c, T d) {
  const Quad<T> before = adds ? read_quad(to, at) : Quad<T>{};
  write_quad(to, at, Quad<T>{{before.lane[0] + a, before.lane[1] + b, before.lane[2] + c, before.lane[3] + d}});
}

template <class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor<S>)
    small_channel_wide_to_thin_kernel(SmallChannelParams p, ToThinPlan plan) {
  using T = compute_t<S>;
  const Factor<T> x{smem_at<T>(plan.x), half_row(plan.pixel_groups)}, w{smem_at<T>(plan.w), half_row(plan.tap_groups)};
  const Smem<T> sums = smem_at<T>(plan.sums);
  const Pixels pixels = pixels_at(plan.pixels, plan.pixel_count());
  const Taps taps = taps_at(plan.taps, kEdge * plan.tap_groups);
  const Smem<Scope> scope = smem_at<Scope>(plan.scope);
  const Smem<Tile> tile = smem_at<Tile>(plan.tile);
  constexpr int kRuns = sizeof(S) == 2 ? 4 : sizeof(S) == 4 ? 2 : 1;  // 16 registers
  const int all_channels = static_cast<int>(p.channels);
  const int taps_most = kEdge * plan.tap_groups, pixels_most = plan.pixel_count();
  if (threadIdx.x == 0) tile[0] = tile_of(p, plan, blockIdx.x);
  const int tile_size = plan.images * plan.rows * plan.columns * static_cast<int>(p.thin_channels);
  for (int e = threadIdx.x; e < tile_size; e += blockDim.x) sums[e] = T(0);

  const int thread = static_cast<int>(threadIdx.x);
  const int tap_group = thread % plan.tap_groups, pixel_group = thread / plan.tap_groups % plan.pixel_groups;
  const int split = thread / (plan.tap_groups * plan.pixel_groups);
  const Walk x_walk(plan.x_table), w_walk(plan.w_table);

  for (int phase = 0; phase < phase_count(p); ++phase) {
    __syncthreads();
    if (threadIdx.x == 0) {
      const Tile t = tile[0];
      Scope f = whole_phase(p, phase);
      f.region.image = t.image;
      meet(f.v, t.row, t.rows, &f.region.row, &f.region.rows);
      meet(f.h, t.column, t.columns, &f.region.column, &f.region.columns);
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
          stage_wide<S, true, kRuns>(p, pixels, count, c, channels, x_walk, x);
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

// ------------------------------------------------------------------------------------------ thin_to_wide
struct ToWidePlan {
  int channel_groups, channel_chunks;
  int pixel_groups;
  int depth;  // taps that are staged together
  int threads;
  int64_t blocks;                 // along x: pixels, then phases
  Table a_table, w_table;
  int a, w, pixels, taps, scope, bytes;  // shared memory

  SDGAN_HD int pixel_count() const { return kEdge * pixel_groups; }
};

template <class T>
ToWidePlan plan_to_wide(const SmallChannelParams& p) {
  ToWidePlan plan;
  SmallChannelSums::divide(p.channels, 16, &plan.channel_groups, &plan.channel_chunks);
  int64_t pixels = 0;  // of the largest phase, over the batch
  for (int axis = 0; axis < 2; ++axis) {
    const SmallChannelAxis& a = axis == 0 ? p.vertical : p.horizontal;
    const int64_t count = p.wide_is_fine ? pieces(a.wide, a.stride) : a.wide;
    pixels = axis == 0 ? p.batch * count : pixels * count;
  }
  plan.pixel_groups = 256 / plan.channel_groups < 64 ? 256 / plan.channel_groups : 64;
  const auto blocks = [&] { return pieces(pixels, plan.pixel_count()) * phase_count(p); };
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
SDGAN_DEVICE void write_run(const SmallChannelParams& p, void* to, const Pixels& pixels, int m, int64_t channel, int count,
                            const T (&x)[kEdge]) {
  S* at = static_cast<S*>(to) + wide_index(p, pixels.image[m], channel, pixels.pixel[m]);
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
      if (!dense) at = static_cast<S*>(to) + wide_index(p, pixels.image[m + j], channel, pixels.pixel[m + j]) - j;
      at[j] = from_compute<S>(x[j]);
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor<S>)
    small_channel_thin_to_wide_kernel(SmallChannelParams p, ToWidePlan plan) {
  using T = compute_t<S>;
  const Factor<T> a{smem_at<T>(plan.a), half_row(plan.pixel_groups)};
  const Factor<T> w{smem_at<T>(plan.w), half_row(plan.channel_groups)};
  const Pixels pixels = pixels_at(plan.pixels, plan.pixel_count());
  const Taps taps = taps_at(plan.taps, plan.depth);

  const int phases = phase_count(p), phase = phases == 1 ? 0 : static_cast<int>(blockIdx.x % phases);
  const Smem<Scope> scope = smem_at<Scope>(plan.scope);
  if (threadIdx.x == 0) scope[0] = whole_phase(p, phase);
  __syncthreads();
  const int64_t first_pixel = quotient(blockIdx.x, phases) * plan.pixel_count();
  const int64_t pixels_left = p.batch * Scope(scope[0]).region.image_pixels() - first_pixel;
  if (pixels_left <= 0) return;
  const int count = static_cast<int>(pixels_left < plan.pixel_count() ? pixels_left : plan.pixel_count());
  const int first_channel = static_cast<int>(blockIdx.y) * kEdge * plan.channel_groups;
  const int channels_left = static_cast<int>(p.channels) - first_channel;
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
    stage_thin<S, true>(p, pixels, count, taps, tap_count, a_walk, a);
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
  const T slope = static_cast<T>(p.negative_slope);
  const auto write_row = [&](int i, void* to, const T(&x)[kEdge]) {
    if (i < rows) {
      write_run<S>(p, to, pixels, p.channels_last ? m + i : m, first_channel + (p.channels_last ? c : c + i),
                   run_count, x);
    }
  };
  if (p.preactivation == nullptr && (activation == Activation::none || activation == Activation::relu ||
                                     activation == Activation::leaky_relu)) {
    const T below = activation == Activation::none ? T(1) : slope;
    PRAGMA_UNROLL
    for (int i = 0; i < kEdge; ++i) {
      T x[kEdge];
      PRAGMA_UNROLL
      for (int j = 0; j < kEdge; ++j) {
        x[j] = acc[i][j] < 0 ? activation == Activation::relu ? T(0) : acc[i][j] * below : acc[i][j];
      }
      write_row(i, p.wide_out, x);
    }
    return;
  }
  SDGAN_ROLLED  // the rows take turns as row 0: the long activations are in the code once
  for (int i = 0; i < kEdge; ++i) {
    if (p.preactivation) write_row(i, p.preactivation, acc[0]);
    T x[kEdge];
    PRAGMA_UNROLL
    for (int j = 0; j < kEdge; ++j) x[j] = activate<Math>(activation, acc[0][j], slope);
    write_row(i, p.wide_out, x);
    PRAGMA_UNROLL
    for (int r = 0; r + 1 < kEdge; ++r) {
      PRAGMA_UNROLL
      for (int j = 0; j < kEdge; ++j) acc[r][j] = acc[r + 1][j];
    }
  }
}

}  // namespace
}  // namespace cuda

CudaError launch_small_channel(const SmallChannelParams& p, CudaStream stream) {
  if (p.batch == 0) return 0;
  return cuda::dispatch(p.dtype, [&](auto storage) -> CudaError {
    using S = decltype(storage);
    using T = compute_t<S>;
    if (p.thin_out) {
      const cuda::ToThinPlan plan = cuda::plan_to_thin<T>(p);
      const CudaError error = cuda::launch(cuda::small_channel_wide_to_thin_kernel<S>, cuda::grid_of(plan.blocks),
                                           static_cast<unsigned>(plan.threads), plan.bytes, stream, p, plan);
      if (error != 0) return error;
    }
    if (p.wide_out) {
      const cuda::ToWidePlan plan = cuda::plan_to_wide<T>(p);
      const dim3 grid(cuda::grid_of(plan.blocks), static_cast<unsigned>(plan.channel_chunks));
      const CudaError error = cuda::launch(cuda::small_channel_thin_to_wide_kernel<S>, grid,
                                           static_cast<unsigned>(plan.threads), plan.bytes, stream, p, plan);
      if (error != 0) return error;
    }
    return p.sums_over_batch ? cuda::launch_small_channel_sums(p, stream) : 0;
  });
}

}  // namespace sdgan
