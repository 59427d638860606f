// Launches of implicit_gemm.h: choose a kernel, pack the weight for tensor cores before it, add the parts of a
// split K after it.
//
//   pack     [R, S, outputs, inputs] from any strides, K contiguous. Bytes: the weight, read and written once.
//   finish   output = act(bias + sum of the parts, in order). Bytes: 4 (8) * splits * elements read, output written.
//   wgrad    dW = sum of the parts, in order, in the weight's own strides and dtype.
#include "kernels/conv/implicit_gemm.cuh"

namespace sdgan {
namespace cuda {
namespace {

struct PackedWeight {
  const void* from;  // [output channels, input channels, R, S] with these strides
  int64_t stride[4];
  void* to;  // [R, S, output channels, input channels]
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
    const int64_t output = i / w.inputs, input = i - output * w.inputs;
    for (int64_t r = 0; r < w.r; ++r) {
      for (int64_t s = 0; s < w.s; ++s) {
        to[(r * w.s + s) * pairs + i] =
            from[output * w.stride[0] + input * w.stride[1] + r * w.stride[2] + s * w.stride[3]];
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
__global__ void __launch_bounds__(kThreads) implicit_gemm_finish_kernel(ImplicitGemmArguments g) {
  using T = compute_t<S>;
  const ImplicitGemmParams& p = g.p;
  const int64_t channels = p.output_channels(), size = p.output_pixels() * channels;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; e < size;
       e += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t pixel = e / channels, channel = e - pixel * channels;
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
__global__ void __launch_bounds__(kThreads) implicit_gemm_wgrad_finish_kernel(ImplicitGemmWgradArguments g) {
  using T = compute_t<S>;
  const ImplicitGemmWgradParams& p = g.p;
  const int64_t columns = p.columns(), size = p.geometry.y_channels * columns;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; e < size;
       e += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t y_channel = e / columns, column = e - y_channel * columns;
    const int64_t tap = column / p.group_x_channels(), x_channel = column - tap * p.group_x_channels();
    const int64_t r = tap / p.geometry.horizontal.taps, s = tap - r * p.geometry.horizontal.taps;
    store_one<S>(p.grad_weight,
                 y_channel * p.grad_weight_stride[0] + x_channel * p.grad_weight_stride[1] +
                     r * p.grad_weight_stride[2] + s * p.grad_weight_stride[3],
                 sum_of_parts<T>(g.parts, e, size, g.splits));
  }
}

constexpr int64_t kMostBlocks = 0x7fffffff;
constexpr CudaError kTooLarge = 9;  // cudaErrorInvalidConfiguration: a grid that CUDA does not have

unsigned blocks_of(int64_t elements) {
  return grid_of(std::min<int64_t>((elements + kThreads - 1) / kThreads, 16 * implicit_gemm::kProcessors));
}

// Copies the weight to the start of the workspace, and puts that copy into p.
CudaError pack(ImplicitGemmParams& p, CudaStream stream) {
  PackedWeight w{p.weight,
                 {p.weight_output_stride(), p.weight_input_stride(), p.weight_stride[2], p.weight_stride[3]},
                 p.workspace,
                 p.output_channels(),
                 p.input_channels(),
                 p.geometry.vertical.taps,
                 p.geometry.horizontal.taps};
  const int64_t pairs = w.outputs * w.inputs;
  p.weight = p.workspace;
  p.weight_stride[p.output_dimension()] = w.inputs;
  p.weight_stride[p.input_dimension()] = 1;
  p.weight_stride[2] = w.s * pairs;
  p.weight_stride[3] = pairs;
  if (p.dtype == DType::f32) {
    return launch(implicit_gemm_pack_kernel<float>, blocks_of(pairs), kThreads, 0, stream, w);
  }
  // Elements are only moved: this kernel is right for float16 too.
  return launch(implicit_gemm_pack_kernel<bf16>, blocks_of(pairs), kThreads, 0, stream, w);
}

// Whether kRun channels of the output are one aligned store. With one group a run begins at a multiple of kRun whatever
// the number of channels, and the last, shorter one is stored element by element.
bool stores_are_wide(const ImplicitGemmParams& p) {
  const int64_t channels = p.geometry.groups == 1 ? 8 : p.group_outputs();
  const int64_t sizes[4] = {p.geometry.batch, channels, p.output_size(0), p.output_size(1)};
  const bool aligned = reinterpret_cast<uintptr_t>(p.preactivation) % 16 == 0;  // null is too
  return aligned && implicit_gemm::aligned_runs(p.output, p.output_stride, sizes, 1, p.dtype);
}

}  // namespace
}  // namespace cuda

CudaError launch_implicit_gemm(const ImplicitGemmParams& p, const ImplicitGemmPlan& plan, CudaStream stream) {
  using namespace cuda;
  const int64_t size = p.output_pixels() * p.output_channels();
  if (size == 0) return 0;
  const ImplicitGemmTiles tiles = implicit_gemm_tiles(p, plan.tile);
  if (tiles.count * plan.splits > kMostBlocks) return kTooLarge;
  const unsigned blocks = static_cast<unsigned>(tiles.count * plan.splits);
  ImplicitGemmArguments g;
  g.p = p;
  g.row_tiles = static_cast<unsigned>(tiles.rows);
  g.column_tiles = static_cast<unsigned>(tiles.columns);
  g.splits = static_cast<unsigned>(plan.splits);
  g.parts = static_cast<char*>(p.workspace) + implicit_gemm_workspace(p, plan).packed;
  g.wide_stores = stores_are_wide(p);
  g.wide_parts = p.group_outputs() % 4 == 0;
  if (plan.packs_weight) {
    const CudaError error = pack(g.p, stream);
    if (error != 0) return error;
  }
  const CudaError error = plan.tensor_cores ? launch_implicit_gemm_tensor(g, plan.tile, blocks, stream)
                                            : launch_implicit_gemm_simt(g, blocks, stream);
  if (error != 0 || plan.splits == 1) return error;
  return dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return launch(implicit_gemm_finish_kernel<S>, blocks_of(size), kThreads, 0, stream, g);
  });
}

CudaError launch_implicit_gemm_wgrad(const ImplicitGemmWgradParams& p, const ImplicitGemmPlan& plan,
                                     CudaStream stream) {
  using namespace cuda;
  const int64_t size = p.geometry.y_channels * p.columns();
  if (size == 0) return 0;
  const ImplicitGemmTiles tiles = implicit_gemm_tiles(p, plan.tile);
  if (tiles.count * plan.splits > kMostBlocks) return kTooLarge;
  const unsigned blocks = static_cast<unsigned>(tiles.count * plan.splits);
  ImplicitGemmWgradArguments g;
  g.p = p;
  g.row_tiles = static_cast<unsigned>(tiles.rows);
  g.column_tiles = static_cast<unsigned>(tiles.columns);
  g.splits = static_cast<unsigned>(plan.splits);
  g.parts = p.workspace;
  const CudaError error = plan.tensor_cores ? launch_implicit_gemm_wgrad_tensor(g, plan.tile, blocks, stream)
                                            : launch_implicit_gemm_wgrad_simt(g, blocks, stream);
  if (error != 0) return error;
  return dispatch(p.dtype, [&](auto storage) {
    using S = decltype(storage);
    return launch(implicit_gemm_wgrad_finish_kernel<S>, blocks_of(size), kThreads, 0, stream, g);
  });
}

}  // namespace sdgan
