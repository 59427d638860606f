// Our own matrix products on CUDA: kernels/conv/implicit_gemm.h. Images are read and written where they lie; only for tensor
// cores, which want a pixel's channels contiguous and aligned, is an operand copied that is not.
#include "kernels/conv/implicit_gemm.h"
#include "kernels/conv/implicit_gemm_plan.h"
#include "ops/conv/backend.h"
#include "ops/conv/dispatch.h"
#include "ops/conv/epilogue.h"

namespace sdgan {
namespace {

void set_strides(int64_t (&strides)[4], const Tensor& t) {
  for (int i = 0; i < 4; ++i) strides[i] = t.stride(i);
}

// Sizes of the sides of the stride, which are input and output in either order.
template <class Params>
void set_geometry(Params& p, const Convolution& conv, const Tensor& weight, const Sizes& input,
                  const Sizes& output) {
  constexpr int64_t kMost = int64_t{1} << 30;  // kernels compute coordinates in 32 bits
  const Sizes &fine = conv.transposed ? output : input, &coarse = conv.transposed ? input : output;
  for (int axis = 0; axis < 2; ++axis) {
    const ImplicitGemmAxis a{fine[2 + axis],    coarse[2 + axis],    weight.size(2 + axis),
                         conv.stride[axis], conv.dilation[axis], conv.sides[2 * axis]};
    (axis == 0 ? p.vertical : p.horizontal) = a;
    const int64_t reach = a.fine + (a.coarse + 1) * a.stride + a.taps * a.dilation + a.pad;
    SDGAN_CHECK(reach < kMost, "images and kernels must span less than 2^30 pixels along each axis");
  }
  SDGAN_CHECK(weight.numel() < kMost, "weight must have less than 2^30 elements");
  p.batch = input[0];
  p.groups = conv.groups;
  p.dtype = dtype_of(weight, "weight");
}

// What may run on tensor cores here: the dtype, the device, torch's flag for tf32.
struct TensorCores {
  bool allowed = false;
  bool tf32 = false;

  TensorCores(const Convolution& conv, const Tensor& t) {
    const DType dtype = dtype_of(t, "input");
    if (dtype == DType::f64 || conv.groups != 1) return;
    if (dtype == DType::f32) {
      tf32 = tf32_allowed();
      if (!tf32) return;
    }
    launch(t, [&](CudaStream) {
      allowed = implicit_gemm_tensor_cores();
      return CudaError{0};
    });
  }
  bool take_channels(const Tensor& t) const {
    return allowed && t.size(1) % (16 / implicit_gemm::bytes_of(dtype_of(t, "input"))) == 0;
  }
};

// t, or its copy as tensor cores want it.
Tensor pixels_aligned(const Tensor& t) {
  int64_t size[4], stride[4];
  for (int i = 0; i < 4; ++i) size[i] = t.size(i);
  set_strides(stride, t);
  if (implicit_gemm::aligned_runs(t.const_data_ptr(), stride, size, 1, dtype_of(t, "input"))) return t;
  Tensor copy = empty_image(sizes_of(t), t, true);
  return torch::stable::copy_(copy, t);
}

template <class Params, class Launcher>
void run(Params& p, const Tensor& like, Launcher launcher) {
  const Tensor workspace = empty_doubles(like, (implicit_gemm_plan(p).workspace + 7) / 8);
  p.workspace = workspace.mutable_data_ptr();
  launch(like, [&](CudaStream stream) { return launcher(p, stream); });
}

// The product along the op (conv2d: to the coarse side) or, for the gradient of its input, against it.
void gather(const Convolution& conv, const TensorCores& cores, const Tensor& weight, bool to_fine, const Tensor& from,
            Tensor& to, ImplicitGemmParams p) {
  const bool tensor = cores.take_channels(from);
  const Tensor image = tensor ? pixels_aligned(from) : from;
  const bool forward = to_fine == conv.transposed;
  set_geometry(p, conv, weight, sizes_of(forward ? from : to), sizes_of(forward ? to : from));
  p.inputs = from.size(1);
  p.outputs = to.size(1);
  p.to_fine = to_fine;
  p.tensor_cores = tensor;
  p.tf32 = cores.tf32;
  p.input = image.const_data_ptr();
  p.weight = weight.const_data_ptr();
  p.output = to.mutable_data_ptr();
  set_strides(p.input_stride, image);
  set_strides(p.weight_stride, weight);
  set_strides(p.output_stride, to);
  if (to.numel() > 0) run(p, to, launch_implicit_gemm);
}

const char* supports(const ConvQuery& query) {
  return query.problem.cuda ? nullptr : "the implicit GEMM kernels are for CUDA";
}

Estimate estimate(const ConvQuery&) {
  return {false, 0, 0, "our kernels have not been measured against cuDNN on a GPU yet"};
}

Outputs forward(const ConvCall& call, const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  const Convolution& conv = call.conv;
  const bool channels_last = call.problem.channels_last;
  const bool keeps = derivative_needs_input(conv.activation);
  Tensor output = empty_image(call.output, input, channels_last);
  Tensor preactivation = keeps ? empty_image(call.output, input, channels_last) : empty_none(input);
  OptionalTensor vector;
  if (bias) vector = to_contiguous(*bias);
  ImplicitGemmParams p;
  p.activation = conv.activation;
  p.negative_slope = conv.negative_slope;
  p.bias = pointer(vector);
  p.preactivation = keeps ? preactivation.mutable_data_ptr() : nullptr;
  gather(conv, TensorCores(conv, input), weight, conv.transposed, input, output, p);
  return {output, preactivation};
}

Gradients backward(const ConvCall& call, const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                   const Tensor& saved, Wanted wanted) {
  const Convolution& conv = call.conv;
  const bool channels_last = call.problem.channels_last;
  const TensorCores cores(conv, input);
  const bool tensor = cores.take_channels(grad_output);
  auto [v, grad_bias] = before_activation(conv, grad_output, saved, {}, wanted.bias, channels_last || tensor);
  if (tensor) v = pixels_aligned(v);

  Tensor grad_input = wanted.input ? empty_image(sizes_of(input), input, channels_last) : empty_none(input);
  if (wanted.input) gather(conv, cores, weight, !conv.transposed, v, grad_input, {});

  Tensor grad_weight =
      wanted.weight ? empty_image(sizes_of(weight), weight, is_channels_last(weight)) : empty_none(input);
  if (wanted.weight) {
    const bool both = tensor && cores.take_channels(input);
    const Tensor image = both ? pixels_aligned(input) : input;
    const Tensor &coarse = conv.transposed ? image : v, &fine = conv.transposed ? v : image;
    ImplicitGemmWgradParams p;
    set_geometry(p, conv, weight, sizes_of(input), sizes_of(grad_output));
    p.coarse_channels = coarse.size(1);
    p.fine_channels = fine.size(1);
    p.tensor_cores = both;
    p.tf32 = cores.tf32;
    p.coarse = coarse.const_data_ptr();
    p.fine = fine.const_data_ptr();
    p.grad_weight = grad_weight.mutable_data_ptr();
    set_strides(p.coarse_stride, coarse);
    set_strides(p.fine_stride, fine);
    set_strides(p.grad_weight_stride, grad_weight);
    run(p, grad_weight, launch_implicit_gemm_wgrad);
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

const Backend kImplicitGemmBackend{"implicit_gemm", supports, estimate, direct_multiplications, forward, backward};

}  // namespace sdgan
