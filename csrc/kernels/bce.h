// Binary cross-entropy of x against targets t in [0, 1], times an optional weight w per element.
//
//   logits          term        w (q sp(x) - pos t x),  q = 1 + (pos - 1) t,  pos = 1 unless given
//                   d / dx      w (q sigmoid(x) - pos t)
//                   d / dt      w ((pos - 1) sp(x) - pos x)
//   probabilities   term        -w (t log x + (1 - t) log(1 - x)), each logarithm at least -100
//                   d / dx      w (x - t) / max(x (1 - x), 1e-12)
//                   d / dt      w (log(1 - x) - log x), of the same logarithms (torch's is infinite at 0 and 1)
//
// sp is softplus. The logit form is torch's (1 - t) x + q sp(-x), arranged so that sp(x) of a very negative logit keeps
// its relative accuracy. The backward pass reads its inputs again; nothing is kept between the passes.
#pragma once

#include "kernels/isa.h"
#include "kernels/launcher.h"
#include "kernels/scalar.h"

namespace sdgan {

struct BceInputs {
  const void* input = nullptr;       // [n]
  const void* target = nullptr;      // [n]
  const void* weight = nullptr;      // [n] or null
  const void* pos_weight = nullptr;  // [n] or null; logits only
  int64_t n = 0;
  double scale = 1;
  bool logits = true;
  bool reduced = true;
  DType dtype = DType::f32;
};

struct BceParams : BceInputs {
  void* loss = nullptr;  // [n] when not reduced, else null
  // CPU, reduced: d loss / d input and d target beside the loss, [n] or null. On CUDA the backward kernel computes
  // them.
  void* grad_input = nullptr;
  void* grad_target = nullptr;
  double* partial = nullptr;  // [slices], on CUDA [kCudaPartials]: sums of terms, scaled; null when not reduced
  void* total = nullptr;      // CUDA: the sum of all, one element; null when not reduced
  // [slices] what is outside [0, 1] in a slice: bit 0 an input, bit 1 a target. Null for logits, which are not checked,
  // and on CUDA: to tell the caller would be to wait for the GPU, so the loss of such a probability is NaN there, and
  // so are its gradients.
  int* outside = nullptr;
};

struct BceBackwardParams : BceInputs {
  const void* grad_loss = nullptr;  // [n], or one element when the loss was reduced
  void* grad_input = nullptr;       // [n] or null
  void* grad_target = nullptr;      // [n] or null
};

SDGAN_CPU_KERNEL(bce, const BceParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(bce_backward, const BceBackwardParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CUDA_KERNEL(bce, BceParams)
SDGAN_CUDA_KERNEL(bce_backward, BceBackwardParams)

}  // namespace sdgan
