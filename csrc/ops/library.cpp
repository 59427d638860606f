// Every operator of torch.ops.sdgan_ext, on one screen. The implementation of each is in the file named after its
// family; fake kernels, autograd and autocast are registered in sdgan_ext/ops/<family>.py.
//
// Enumerations travel as int: activation and objective (csrc/kernels/*.h), reduction 0 none, 1 mean, 2 sum, 3 batchmean
// (sum / size of the first dimension). A gradient that is not needed is an empty tensor; bce and reconstruction_loss
// give gradients beside the loss where it is reduced.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(sdgan_ext, m) {
  // adversarial_loss
  m.def(
      "adversarial_loss(Tensor? real, Tensor fake, int objective, int role, float real_target, int reduction, "
      "bool need_real, bool need_fake) -> (Tensor loss, Tensor grad_real, Tensor grad_fake)");
  m.def(
      "adversarial_loss_backward(Tensor grad_loss, Tensor? real, Tensor fake, Tensor grad_real, Tensor grad_fake, "
      "int objective, int role, float real_target, int reduction) -> (Tensor, Tensor)");

  // batch_norm: mean and var are None for the batch's own statistics; the ones in use come back, var biased
  m.def(
      "batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, float eps, int activation, "
      "float negative_slope) -> (Tensor output, Tensor mean, Tensor var)");
  m.def(
      "batch_norm_backward(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, "
      "bool training, float eps, int activation, float negative_slope) -> (Tensor, Tensor, Tensor)");

  // conv2d, conv_transpose2d. padding and crop: (top, bottom, left, right). preactivation is [0] except for silu;
  // saved is what the activation's derivative needs: the output, the preactivation for silu, [0] without activation.
  // conv2d is act(output_scale (convolution + bias + residual)); its backward knows neither of the last two.
  m.def(
      "conv2d(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups, "
      "int activation, float negative_slope, Tensor? residual=None, float output_scale=1.) "
      "-> (Tensor output, Tensor preactivation)");
  m.def(
      "conv2d_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor saved, int[] stride, int[] padding, "
      "int[] dilation, int groups, int activation, float negative_slope, bool need_input, bool need_weight, "
      "bool need_bias) -> (Tensor, Tensor, Tensor)");
  m.def(
      "conv_transpose2d(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] crop, int[] dilation, "
      "int groups, int activation, float negative_slope) -> (Tensor output, Tensor preactivation)");
  m.def(
      "conv_transpose2d_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor saved, int[] stride, "
      "int[] crop, int[] dilation, int groups, int activation, float negative_slope, bool need_input, "
      "bool need_weight, bool need_bias) -> (Tensor, Tensor, Tensor)");

  // upsample_conv2d: 3x3 with padding 1, float32 on the CPU; without a derivative
  m.def(
      "upsample_conv2d(Tensor input, Tensor weight, Tensor? bias, int activation, float negative_slope) -> Tensor "
      "output");

  // gaussian: z is empty where neither eps nor seed is given; gaussian_out writes it to a tensor of any layout that
  // overlaps neither itself nor another argument
  m.def("gaussian(Tensor mean, Tensor logvar, Tensor? eps, Tensor? seed, int reduction) -> (Tensor z, Tensor kl)");
  m.def(
      "gaussian_out(Tensor mean, Tensor logvar, Tensor? eps, Tensor? seed, int reduction, Tensor(a!) z) -> Tensor kl");
  m.def(
      "gaussian_backward(Tensor? grad_z, Tensor? grad_kl, Tensor mean, Tensor logvar, Tensor? z, int reduction, "
      "bool need_eps) -> (Tensor grad_mean, Tensor grad_logvar, Tensor grad_eps)");

  // group_norm: mean and rstd are [N, num_groups]
  m.def(
      "group_norm(Tensor input, int num_groups, Tensor? weight, Tensor? bias, float eps, int activation, "
      "float negative_slope) -> (Tensor output, Tensor mean, Tensor rstd)");
  m.def(
      "group_norm_backward(Tensor grad_output, Tensor input, int num_groups, Tensor? weight, Tensor? bias, "
      "Tensor mean, Tensor rstd, float eps, int activation, float negative_slope) -> (Tensor, Tensor, Tensor)");

  // reconstruction_loss
  m.def(
      "reconstruction_loss(Tensor x_hat, Tensor x, int kind, int reduction, bool need_x_hat, bool need_x) "
      "-> (Tensor loss, Tensor grad_x_hat, Tensor grad_x)");
  m.def(
      "reconstruction_loss_backward(Tensor grad_loss, Tensor x_hat, Tensor x, int kind, int reduction, "
      "bool need_x_hat, bool need_x) -> (Tensor grad_x_hat, Tensor grad_x)");

  // bce: weight and pos_weight have the shape of input; pos_weight goes with logits only
  m.def(
      "bce(Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, bool logits, int reduction, "
      "bool need_input, bool need_target) -> (Tensor loss, Tensor grad_input, Tensor grad_target)");
  m.def(
      "bce_backward(Tensor grad_loss, Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, bool logits, "
      "int reduction, bool need_input, bool need_target) -> (Tensor grad_input, Tensor grad_target)");
}
