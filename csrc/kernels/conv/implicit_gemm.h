// Convolutions as matrix products whose operand is gathered while it is read (implicit GEMM): forward and gradients of
// conv2d and conv_transpose2d, CUDA alone.
//
// As in small_channel.h, one image is the fine side of the stride and the other the coarse one; both ops are one relation:
//
//   fine = coarse * stride + tap * dilation - pad      in each direction
//
//                  input    output
//   conv2d         fine     coarse    pad = padding at the top or left
//   transposed     coarse   fine      pad = crop at the top or left
//
// The weight is [coarse channels, fine channels / groups, R, S] for both. Three products over the pairs that meet:
//
//   to_coarse   coarse[p, m]    = sum fine[p * stride + tap * dilation - pad, c] W[m, c, tap]
//   to_fine     fine[h, m]      = sum coarse[(h + pad - tap * dilation) / stride, c] W[c, m, tap]   where that divides
//   wgrad       dW[cc, cf, tap] = sum coarse[p, cc] fine[p * stride + tap * dilation - pad, cf]
//
// to_coarse is conv2d and the input's gradient of conv_transpose2d, to_fine the other two. They are one gather GEMM: a
// row is an output pixel, a column an output channel, and K runs over taps and input channels. In to_fine the pixels of
// one remainder h mod stride (a phase) share their taps: each phase is a convolution of stride 1 and no zero is
// multiplied. implicit_gemm_phase() has the arithmetic; all phases are one launch.
#pragma once

#include "kernels/activation.h"
#include "kernels/launcher.h"
#include "kernels/scalar.h"

namespace sdgan {

struct ImplicitGemmAxis {
  int64_t fine = 0;  // sizes; below 2^30
  int64_t coarse = 0;
  int64_t taps = 1;
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t pad = 0;  // at the top or left; the other end follows from the sizes
};

// What one phase is along one axis: outputs first + i * step, i < outputs; taps tap_first + t * tap_step, t < taps;
// they meet at input i * in_step + in_first + t * in_tap.
struct ImplicitGemmPhase {
  int outputs, first, step;
  int taps, tap_first, tap_step;
  int in_first, in_step, in_tap;
};

SDGAN_HD int64_t implicit_gemm_common(const ImplicitGemmAxis& a) {  // greatest common divisor of stride and dilation
  int64_t x = a.stride, y = a.dilation;
  while (y != 0) {
    const int64_t rest = x % y;
    x = y;
    y = rest;
  }
  return x;
}

// Phases in order of falling numbers of taps. The remainder v = (h + pad) mod stride of a phase with taps is
// tap_first * dilation mod stride, and rank = tap_first < stride / common; the other phases have no taps.
SDGAN_HD ImplicitGemmPhase implicit_gemm_phase(const ImplicitGemmAxis& a, bool to_fine, int64_t rank) {
  if (!to_fine) {
    return {static_cast<int>(a.coarse),
            0,
            1,
            static_cast<int>(a.taps),
            0,
            1,
            static_cast<int>(-a.pad),
            static_cast<int>(a.stride),
            static_cast<int>(a.dilation)};
  }
  const int64_t common = implicit_gemm_common(a), classes = a.stride / common;
  const bool meets = rank < classes && rank < a.taps;
  const int64_t k = rank - classes;
  const int64_t v = rank < classes ? rank * a.dilation % a.stride : k / (common - 1) * common + 1 + k % (common - 1);
  const int64_t first = ((v - a.pad) % a.stride + a.stride) % a.stride;
  ImplicitGemmPhase phase;
  phase.outputs = static_cast<int>(first < a.fine ? (a.fine - first + a.stride - 1) / a.stride : 0);
  phase.first = static_cast<int>(first);
  phase.step = static_cast<int>(a.stride);
  phase.taps = static_cast<int>(meets ? (a.taps - rank + classes - 1) / classes : 0);
  phase.tap_first = static_cast<int>(rank);
  phase.tap_step = static_cast<int>(classes);
  phase.in_first = static_cast<int>(meets ? (first + a.pad - rank * a.dilation) / a.stride : 0);
  phase.in_step = 1;
  phase.in_tap = static_cast<int>(-a.dilation / common);
  return phase;
}

// Strides are in elements, in the order n, c, h, w.
struct ImplicitGemmParams {
  ImplicitGemmAxis vertical, horizontal;
  int64_t batch = 0;
  int64_t groups = 1;
  int64_t inputs = 0;  // channels of all groups
  int64_t outputs = 0;
  bool to_fine = false;  // else to_coarse
  DType dtype = DType::f32;
  Activation activation = Activation::none;
  double negative_slope = 0;
  bool tensor_cores = false;  // they may be used: implicit_gemm_tensor_cores() said so
  bool tf32 = false;          // and for float32, rounded to tf32

  const void* input = nullptr;  // [batch, inputs, H, W] with the strides below, any
  int64_t input_stride[4] = {};
  const void* weight = nullptr;  // [coarse channels, fine channels / groups, R, S]
  int64_t weight_stride[4] = {};
  const void* bias = nullptr;     // [outputs] or null
  void* output = nullptr;         // [batch, outputs, H, W]: act(sum + bias)
  void* preactivation = nullptr;  // sum + bias, with the strides of output, or null
  int64_t output_stride[4] = {};
  // [implicit_gemm_plan(p).statistics, 2, outputs] in the compute type, or null: by channel the sums of output, as stored,
  // and of its squares, one row for each tile of pixels, to be added in order. K is then not split. No op asks for it
  // yet.
  void* statistics = nullptr;
  void* workspace = nullptr;  // implicit_gemm_plan(p).workspace bytes, 16-byte aligned, not initialised
  int64_t force_splits = 0;   // for the tests: the number of splits of K, and the tile; 0 leaves the choice
  int force_tile = 0;

  SDGAN_HD int64_t phases() const { return to_fine ? vertical.stride * horizontal.stride : 1; }
  SDGAN_HD int64_t group_inputs() const { return inputs / groups; }
  SDGAN_HD int64_t group_outputs() const { return outputs / groups; }
  SDGAN_HD const ImplicitGemmAxis& axis(int i) const { return i == 0 ? vertical : horizontal; }
  SDGAN_HD int64_t input_size(int i) const { return to_fine ? axis(i).coarse : axis(i).fine; }
  SDGAN_HD int64_t output_size(int i) const { return to_fine ? axis(i).fine : axis(i).coarse; }
  SDGAN_HD int64_t pixels() const { return batch * output_size(0) * output_size(1); }
  // Of the weight, along the output and the input channels of this product.
  SDGAN_HD int64_t weight_output_stride() const { return weight_stride[to_fine ? 1 : 0]; }
  SDGAN_HD int64_t weight_input_stride() const { return weight_stride[to_fine ? 0 : 1]; }
};

struct ImplicitGemmWgradParams {
  ImplicitGemmAxis vertical, horizontal;
  int64_t batch = 0;
  int64_t groups = 1;
  int64_t coarse_channels = 0;  // of all groups
  int64_t fine_channels = 0;
  DType dtype = DType::f32;
  bool tensor_cores = false;
  bool tf32 = false;

  const void* coarse = nullptr;  // [batch, coarse_channels, vertical.coarse, horizontal.coarse]
  int64_t coarse_stride[4] = {};
  const void* fine = nullptr;  // [batch, fine_channels, vertical.fine, horizontal.fine]
  int64_t fine_stride[4] = {};
  void* grad_weight = nullptr;  // [coarse_channels, fine_channels / groups, R, S]
  int64_t grad_weight_stride[4] = {};
  void* workspace = nullptr;  // as in ImplicitGemmParams
  int64_t force_splits = 0;
  int force_tile = 0;

  SDGAN_HD int64_t group_coarse() const { return coarse_channels / groups; }
  SDGAN_HD int64_t group_fine() const { return fine_channels / groups; }
  SDGAN_HD int64_t columns() const { return vertical.taps * horizontal.taps * group_fine(); }  // (r, s, cf)
  SDGAN_HD int64_t pixels() const { return batch * vertical.coarse * horizontal.coarse; }
};

// Whether the kernels for tensor cores can run on the current device: it and the code in this build are sm_80 or later.
#if SDGAN_CUDA
bool implicit_gemm_tensor_cores();
#else
inline bool implicit_gemm_tensor_cores() { return false; }
#endif

// float32, float64, bfloat16 and float16, any strides. 16-bit types, and float32 where tf32 may stand for it, run on
// tensor cores where there is one group and each pixel's channels are contiguous and 16-byte aligned.
SDGAN_CUDA_KERNEL(implicit_gemm, ImplicitGemmParams)
SDGAN_CUDA_KERNEL(implicit_gemm_wgrad, ImplicitGemmWgradParams)

}  // namespace sdgan
