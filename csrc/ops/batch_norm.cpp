#include "kernels/batch_norm.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "ops/norm.h"

namespace sdgan {
namespace {

void set_shape(BatchNormShape& p, const Tensor& input, double eps, int64_t activation, double negative_slope) {
  p.dtype = dtype_of(input, "input");
  p.eps = eps;
  p.activation = enumerator(activation, Activation::elu, "activation");
  p.negative_slope = negative_slope;
  p.channels = input.size(1);
  p.batch = input.size(0);
  p.length = 1;
  for (int64_t d = 2; d < input.dim(); ++d) p.length *= input.size(d);
  if (p.channels == 1) {  // one long plane
    p.length *= p.batch;
    p.batch = 1;
  }
  const bool small_planes = input.is_contiguous() && p.length < BatchNormShape::kSmallPlane;
  p.in_rows = p.channels > 1 && (small_planes || !input.is_contiguous());
  p.repeat = p.in_rows && small_planes ? p.length : 1;
  p.input = input.const_data_ptr();
}

// All passes in a few launches.
template <class Params, class Launcher>
void run_on_cuda(Params& p, bool reduces, const Tensor& input, Launcher launcher) {
  const Tensor scratch = empty_doubles(input, reduces ? p.cuda_partial_count() : 0);
  p.partial = reduces ? static_cast<double*>(scratch.mutable_data_ptr()) : nullptr;
  launch(input, [&](CudaStream stream) { return launcher(p, stream); });
}

struct Scratch {
  std::unique_ptr<double[]> partial, factors;
  explicit Scratch(BatchNormShape& p)
      : partial(new double[p.partial_count() * 2 * p.columns()]),
        factors(new double[5 * (p.columns() + BatchNormShape::kFactorPad)]) {
    p.partial = partial.get();
    p.factors = factors.get();
  }
};

// The passes in order; channel by channel where a channel's values can stay in cache from one pass to the next.
template <class Reduce, class Finish, class Map>
void run(const BatchNormShape& p, bool reduces, Reduce reduce, Finish finish, Map map) {
  if (p.in_rows) {
    const int64_t cost = BatchNormShape::kRows * std::min(p.columns(), BatchNormShape::kBlockColumns);
    if (reduces) parallel_slices(p.reduce_slices(), cost, reduce);
    finish(0, p.channels);
    parallel_slices(p.map_slices(), kSlice, map);
  } else {
    parallel_slices(p.channels, p.count(), [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        if (reduces) reduce(c, c + 1);
        finish(c, c + 1);
        map(c, c + 1);
      }
    });
  }
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_op(Tensor input, OptionalTensor weight, OptionalTensor bias,
                                                 OptionalTensor mean, OptionalTensor var, double eps,
                                                 int64_t activation, double negative_slope) {
  SDGAN_CHECK(input.dim() >= 2, "input must have at least 2 dimensions, batch and channels");
  SDGAN_CHECK(mean.has_value() == var.has_value(), "mean and var must be given both or neither");
  Tensor output = empty_output(input);
  Tensor mean_out = empty_channels(input);
  Tensor var_out = empty_channels(input);
  if (input.numel() == 0) {
    torch::stable::fill_(mean_out, std::nan(""));
    torch::stable::fill_(var_out, std::nan(""));
    return {output, mean_out, var_out};
  }
  input = in_strides_of(output, input);
  weight = vector(weight, input, "weight");
  bias = vector(bias, input, "bias");
  mean = vector(mean, input, "mean");
  var = vector(var, input, "var");

  BatchNormParams p;
  set_shape(p, input, eps, activation, negative_slope);
  p.weight = pointer(weight);
  p.bias = pointer(bias);
  p.given_mean = pointer(static_cast<const OptionalTensor&>(mean));
  p.given_var = pointer(static_cast<const OptionalTensor&>(var));
  p.mean = p.mean_out = mean_out.mutable_data_ptr();
  p.var = p.var_out = var_out.mutable_data_ptr();
  p.output = output.mutable_data_ptr();
  if (on_cuda(input)) {
    run_on_cuda(p, !mean, input, launch_batch_norm);
    return {output, mean_out, var_out};
  }
  const Scratch scratch(p);
  run(
      p, !mean, [&](int64_t begin, int64_t end) { batch_norm_reduce(p, begin, end); },
      [&](int64_t begin, int64_t end) { batch_norm_finish(p, begin, end); },
      [&](int64_t begin, int64_t end) { batch_norm_map(p, begin, end); });
  return {output, mean_out, var_out};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_backward_op(Tensor grad_output, Tensor input, OptionalTensor weight,
                                                          OptionalTensor bias, Tensor mean, Tensor var, bool training,
                                                          double eps, int64_t activation, double negative_slope) {
  SDGAN_CHECK(input.dim() >= 2, "input must have at least 2 dimensions, batch and channels");
  check_like(grad_output, input, "grad_output and input");
  Tensor grad_input = empty_output(input);
  Tensor grad_weight = weight ? empty_channels(input) : empty_none(input);
  Tensor grad_bias = bias ? empty_channels(input) : empty_none(input);
  if (input.numel() == 0) {
    torch::stable::zero_(grad_weight);
    torch::stable::zero_(grad_bias);
    return {grad_input, as_given(grad_weight, weight), as_given(grad_bias, bias)};
  }
  input = in_strides_of(grad_input, input);
  grad_output = in_strides_of(grad_input, grad_output);
  const OptionalTensor weight_in = vector(weight, input, "weight");
  const OptionalTensor bias_in = vector(bias, input, "bias");
  const OptionalTensor mean_in = vector(mean, input, "mean");
  const OptionalTensor var_in = vector(var, input, "var");

  BatchNormBackwardParams p;
  set_shape(p, input, eps, activation, negative_slope);
  p.training = training;
  p.weight = pointer(weight_in);
  p.bias = pointer(bias_in);
  p.mean = pointer(mean_in);
  p.var = pointer(var_in);
  p.grad_output = grad_output.const_data_ptr();
  p.grad_input = grad_input.mutable_data_ptr();
  p.grad_weight = weight ? grad_weight.mutable_data_ptr() : nullptr;
  p.grad_bias = bias ? grad_bias.mutable_data_ptr() : nullptr;
  const bool reduces = training || weight || bias;
  if (on_cuda(input)) {
    run_on_cuda(p, reduces, input, launch_batch_norm_backward);
    return {grad_input, as_given(grad_weight, weight), as_given(grad_bias, bias)};
  }
  const Scratch scratch(p);
  batch_norm_backward_prepare(p);
  run(
      p, reduces, [&](int64_t begin, int64_t end) { batch_norm_backward_reduce(p, begin, end); },
      [&](int64_t begin, int64_t end) { batch_norm_backward_finish(p, begin, end); },
      [&](int64_t begin, int64_t end) { batch_norm_backward_map(p, begin, end); });
  return {grad_input, as_given(grad_weight, weight), as_given(grad_bias, bias)};
}

}  // namespace
}  // namespace sdgan

SDGAN_IMPLEMENTATION(m) {
  m.impl("batch_norm", TORCH_BOX(&sdgan::batch_norm_op));
  m.impl("batch_norm_backward", TORCH_BOX(&sdgan::batch_norm_backward_op));
}
