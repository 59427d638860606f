#include "kernels/gaussian.h"

#include "ops/common.h"

namespace sdgan {
namespace {

// eps: [*] or none. seed: int64, one element, or none. With neither, z is empty: KL only.
// The stream of eps runs over the logical order, so with a seed the work is done in contiguous memory.
std::tuple<Tensor, Tensor> run(Tensor mean, Tensor logvar, OptionalTensor eps, OptionalTensor seed,
                               int64_t reduction_code, OptionalTensor out) {
  const Reduction reduction = reduction_of(reduction_code);
  const bool none = reduction == Reduction::none;
  check_like(logvar, mean, "mean and logvar");
  SDGAN_CHECK(!eps || !seed, "eps and seed exclude each other");
  SDGAN_CHECK(!seed || (seed->scalar_type() == ScalarType::Long && seed->numel() == 1), "seed must be one int64");
  if (seed) check_same_device(*seed, mean, "mean and seed");
  if (eps) check_like(*eps, mean, "mean and eps");

  const Tensor given = mean;
  mean = seed ? to_contiguous(mean) : dense(mean);
  logvar = in_layout_of(mean, logvar);
  if (eps) eps = in_layout_of(mean, *eps);
  const bool in_place = out && out->strides().equals(mean.strides());
  Tensor z = in_place ? *out : empty_if(eps || seed, mean);
  Tensor kl = none ? empty_as(mean) : empty_scalar(mean);

  GaussianParams p;
  p.dtype = dtype_of(mean, "mean");
  p.n = mean.numel();
  p.mean = mean.const_data_ptr();
  p.logvar = logvar.const_data_ptr();
  p.eps = pointer(eps);
  p.seed = static_cast<const int64_t*>(pointer(seed));
  p.z = eps || seed ? z.mutable_data_ptr() : nullptr;
  p.kl = none ? kl.mutable_data_ptr() : nullptr;
  p.scale = 1.0 / divisor(reduction, mean);
  run_reduction(
      p, slices(p.n), none ? nullptr : &kl, divisor(reduction, mean) == 0, mean, {written(p.z, z), written(p.kl, kl)},
      [](const auto& params, int64_t begin, int64_t end) { gaussian(params, begin, end); }, launch_gaussian);
  if (seed && !given.is_contiguous()) {
    const Tensor layout = empty_as(given);
    if (!out) z = in_layout_of(layout, z);
    if (none) kl = in_layout_of(layout, kl);
  }
  if (out && !in_place) torch::stable::copy_(*out, z);
  return {z, kl};
}

std::tuple<Tensor, Tensor> gaussian_op(Tensor mean, Tensor logvar, OptionalTensor eps, OptionalTensor seed,
                                       int64_t reduction) {
  return run(mean, logvar, eps, seed, reduction, std::nullopt);
}

Tensor gaussian_out_op(Tensor mean, Tensor logvar, OptionalTensor eps, OptionalTensor seed, int64_t reduction,
                       Tensor z) {
  SDGAN_CHECK(eps || seed, "z needs eps or seed");
  check_like(z, mean, "z and mean");
  return std::get<1>(run(mean, logvar, eps, seed, reduction, z));
}

std::tuple<Tensor, Tensor, Tensor> gaussian_backward_op(OptionalTensor grad_z, OptionalTensor grad_kl, Tensor mean,
                                                        Tensor logvar, OptionalTensor z, int64_t reduction_code,
                                                        bool need_eps) {
  const Reduction reduction = reduction_of(reduction_code);
  const bool reduced = reduction != Reduction::none;
  SDGAN_CHECK(!grad_z || z, "z must be given with grad_z");
  SDGAN_CHECK(!need_eps || grad_z, "eps has a gradient only with grad_z");

  const auto laid_out = [&](const Tensor& t) {
    check_like(t, mean, "the arguments");
    return in_layout_of(mean, t);
  };
  mean = dense(mean);
  logvar = laid_out(logvar);
  if (grad_z) grad_z = laid_out(*grad_z);
  if (grad_z) z = laid_out(*z);
  if (grad_kl) grad_kl = loss_gradient(*grad_kl, mean, reduced);
  Tensor grad_mean = empty_as(mean);
  Tensor grad_logvar = empty_as(mean);
  Tensor grad_eps = need_eps ? empty_as(mean) : empty_none(mean);

  GaussianBackwardParams p;
  p.dtype = dtype_of(mean, "mean");
  p.n = mean.numel();
  p.grad_z = pointer(grad_z);
  p.grad_kl = pointer(grad_kl);
  p.mean = mean.const_data_ptr();
  p.logvar = logvar.const_data_ptr();
  p.z = grad_z ? pointer(z) : nullptr;
  p.grad_mean = grad_mean.mutable_data_ptr();
  p.grad_logvar = grad_logvar.mutable_data_ptr();
  p.grad_eps = need_eps ? grad_eps.mutable_data_ptr() : nullptr;
  p.scale = 1.0 / divisor(reduction, mean);
  p.reduced = reduced;
  run_elementwise(
      p, slices(p.n), mean,
      {written(p.grad_mean, grad_mean), written(p.grad_logvar, grad_logvar), written(p.grad_eps, grad_eps)},
      [](const auto& params, int64_t begin, int64_t end) { gaussian_backward(params, begin, end); },
      launch_gaussian_backward);
  return {grad_mean, grad_logvar, grad_eps};
}

}  // namespace
}  // namespace sdgan

SDGAN_IMPLEMENTATION(m) {
  m.impl("gaussian", TORCH_BOX(&sdgan::gaussian_op));
  m.impl("gaussian_out", TORCH_BOX(&sdgan::gaussian_out_op));
  m.impl("gaussian_backward", TORCH_BOX(&sdgan::gaussian_backward_op));
}
