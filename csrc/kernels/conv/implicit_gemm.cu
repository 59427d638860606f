// Launches of implicit_gemm.h: choose a kernel, pack the weight for tensor cores before it, add the parts of a
// split K after it.
//
//   pack     [R, S, outputs, inputs] from any strides, K contiguous. Bytes: the weight, read and written once.
//   finish   y = act(bias + sum of the parts, in order). Bytes: 4 (8) * splits * outputs read, y written.
//   wgrad    dW = sum of the parts, in order, in the weight's own strides and dtype.
#include "kernels/conv/implicit_gemm.cuh"

namespace sdgan {
namespace cuda {
namespace {

struct PackedWeight {
  const void* from;  // [outputs, inputs, R, S] with these strides
  int64_t stride[4];
  void* to;  // [R, S, outputs, inputs]
  int64_t outputs, inputs, r, s;
};

// A thread per (output, input): what is contiguous in a weight of NCHW, its taps, stays within the thread.
template <class S>
__global__ void __launch_bounds__(kThreads) implicit_gemm_pack_kernel(PackedWeight w) {
  const int64_t pairs = w.outputs * w.inputs;
  const S* from = static_cast<const S*>(w.from);
  S* to = static_cast<S*>(w.to);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < pairs;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t m = i / w.inputs, c = i - m * w.inputs;
    for (int64_t r = 0; r < w.r; ++r) {
      for (int64_t s = 0; s < w.s; ++s) {
        to[(r * w.s + s) * pairs + i] = from[m * w.stride[0] + c * w.stride[1] + r * w.stride[2] + s * w.stride[3]];
      }
    }
  }
}

template <class T>
SDGAN_DEVICE T sum_of_parts(const void* parts, int64_t i, int64_t size, unsigned splits) {
  T sum = 0;
  for (unsigned split = 0; split < splits; ++split) sum += static_cast<const T*>(parts)[split * size + i];
  return sum;
}

template <class S>
__global__ void __launch_bounds__(kThreads) implicit_gemm_finish_kernel(GatherGemm g) {
  using T = compute_t<S>;
  const ImplicitGemmParams& p = g.p;
  const int64_t size = p.pixels() * p.outputs;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; e < size;
       e += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t pixel = e / p.outputs, channel = e - pixel * p.outputs;
    const int64_t line = pixel / p.output_size(1), n = line / p.output_size(0);
    const int64_t at = n * p.output_stride[0] + channel * p.output_stride[1] +
                       (line - n * p.output_size(0)) * p.output_stride[2] +
                       (pixel - line * p.output_size(1)) * p.output_stride[3];
    T x = sum_of_parts<T>(g.parts, e, size, g.splits);
    if (p.bias != nullptr) x += load_one<S>(p.bias, channel);
    if (p.preactivation != nullptr) store_one<S>(p.preactivation, at, x);
    store_one<S>(p.output, at, activate<Math>(p.activation, x, static_cast<T>(p.negative_slope)));
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads) implicit_gemm_wgrad_finish_kernel(WgradGemm g) {
  using T = compute_t<S>;
  const ImplicitGemmWgradParams& p = g.p;
  const int64_t columns = p.columns(), size = p.coarse_channels * columns;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; e < size;
       e += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t coarse = e / columns, column = e - coarse * columns;
    const int64_t tap = column / p.group_fine(), fine = column - tap * p.group_fine();
    const int64_t r = tap / p.horizontal.taps, s = tap - r * p.horizontal.taps;
    store_one<S>(p.grad_weight,
                 coarse * p.grad_weight_stride[0] + fine * p.grad_weight_stride[1] + r * p.grad_weight_stride[2] +
                     s * p.grad_weight_stride[3],
                 sum_of_parts<T>(g.parts, e, size, g.splits));
  }
}

constexpr int64_t kMostBlocks = 0x7fffffff;
constexpr CudaError kTooLarge = 9;  // cudaErrorInvalidConfiguration: a grid that CUDA does not have

unsigned blocks_of(int64_t elements) {
  return grid_of(std::min<int64_t>((elements + kThreads - 1) / kThreads, 16 * implicit_gemm::kProcessors));
}

CudaError pack(GatherGemm& g, void* to, CudaStream stream) {
  const ImplicitGemmParams& p = g.p;
  PackedWeight w{p.weight,
                 {p.weight_output_stride(), p.weight_input_stride(), p.weight_stride[2], p.weight_stride[3]},
                 to,
                 p.outputs,
                 p.inputs,
                 p.vertical.taps,
                 p.horizontal.taps};
  const int64_t pairs = w.outputs * w.inputs;
  g.p.weight = to;
  g.p.weight_stride[p.to_fine ? 1 : 0] = w.inputs;
  g.p.weight_stride[p.to_fine ? 0 : 1] = 1;
  g.p.weight_stride[2] = w.s * pairs;
  g.p.weight_stride[3] = pairs;
  if (p.dtype == DType::f32) {
    return launch(implicit_gemm_pack_kernel<float>, blocks_of(pairs), kThreads, 0, stream, w);
  }
  return launch(implicit_gemm_pack_kernel<bf16>, blocks_of(pairs), kThreads, 0, stream, w);  // or f16: they are only moved
}

}  // namespace
}  // namespace cuda

CudaError launch_implicit_gemm(const ImplicitGemmParams& p, CudaStream stream) {
  using namespace cuda;
  if (p.pixels() == 0 || p.outputs == 0) return 0;
  const ImplicitGemmPlan plan = implicit_gemm_plan(p);
  const int64_t blocks = p.phases() * p.groups * plan.splits * plan.row_tiles * plan.column_tiles;
  if (blocks > kMostBlocks) return kTooLarge;
  GatherGemm g;
  g.p = p;
  g.row_tiles = static_cast<unsigned>(plan.row_tiles);
  g.column_tiles = static_cast<unsigned>(plan.column_tiles);
  g.splits = static_cast<unsigned>(plan.splits);
  g.parts = static_cast<char*>(p.workspace) + plan.packed;
  const int64_t output_sizes[4] = {p.batch, p.groups == 1 ? 8 : p.group_outputs(), p.output_size(0), p.output_size(1)};
  g.wide_stores = implicit_gemm::aligned_runs(p.output, p.output_stride, output_sizes, 1, p.dtype) &&
                  (p.preactivation == nullptr || reinterpret_cast<uintptr_t>(p.preactivation) % 16 == 0);
  g.wide_parts = p.group_outputs() % 4 == 0;
  if (plan.packs) {
    const CudaError error = pack(g, p.workspace, stream);
    if (error != 0) return error;
  }
  const CudaError error = plan.tensor_cores ? launch_gather_tensor(g, plan.tile, static_cast<unsigned>(blocks), stream)
                                            : launch_gather_simt(g, static_cast<unsigned>(blocks), stream);
  if (error != 0 || plan.splits == 1) return error;
  return dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return launch(implicit_gemm_finish_kernel<S>, blocks_of(p.pixels() * p.outputs), kThreads, 0, stream, g);
  });
}

CudaError launch_implicit_gemm_wgrad(const ImplicitGemmWgradParams& p, CudaStream stream) {
  using namespace cuda;
  const int64_t size = p.coarse_channels * p.columns();
  if (size == 0) return 0;
  const ImplicitGemmPlan plan = implicit_gemm_plan(p);
  const int64_t blocks = p.groups * plan.splits * plan.row_tiles * plan.column_tiles;
  if (blocks > kMostBlocks) return kTooLarge;
  WgradGemm g;
  g.p = p;
  g.row_tiles = static_cast<unsigned>(plan.row_tiles);
  g.column_tiles = static_cast<unsigned>(plan.column_tiles);
  g.splits = static_cast<unsigned>(plan.splits);
  g.parts = p.workspace;
  const CudaError error = plan.tensor_cores ? launch_wgrad_tensor(g, plan.tile, static_cast<unsigned>(blocks), stream)
                                            : launch_wgrad_simt(g, static_cast<unsigned>(blocks), stream);
  if (error != 0) return error;
  return dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return launch(implicit_gemm_wgrad_finish_kernel<S>, blocks_of(size), kThreads, 0, stream, g);
  });
}

}  // namespace sdgan
