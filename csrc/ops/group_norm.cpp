#include "kernels/group_norm.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "ops/norm.h"

namespace sdgan {
namespace {

void set_shape(GroupNormShape& p, const Tensor& input, int64_t num_groups, double eps, int64_t activation,
               double negative_slope) {
  p.dtype = dtype_of(input, "input");
  p.eps = eps;
  p.activation = enumerator(activation, Activation::elu, "activation");
  p.negative_slope = negative_slope;
  p.batch = input.size(0);
  p.channels = input.size(1);
  p.groups = num_groups;
  p.length = 1;
  for (int64_t d = 2; d < input.dim(); ++d) p.length *= input.size(d);
  p.in_rows = p.channels > 1 && (p.length == 1 || !input.is_contiguous());
  p.input = input.const_data_ptr();
}

void check_groups(const Tensor& input, int64_t num_groups) {
  SDGAN_CHECK(input.dim() >= 2, "input must have at least 2 dimensions, batch and channels");
  SDGAN_CHECK(num_groups > 0 && input.size(1) % num_groups == 0, "num_groups must divide the channels of input");
}

// [N, G] of the type that the kernels compute in.
Tensor empty_groups(const Tensor& input, int64_t num_groups) {
  const int64_t sizes[] = {input.size(0), num_groups}, strides[] = {num_groups, 1};
  return empty_compute(input, 2, sizes, strides);
}

OptionalTensor statistics(const Tensor& t, const Tensor& input, int64_t num_groups, const char* name) {
  SDGAN_CHECK(t.dim() == 2 && t.size(0) == input.size(0) && t.size(1) == num_groups, name,
              " must hold one value per image and group");
  return to_contiguous(as(t, compute_type(input)));
}

// All passes in a few launches.
template <class Params, class Launcher>
void run_on_cuda(Params& p, const Tensor& input, Launcher launcher) {
  const Tensor scratch = empty_doubles(input, p.cuda_partial_count());
  p.partial = static_cast<double*>(scratch.mutable_data_ptr());
  launch(input, [&](CudaStream stream) { return launcher(p, stream); });
}

struct Scratch {
  std::unique_ptr<double[]> partial, factors;
  template <class Params>
  explicit Scratch(Params& p) : partial(new double[p.partial_count()]), factors(new double[p.factor_count()]) {
    p.partial = partial.get();
    p.factors = factors.get();
  }
};

// The passes in order. What can go through all of them while it is in cache does: a group in planes, where there are
// groups for any number of threads; in rows some images, as many as give all threads something to do.
template <class Reduce, class Finish, class Map>
void run(const GroupNormShape& p, int64_t reduce_slices, Reduce reduce, Finish finish, Map map) {
  constexpr int64_t kManyGroups = 32, kElementsAtOnce = 1 << 18;
  const int64_t groups = p.all_groups();
  if (!p.in_rows && groups >= kManyGroups) {
    const int64_t reduces = reduce_slices / groups, maps = p.group_channels();
    parallel_slices(groups, p.group_size(), [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        reduce(g * reduces, (g + 1) * reduces);
        finish(g, g + 1);
        map(g * maps, (g + 1) * maps);
      }
    });
    return;
  }
  const int64_t image = p.channels * p.length;
  const int64_t at_once = p.in_rows ? std::max<int64_t>(1, kElementsAtOnce / image) : p.batch;
  const auto slices_of = [&](int64_t slices, int64_t first, int64_t end, const auto& pass) {
    const int64_t each = slices / p.batch;
    parallel_slices((end - first) * each, image / each,
                    [&](int64_t s, int64_t e) { pass(first * each + s, first * each + e); });
  };
  for (int64_t n = 0; n < p.batch; n += at_once) {
    const int64_t end = std::min(p.batch, n + at_once);
    slices_of(reduce_slices, n, end, reduce);
    slices_of(groups, n, end, finish);
    slices_of(p.map_slices(), n, end, map);
  }
}

std::tuple<Tensor, Tensor, Tensor> group_norm_op(Tensor input, int64_t num_groups, OptionalTensor weight,
                                                 OptionalTensor bias, double eps, int64_t activation,
                                                 double negative_slope) {
  check_groups(input, num_groups);
  Tensor output = empty_output(input);
  Tensor mean = empty_groups(input, num_groups);
  Tensor rstd = empty_groups(input, num_groups);
  if (input.numel() == 0) {
    torch::stable::fill_(mean, std::nan(""));
    torch::stable::fill_(rstd, std::nan(""));
    return {output, mean, rstd};
  }
  input = in_strides_of(output, input);
  weight = vector(weight, input, "weight");
  bias = vector(bias, input, "bias");

  GroupNormParams p;
  set_shape(p, input, num_groups, eps, activation, negative_slope);
  p.weight = pointer(weight);
  p.bias = pointer(bias);
  p.mean = p.mean_out = mean.mutable_data_ptr();
  p.rstd = p.rstd_out = rstd.mutable_data_ptr();
  p.output = output.mutable_data_ptr();
  if (on_cuda(input)) {
    run_on_cuda(p, input, launch_group_norm);
    return {output, mean, rstd};
  }
  const Scratch scratch(p);
  run(
      p, p.reduce_slices(), [&](int64_t begin, int64_t end) { group_norm_reduce(p, begin, end); },
      [&](int64_t begin, int64_t end) { group_norm_finish(p, begin, end); },
      [&](int64_t begin, int64_t end) { group_norm_map(p, begin, end); });
  return {output, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> group_norm_backward_op(Tensor grad_output, Tensor input, int64_t num_groups,
                                                          OptionalTensor weight, OptionalTensor bias, Tensor mean,
                                                          Tensor rstd, double eps, int64_t activation,
                                                          double negative_slope) {
  check_groups(input, num_groups);
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
  const OptionalTensor mean_in = statistics(mean, input, num_groups, "mean");
  const OptionalTensor rstd_in = statistics(rstd, input, num_groups, "rstd");

  GroupNormBackwardParams p;
  set_shape(p, input, num_groups, eps, activation, negative_slope);
  p.weight = pointer(weight_in);
  p.bias = pointer(bias_in);
  p.mean = pointer(mean_in);
  p.rstd = pointer(rstd_in);
  p.grad_output = grad_output.const_data_ptr();
  p.grad_input = grad_input.mutable_data_ptr();
  p.grad_weight = weight ? grad_weight.mutable_data_ptr() : nullptr;
  p.grad_bias = bias ? grad_bias.mutable_data_ptr() : nullptr;
  if (on_cuda(input)) {
    run_on_cuda(p, input, launch_group_norm_backward);
    return {grad_input, as_given(grad_weight, weight), as_given(grad_bias, bias)};
  }
  const Scratch scratch(p);
  group_norm_backward_prepare(p, 0, p.all_groups());
  run(
      p, p.reduce_slices(), [&](int64_t begin, int64_t end) { group_norm_backward_reduce(p, begin, end); },
      [&](int64_t begin, int64_t end) { group_norm_backward_finish(p, begin, end); },
      [&](int64_t begin, int64_t end) { group_norm_backward_map(p, begin, end); });
  if (weight || bias) {
    parallel_slices(p.channels, p.batch,
                    [&](int64_t begin, int64_t end) { group_norm_backward_vectors(p, begin, end); });
  }
  return {grad_input, as_given(grad_weight, weight), as_given(grad_bias, bias)};
}

}  // namespace
}  // namespace sdgan

SDGAN_IMPLEMENTATION(m) {
  m.impl("group_norm", TORCH_BOX(&sdgan::group_norm_op));
  m.impl("group_norm_backward", TORCH_BOX(&sdgan::group_norm_backward_op));
}
