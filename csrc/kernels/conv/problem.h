// What the choice of a backend looks at, without tensors: the dispatcher and sd.explain ask with the same structs.
#pragma once

#include "kernels/conv/geometry.h"

namespace sdgan {

struct ConvProblem {
  ConvGeometry geometry;
  bool transposed = false;  // conv_transpose2d; its forward is the geometry's dgrad
  DType dtype = DType::f32;
  bool cuda = false;
  bool channels_last = false;      // the layout of the output and of the input's gradient
  bool residual_or_scale = false;  // whether the forward pass has one, or both
  // float32 on the CPU may lose a digit: torch.get_float32_matmul_precision() is not "highest". Only where it matters.
  bool reduced_precision = false;

  Pass forward() const { return transposed ? Pass::dgrad : Pass::fprop; }
  Pass input_gradient() const { return transposed ? Pass::fprop : Pass::dgrad; }
  int64_t input_channels() const { return transposed ? geometry.y_channels : geometry.x_channels; }
  int64_t output_channels() const { return transposed ? geometry.x_channels : geometry.y_channels; }
};

struct ConvQuery {
  const ConvProblem& problem;
  Pass pass;
  bool both_gradients = false;  // of input and weight, in one backward pass

  bool is_forward() const { return pass == problem.forward(); }
};

}  // namespace sdgan
