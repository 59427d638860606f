// wgrad with the sums by channel, and the sum of the partial results: small_channel.cuh has the products,
// SmallChannelSums how the work is divided.
//
// A block sums a slice of the large pixels, 32 or 48 at a time: dW for up to 64 taps and 128 channels in registers.
// Where that needs fewer threads than there are, the pixels are split among them and the splits' sums added in order at
// the end. The sums of large_in are one more tap, in which every pixel meets the number 1. The gradient of the input is
// another launch (small_channel.cu): where the output is small it does not read the large image at all, and where the
// input is small it is wanted by another pass of the training than dW; asked for together, they read the large image
// twice.
//   Bytes: the large image once (and its saved), partial twice (at most 2 x 9 MB).
// Multiplications an element of the large image, with taps padded to 8: 32 for 5x5 to one channel, 48 (sums: 56) for
// 4x4 to three.
#include "kernels/conv/small_channel.cuh"
#include "kernels/cuda/reduce.cuh"

namespace sdgan {
namespace cuda {
namespace {

constexpr int kResultRow = kEdge * kEdge + 1;  // of a thread in shared memory; an odd number keeps banks apart

// What a block sums. Blocks count channels first, then taps, residues, slices.
struct Work {
  int64_t begin, end;  // of the residue's pixels, over the batch
  int64_t slice;
  int first_channel, channels, first_tap, tap_count;
  int ones;  // the row of partial for the sums of large_in
};

struct WgradPlan {
  int tap_groups, tap_chunks, channel_groups, channel_chunks, splits;
  int64_t slices, rows;
  int depth;  // large pixels that are staged together
  Table x_table, a_table;
  int x, a, pixels, taps, scope, work, bytes;  // shared memory; the splits' sums take the place of x and a
};

template <class T>
WgradPlan plan_wgrad(const SmallChannelProblem& p) {
  const SmallChannelSums sums(p);
  WgradPlan plan;
  plan.tap_groups = sums.tap_groups;
  plan.tap_chunks = sums.tap_chunks;
  plan.channel_groups = sums.channel_groups;
  plan.channel_chunks = sums.channel_chunks;
  plan.slices = sums.slices;
  plan.rows = sums.rows;
  const int row = 2 * (half_row(plan.channel_groups) + half_row(plan.tap_groups));
  plan.depth = 48 * row * sizeof(T) <= 40960 ? 48 : 32;
  plan.x_table = Table(large_columns(p, false, plan.depth, kEdge * plan.channel_groups), kThreads);
  plan.a_table = Table(kEdge * plan.tap_groups, kThreads);
  const int groups = plan.tap_groups * plan.channel_groups;
  plan.splits = least(kThreads / groups, plan.depth);
  Arena arena, splits;
  plan.x = arena.take(sizeof(T), plan.depth * 2 * half_row(plan.channel_groups));
  plan.a = arena.take(sizeof(T), plan.depth * 2 * half_row(plan.tap_groups));
  if (plan.splits > 1) splits.take(sizeof(T), kResultRow * groups);
  if (arena.bytes < splits.bytes) arena = splits;
  plan.pixels = arena.take(kPixelBytes, 2 * plan.depth);
  plan.taps = arena.take(kTapBytes, kEdge * plan.tap_groups);
  plan.scope = arena.take(sizeof(Scope), 1);
  plan.work = arena.take(sizeof(Work), 1);
  plan.bytes = arena.bytes;
  return plan;
}

SDGAN_DEVICE int residue_of(const SmallChannelProblem& p, const WgradPlan& plan) {
  const int64_t block = quotient(blockIdx.x, int64_t{plan.channel_chunks} * plan.tap_chunks);
  return static_cast<int>(block - quotient(block, p.residues()) * p.residues());
}

SDGAN_DEVICE Work work_of(const SmallChannelProblem& p, const WgradPlan& plan, const Scope& f) {
  const int channels = kEdge * plan.channel_groups, taps = kEdge * plan.tap_groups;
  const int64_t rest = quotient(blockIdx.x, plan.channel_chunks);
  Work w;
  w.first_channel = static_cast<int>(blockIdx.x - rest * plan.channel_chunks) * channels;
  w.channels = least(static_cast<int>(p.large.channels) - w.first_channel, channels);
  w.first_tap = static_cast<int>(rest - quotient(rest, plan.tap_chunks) * plan.tap_chunks) * taps;
  w.tap_count = least((p.weight_gradient ? f.taps(p) : 0) + (p.large_sums ? 1 : 0) - w.first_tap, taps);
  w.ones = (p.weight_gradient ? static_cast<int>(p.taps()) : 0) + residue_of(p, plan);
  w.slice = quotient(quotient(rest, plan.tap_chunks), p.residues());
  const int64_t pixels = p.geometry.batch * f.region.image_pixels();
  const int64_t rounds = quotient(quotient(pixels + plan.slices - 1, plan.slices) + plan.depth - 1, plan.depth);
  w.begin = w.slice * rounds * plan.depth;
  w.end = pixels - w.begin < rounds * plan.depth ? pixels : w.begin + rounds * plan.depth;
  return w;
}

template <class S>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor<S>)
    small_channel_wgrad_kernel(SmallChannelProblem p, WgradPlan plan) {
  using T = compute_t<S>;
  const Factor<T> x{smem_at<T>(plan.x), half_row(plan.channel_groups)};
  const Factor<T> a{smem_at<T>(plan.a), half_row(plan.tap_groups)};
  const auto pixels = [&plan](int table) {
    return pixels_at(plan.pixels + table * kPixelBytes * plan.depth, plan.depth);
  };
  const Taps taps = taps_at(plan.taps, kEdge * plan.tap_groups);

  const Smem<Scope> scope = smem_at<Scope>(plan.scope);
  const Smem<Work> shared = smem_at<Work>(plan.work);
  if (threadIdx.x == 0) {
    scope[0] = whole_residue(p, residue_of(p, plan));
    shared[0] = work_of(p, plan, scope[0]);
  }
  __syncthreads();
  const auto work = [&] { return Work(shared[0]); };  // read again where it is needed: registers are short
  if (work().tap_count <= 0) return;
  const auto count_at = [&](int64_t first) {
    const int64_t left = work().end - first;
    return static_cast<int>(left < plan.depth ? left : plan.depth);
  };

  const int thread = static_cast<int>(threadIdx.x), groups = plan.tap_groups * plan.channel_groups;
  const int split = thread / groups, group = thread - split * groups;
  const int tap_group = group / plan.channel_groups, channel_group = group - tap_group * plan.channel_groups;
  if (p.weight_gradient) {
    fill_taps(p, scope, work().first_tap, work().tap_count, work().ones, taps);
  } else if (thread == 0) {
    taps.row[0] = 0;
    taps.column[0] = 0;
    taps.channel[0] = kOnes;
    taps.index[0] = work().ones;
  }
  fill_pixels(p, scope, work().begin, count_at(work().begin), pixels(0));
  __syncthreads();

  constexpr int kRuns = sizeof(S) == 2 ? 3 : 8 / sizeof(S);  // a thread has 3 for 128 channels
  T acc[kEdge][kEdge] = {};                                  // [tap][channel]
  const Walk x_walk(plan.x_table), a_walk(plan.a_table);
  int table = 0;
  for (int64_t at = work().begin; at < work().end; at += plan.depth, table ^= 1) {
    const int count = count_at(at);
    stage_large<S, false, kRuns>(p, pixels(table), count, work().first_channel, work().channels, x_walk, x);
    stage_small<S, false>(p, pixels(table), count, taps, work().tap_count, a_walk, a);
    __syncthreads();
    fill_pixels(p, scope, at + plan.depth, count_at(at + plan.depth), pixels(table ^ 1));
    if (split < plan.splits) multiply(acc, a, tap_group, x, channel_group, split, count, plan.splits);
    __syncthreads();
  }

  const Smem<T> other = smem_at<T>(0);
  for (int s = 1; s < plan.splits; ++s) {
    if (split == s) {
      PRAGMA_UNROLL
      for (int e = 0; e < kEdge * kEdge; ++e) other[kResultRow * group + e] = acc[e / kEdge][e % kEdge];
    }
    __syncthreads();
    if (split == 0) {
      PRAGMA_UNROLL
      for (int e = 0; e < kEdge * kEdge; ++e) acc[e / kEdge][e % kEdge] += T(other[kResultRow * group + e]);
    }
    __syncthreads();
  }
  if (split != 0) return;
  const Work w = work();
  PRAGMA_UNROLL
  for (int i = 0; i < kEdge; ++i) {
    const int t = kEdge * tap_group + i, c = kEdge * channel_group;
    if (t >= w.tap_count) continue;
    T* to = static_cast<T*>(p.partial) + (w.slice * plan.rows + taps.index[t]) * p.large.channels + w.first_channel + c;
    PRAGMA_UNROLL
    for (int j = 0; j < kEdge; ++j) {
      if (c + j < w.channels) to[j] = acc[i][j];
    }
  }
}

// The sums of small_in by channel, over a slice of the small pixels: [small_slices, K].
template <class S>
__global__ void __launch_bounds__(kThreads) small_channel_small_sums_kernel(SmallChannelProblem p, void* partial) {
  using T = compute_t<S>;
  const Reader<S> reader = small_reader<S>(p);
  const int64_t plane = p.small.pixels(), pixels = p.geometry.batch * plane;
  const int64_t length = quotient(pixels + gridDim.x - 1, gridDim.x);
  const int64_t begin = blockIdx.x * length, end = pixels - begin < length ? pixels : begin + length;
  for (int k = 0; k < p.small.channels; ++k) {
    T sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
      const int64_t image = p.channels_last ? 0 : quotient(i, plane);
      sum += reader.one(p.channels_last ? i * p.small.channels + k
                                        : (image * p.small.channels + k) * plane + i - image * plane);
    }
    const double total = block_sum(sum);
    if (threadIdx.x == 0) static_cast<T*>(partial)[blockIdx.x * p.small.channels + k] = static_cast<T>(total);
  }
}

constexpr int kResults = 32, kAdders = kThreads / kResults;  // of a block: results, and threads for each

struct SumPlan {
  int64_t slices, rows, small_slices, small_offset;
};

// Sums over the slices, in order. Either result may be null.
template <class S>
__global__ void __launch_bounds__(kThreads)
    small_channel_gradients_kernel(SmallChannelProblem p, SumPlan plan,
                                   void* grad_weight,  // [C, K, R, S] with p.weight_stride
                                   void* grad_bias) {  // [C] or [K]
  using T = compute_t<S>;
  const int64_t weights = grad_weight ? p.taps() * p.large.channels : 0;
  const int64_t result = int64_t{blockIdx.x} * kResults + threadIdx.x % kResults;
  const bool is_weight = result < weights;
  const int64_t tap = is_weight ? quotient(result, p.large.channels) : 0;
  const int64_t c = is_weight ? result - tap * p.large.channels : result - weights;  // of the bias: C or K
  const int64_t bias_channels = p.large_sums ? p.large.channels : p.small.channels;
  const bool valid = is_weight || (grad_bias != nullptr && c < bias_channels);

  // The terms: `slices` of them `step` apart, and of large_sums the next residues' rows after each.
  const int64_t size = plan.rows * p.large.channels;
  const int64_t sums_row = p.weight_gradient ? p.taps() : 0;
  const bool of_small = !is_weight && !p.large_sums;
  const int64_t rows = is_weight || of_small ? 1 : p.residues();
  const int64_t count = of_small ? plan.small_slices : plan.slices, step = of_small ? p.small.channels : size;
  const int64_t row_offset = (is_weight ? tap : sums_row) * p.large.channels;
  const T* first = static_cast<const T*>(p.partial) + (of_small ? plan.small_offset : row_offset) + c;
  double sum = 0;
  if (valid) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t s = threadIdx.x / kResults; s < count; s += kAdders) sum += first[s * step + row * p.large.channels];
    }
  }
  __shared__ double shared[kThreads];
  const Smem<double> sums{shared};
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= kResults || !valid) return;
  sum = 0;
  for (int i = 0; i < kAdders; ++i) sum += sums[i * kResults + threadIdx.x];
  if (is_weight) {
    const int64_t place = tap / p.small.channels, k = tap % p.small.channels;
    const int64_t r = place / p.geometry.horizontal.taps, s = place % p.geometry.horizontal.taps;
    const int64_t to =
        c * p.weight_stride[0] + k * p.weight_stride[1] + r * p.weight_stride[2] + s * p.weight_stride[3];
    store_one<S>(grad_weight, to, static_cast<T>(sum));
  } else {
    store_one<S>(grad_bias, c, static_cast<T>(sum));
  }
}

}  // namespace

CudaError launch_small_channel_sums(const SmallChannelProblem& p, CudaStream stream) {
  return dispatch(p.dtype, [&](auto storage) -> CudaError {
    using S = decltype(storage);
    using T = compute_t<S>;
    const SmallChannelSums sums(p);
    if (sums.rows > 0) {
      const WgradPlan plan = plan_wgrad<T>(p);
      const int64_t blocks = plan.slices * p.residues() * plan.tap_chunks * plan.channel_chunks;
      const CudaError error =
          launch(small_channel_wgrad_kernel<S>, grid_of(blocks), kThreads, plan.bytes, stream, p, plan);
      if (error != 0) return error;
    }
    if (!p.small_sums) return 0;
    void* partial = static_cast<T*>(p.partial) + sums.small_offset();
    return launch(small_channel_small_sums_kernel<S>, grid_of(sums.small_slices), kThreads, 0, stream, p, partial);
  });
}

}  // namespace cuda

CudaError launch_small_channel_gradients(const SmallChannelGradientsParams& params, CudaStream stream) {
  const cuda::SmallChannelProblem p(params.conv);
  const SmallChannelSums sums(p);
  const int64_t bias_channels = p.large_sums ? p.large.channels : p.small.channels;
  const int64_t results =
      (params.grad_weight ? p.taps() * p.large.channels : 0) + (params.grad_bias ? bias_channels : 0);
  return cuda::dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    const int64_t blocks = (results + cuda::kResults - 1) / cuda::kResults;
    const cuda::SumPlan plan{sums.slices, sums.rows, sums.small_slices, sums.small_offset()};
    return cuda::launch(cuda::small_channel_gradients_kernel<S>, cuda::grid_of(blocks), cuda::kThreads, 0, stream, p,
                        plan, params.grad_weight, params.grad_bias);
  });
}

}  // namespace sdgan
