// Every operator of torch.ops.sdgan_ext, on one screen. The implementation of each is in the file named after its
// family; fake kernels, autograd and autocast are registered in sdgan_ext/ops/<family>.py.
//
// Enumerations travel as int: activation and objective (csrc/kernels/*.h), reduction 0 none, 1 mean, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(sdgan_ext, m) {
  // adversarial_loss
  m.def(
      "adversarial_loss(Tensor? real, Tensor fake, int objective, int role, float real_target, int reduction) "
      "-> (Tensor loss, Tensor grad_real, Tensor grad_fake)");
  m.def(
      "adversarial_loss_backward(Tensor grad_loss, Tensor? real, Tensor fake, Tensor grad_real, Tensor grad_fake, "
      "int objective, int role, float real_target, int reduction) -> (Tensor, Tensor)");
}
