// Convolutions as matrix products whose operand is read in place, where it lies in the image (implicit GEMM): the three
// passes of geometry.h, CUDA alone.
//
//              a row is             a column is                        the sum (K) runs over
//   fprop      a pixel of y         a channel of y                     taps, channels of x
//   dgrad      a pixel of x         a channel of x                     taps, channels of y
//   wgrad      a channel of y       a tap and a channel of x           pixels of y
//
// fprop and dgrad are one kernel: dgrad runs by the residues of geometry.h, each of which is a convolution of stride 1,
// and all residues are one launch. The image that a pass reads is its input, the one that it writes its output:
//
//              input    output
//   fprop      x        y
//   dgrad      y        x
#pragma once

#include "kernels/activation.h"
#include "kernels/conv/geometry.h"
#include "kernels/launcher.h"
#include "kernels/scalar.h"

namespace sdgan {

// fprop or dgrad, followed by bias and activation. Strides are in elements, in the order n, c, h, w.
struct ImplicitGemmParams {
  ConvGeometry geometry;  // sizes are below 2^30
  Pass pass = Pass::fprop;
  DType dtype = DType::f32;
  Activation activation = Activation::none;
  double negative_slope = 0;
  bool tensor_cores = false;  // they may be used: implicit_gemm_tensor_cores() said so
  bool tf32 = false;          // and for float32, rounded to tf32

  const void* input = nullptr;  // [N, input channels, H, W] with the strides below, any
  int64_t input_stride[4] = {};
  const void* weight = nullptr;  // [Cy, Cx / groups, R, S]
  int64_t weight_stride[4] = {};
  const void* bias = nullptr;     // [output channels] or null
  void* output = nullptr;         // [N, output channels, H, W]: act(sum + bias)
  void* preactivation = nullptr;  // sum + bias, with the strides of output, or null
  int64_t output_stride[4] = {};
  void* workspace = nullptr;  // implicit_gemm_workspace(p, plan) bytes, 16-byte aligned, not initialised

  SDGAN_HD bool is_dgrad() const { return pass == Pass::dgrad; }
  SDGAN_HD int64_t residues() const {
    return residue_count(geometry.vertical, pass) * residue_count(geometry.horizontal, pass);
  }
  // Channels of all groups, then of one.
  SDGAN_HD int64_t input_channels() const { return is_dgrad() ? geometry.y_channels : geometry.x_channels; }
  SDGAN_HD int64_t output_channels() const { return is_dgrad() ? geometry.x_channels : geometry.y_channels; }
  SDGAN_HD int64_t group_inputs() const { return input_channels() / geometry.groups; }
  SDGAN_HD int64_t group_outputs() const { return output_channels() / geometry.groups; }
  // Height (axis 0) and width (axis 1).
  SDGAN_HD int64_t input_size(int axis) const { return is_dgrad() ? geometry.axis(axis).y : geometry.axis(axis).x; }
  SDGAN_HD int64_t output_size(int axis) const { return is_dgrad() ? geometry.axis(axis).x : geometry.axis(axis).y; }
  SDGAN_HD int64_t output_pixels() const { return is_dgrad() ? geometry.x_pixels() : geometry.y_pixels(); }
  // The weight's dimensions of the output's and of the input's channels.
  SDGAN_HD int output_dimension() const { return is_dgrad() ? 1 : 0; }
  SDGAN_HD int input_dimension() const { return is_dgrad() ? 0 : 1; }
  SDGAN_HD int64_t weight_output_stride() const { return weight_stride[output_dimension()]; }
  SDGAN_HD int64_t weight_input_stride() const { return weight_stride[input_dimension()]; }
};

struct ImplicitGemmWgradParams {
  ConvGeometry geometry;
  DType dtype = DType::f32;
  bool tensor_cores = false;  // as in ImplicitGemmParams
  bool tf32 = false;

  const void* y = nullptr;  // [N, Cy, P, Q]: the gradient of conv2d's output, or conv_transpose2d's input
  int64_t y_stride[4] = {};
  const void* x = nullptr;  // [N, Cx, H, W]: conv2d's input, or the gradient of conv_transpose2d's output
  int64_t x_stride[4] = {};
  void* grad_weight = nullptr;  // [Cy, Cx / groups, R, S]
  int64_t grad_weight_stride[4] = {};
  void* workspace = nullptr;  // as in ImplicitGemmParams

  SDGAN_HD int64_t group_y_channels() const { return geometry.y_channels / geometry.groups; }
  SDGAN_HD int64_t group_x_channels() const { return geometry.x_channels / geometry.groups; }
  SDGAN_HD int64_t columns() const { return geometry.taps() * group_x_channels(); }  // (r, s, channel of x)
};

// What is chosen for a product; implicit_gemm_plan.h chooses. Tests ask for another tile or another number of splits.
struct ImplicitGemmPlan {
  bool tensor_cores = false;
  bool packs_weight = false;  // tensor cores: the weight is copied to [R, S, outputs, inputs] first
  int tile = 64;              // rows and columns of sums that a block makes; on tensor cores it may also be 128
  int64_t splits = 1;         // parts of K, with fixed bounds; they are added in order
};

// float32, float64, bfloat16 and float16, any strides. 16-bit types, and float32 where tf32 may stand for it, run on
// tensor cores where there is one group and each pixel's channels are contiguous and 16-byte aligned. The launchers are
// as launcher.h says, with the plan of implicit_gemm_plan(p).
#if SDGAN_CUDA
// Whether the kernels for tensor cores can run on the current device: it and the code in this build are sm_80 or later.
bool implicit_gemm_tensor_cores();
CudaError launch_implicit_gemm(const ImplicitGemmParams& p, const ImplicitGemmPlan& plan, CudaStream stream);
CudaError launch_implicit_gemm_wgrad(const ImplicitGemmWgradParams& p, const ImplicitGemmPlan& plan, CudaStream stream);
#else
inline bool implicit_gemm_tensor_cores() { return false; }
inline CudaError launch_implicit_gemm(const ImplicitGemmParams&, const ImplicitGemmPlan&, CudaStream) {
  return kCudaNotBuilt;
}
inline CudaError launch_implicit_gemm_wgrad(const ImplicitGemmWgradParams&, const ImplicitGemmPlan&, CudaStream) {
  return kCudaNotBuilt;
}
#endif

}  // namespace sdgan
