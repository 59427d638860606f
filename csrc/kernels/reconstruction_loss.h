// The distance of a reconstruction y to its image x, element by element, summed in the same pass:
//
//   kind       term                          d / dy          d / dx
//   mse        (y - x)^2                     2 (y - x)       -2 (y - x)
//   l1         |y - x|                       sign(y - x)     -sign(y - x)
//   bce        sp(y) - x y                   sigmoid(y) - x  -y              y logits, x in [0, 1]
//   gaussian   ((y - x)^2 + log 2 pi) / 2    y - x           -(y - x)        -log N(x; y, I)
//
// sp is softplus. The backward pass reads y and x again instead of a saved gradient: the same number of bytes in all,
// and nothing kept between the passes.
#pragma once

#include "kernels/isa.h"
#include "kernels/launcher.h"
#include "kernels/scalar.h"

namespace sdgan {

enum class Reconstruction : int32_t { mse, l1, bce, gaussian };

struct ReconstructionLossParams {
  const void* x_hat = nullptr;  // [n]
  const void* x = nullptr;      // [n]
  void* loss = nullptr;         // [n] when not reduced, else null
  // CPU, reduced: d loss / d x_hat and d x beside the loss, [n] or null. On CUDA the backward kernel computes them.
  void* grad_x_hat = nullptr;
  void* grad_x = nullptr;
  double* partial = nullptr;  // [slices], on CUDA [kCudaPartials]: sums of terms, scaled; null when not reduced
  void* total = nullptr;      // CUDA: the sum of all, one element; null when not reduced
  int64_t n = 0;
  double scale = 1;
  Reconstruction kind = Reconstruction::mse;
  DType dtype = DType::f32;
};

struct ReconstructionLossBackwardParams {
  const void* grad_loss = nullptr;  // [n], or one element when the loss was reduced
  const void* x_hat = nullptr;      // [n]
  const void* x = nullptr;          // [n]
  void* grad_x_hat = nullptr;       // [n] or null
  void* grad_x = nullptr;           // [n] or null
  int64_t n = 0;
  double scale = 1;
  bool reduced = true;
  Reconstruction kind = Reconstruction::mse;
  DType dtype = DType::f32;
};

SDGAN_CPU_KERNEL(reconstruction_loss, const ReconstructionLossParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(reconstruction_loss_backward, const ReconstructionLossBackwardParams& p, int64_t slice_begin,
                 int64_t slice_end)
SDGAN_CUDA_KERNEL(reconstruction_loss, ReconstructionLossParams)
SDGAN_CUDA_KERNEL(reconstruction_loss_backward, ReconstructionLossBackwardParams)

}  // namespace sdgan
