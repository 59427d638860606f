// Our own matrix products on CUDA: kernels/conv/implicit_gemm.h. Images are read and written where they lie. Only the
// kernels for tensor cores want each pixel's channels contiguous and aligned: for them any other image is copied.
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

// The kernels compute coordinates in 32 bits.
void check_sizes(const ConvGeometry& geometry, const Tensor& weight) {
  constexpr int64_t kMost = int64_t{1} << 30;
  for (int i = 0; i < 2; ++i) {
    const ConvAxis& a = geometry.axis(i);
    const int64_t reach = a.x + (a.y + 1) * a.stride + a.taps * a.dilation + a.pad;
    SDGAN_CHECK(reach < kMost, "images and kernels must span less than 2^30 pixels along each axis");
  }
  SDGAN_CHECK(weight.numel() < kMost, "weight must have less than 2^30 elements");
}

// What may run on tensor cores, by device, dtype and torch's flag for tf32.
struct TensorCores {
  bool allowed = false;
  bool tf32 = false;
  DType dtype;

  TensorCores(const ConvProblem& problem, const Tensor& on_device) : dtype(problem.dtype) {
    if (dtype == DType::f64 || problem.geometry.groups != 1) return;
    if (dtype == DType::f32) {
      tf32 = tf32_allowed();
      if (!tf32) return;
    }
    launch(on_device, [&](CudaStream) {
      allowed = implicit_gemm_tensor_cores();
      return CudaError{0};
    });
  }
  bool can_read(const Tensor& image) const {
    const int64_t lanes = 16 / implicit_gemm::bytes_of(dtype);
    return allowed && image.size(1) % lanes == 0;
  }
};

// The image itself where tensor cores can read it as it lies, else a copy in channels_last.
Tensor with_aligned_pixels(const Tensor& image, DType dtype) {
  int64_t size[4], stride[4];
  for (int i = 0; i < 4; ++i) size[i] = image.size(i);
  set_strides(stride, image);
  if (implicit_gemm::aligned_runs(image.const_data_ptr(), stride, size, 1, dtype)) return image;
  Tensor copy = empty_image(sizes_of(image), image, true);
  return torch::stable::copy_(copy, image);
}

template <class Params, class Launcher>
void run(Params& p, const Tensor& like, Launcher launcher) {
  const ImplicitGemmPlan plan = implicit_gemm_plan(p);
  const Tensor workspace = empty_doubles(like, (implicit_gemm_workspace(p, plan).bytes() + 7) / 8);
  p.workspace = workspace.mutable_data_ptr();
  launch(like, [&](CudaStream stream) { return launcher(p, plan, stream); });
}

// fprop or dgrad from `input` to `output`; bias, activation and what belongs to them are already in p.
void run_pass(const ConvCall& call, Pass pass, const TensorCores& cores, const Tensor& input, const Tensor& weight,
              Tensor& output, ImplicitGemmParams p) {
  check_sizes(call.problem.geometry, weight);
  if (output.numel() == 0) return;
  const bool on_tensor_cores = cores.can_read(input);
  const Tensor image = on_tensor_cores ? with_aligned_pixels(input, cores.dtype) : input;
  p.geometry = call.problem.geometry;
  p.pass = pass;
  p.dtype = call.problem.dtype;
  p.tensor_cores = on_tensor_cores;
  p.tf32 = cores.tf32;
  p.input = image.const_data_ptr();
  p.weight = weight.const_data_ptr();
  p.output = output.mutable_data_ptr();
  set_strides(p.input_stride, image);
  set_strides(p.weight_stride, weight);
  set_strides(p.output_stride, output);
  run(p, output, launch_implicit_gemm);
}

void run_wgrad(const ConvCall& call, const TensorCores& cores, const Tensor& y, const Tensor& x, Tensor& grad_weight) {
  check_sizes(call.problem.geometry, grad_weight);
  const bool on_tensor_cores = cores.can_read(y) && cores.can_read(x);
  const Tensor y_image = on_tensor_cores ? with_aligned_pixels(y, cores.dtype) : y;
  const Tensor x_image = on_tensor_cores ? with_aligned_pixels(x, cores.dtype) : x;
  ImplicitGemmWgradParams p;
  p.geometry = call.problem.geometry;
  p.dtype = call.problem.dtype;
  p.tensor_cores = on_tensor_cores;
  p.tf32 = cores.tf32;
  p.y = y_image.const_data_ptr();
  p.x = x_image.const_data_ptr();
  p.grad_weight = grad_weight.mutable_data_ptr();
  set_strides(p.y_stride, y_image);
  set_strides(p.x_stride, x_image);
  set_strides(p.grad_weight_stride, grad_weight);
  run(p, grad_weight, launch_implicit_gemm_wgrad);
}

const char* supports(const ConvQuery& query) {
  if (!query.problem.cuda) return "the implicit GEMM kernels are for CUDA";
  return query.problem.residual_or_scale ? "the implicit GEMM kernels have no residual and no output scale" : nullptr;
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
  OptionalTensor dense_bias;
  if (bias) dense_bias = to_contiguous(*bias);
  ImplicitGemmParams p;
  p.activation = conv.activation;
  p.negative_slope = conv.negative_slope;
  p.bias = pointer(dense_bias);
  p.preactivation = keeps ? preactivation.mutable_data_ptr() : nullptr;
  run_pass(call, call.problem.forward(), TensorCores(call.problem, input), input, weight, output, p);
  return {output, preactivation};
}

Gradients backward(const ConvCall& call, const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                   const Tensor& saved, Wanted wanted) {
  const bool channels_last = call.problem.channels_last;
  const TensorCores cores(call.problem, input);
  const bool on_tensor_cores = cores.can_read(grad_output);
  auto [grad, grad_bias] =
      before_activation(call.conv, grad_output, saved, {}, wanted.bias, channels_last || on_tensor_cores);
  if (on_tensor_cores) grad = with_aligned_pixels(grad, cores.dtype);  // once for both products

  Tensor grad_input = empty_none(input);
  if (wanted.input) {
    grad_input = empty_image(call.input, input, channels_last);
    run_pass(call, call.problem.input_gradient(), cores, grad, weight, grad_input, {});
  }
  Tensor grad_weight = empty_none(input);
  if (wanted.weight) {
    grad_weight = empty_image(sizes_of(weight), weight, is_channels_last(weight));
    const Tensor &y = call.problem.transposed ? input : grad, &x = call.problem.transposed ? grad : input;
    run_wgrad(call, cores, y, x, grad_weight);
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

const Backend kImplicitGemmBackend{"implicit_gemm", supports, estimate, direct_multiplications, forward, backward};

}  // namespace sdgan
