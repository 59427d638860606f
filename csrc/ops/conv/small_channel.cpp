// One side has 1 to 4 channels: kernels/conv/small_channel.h. Where both have so few, the output is the small side.
#include "kernels/conv/small_channel.h"

#include <algorithm>

#include "ops/conv/backend.h"

namespace sdgan {
namespace {

bool output_is_small(const ConvCall& call) { return call.problem.output_channels() <= kSmallChannels; }

// The strides of c, k, r, s; c is the weight's first dimension where small is x, else its second.
void set_weight_stride(SmallChannelParams& p, const Tensor& weight) {
  for (int i = 0; i < 4; ++i) p.weight_stride[i] = weight.stride(i < 2 && !p.small_is_x ? 1 - i : i);
}

SmallChannelParams params_of(const ConvCall& call, const Tensor& weight) {
  SmallChannelParams p;
  p.geometry = call.problem.geometry;
  p.small_is_x = output_is_small(call) == call.problem.transposed;
  p.channels_last = call.problem.channels_last;
  p.dtype = call.problem.dtype;
  p.weight = weight.const_data_ptr();
  set_weight_stride(p, weight);
  p.activation = call.conv.activation;
  p.negative_slope = call.conv.negative_slope;
  return p;
}

void run(const SmallChannelParams& p, const Tensor& like) {
  if (on_cuda(like)) return launch(like, [&](CudaStream stream) { return launch_small_channel(p, stream); });
  const SmallChannelSide large = p.large_side();
  const int64_t image = large.pixels() * large.channels * p.taps();  // multiplications
  parallel_slices(p.slice_count(), image * p.slice_images() / p.row_slices() / 16,
                  [&](int64_t begin, int64_t end) { small_channel(p, begin, end); });
}

// The sums over the batch, where there are any: p runs with memory for their partial results, which are then added to
// grad_weight, as of the weight, and grad_bias [output channels]; either may be null.
void run(SmallChannelParams p, const Tensor& like, Tensor* grad_weight, Tensor* grad_bias) {
  void* weight_sums = grad_weight ? grad_weight->mutable_data_ptr() : nullptr;
  void* bias_sums = grad_bias ? grad_bias->mutable_data_ptr() : nullptr;
  p.sums_over_batch = weight_sums || bias_sums;
  if (!p.sums_over_batch) return run(p, like);
  const auto with_grad_stride = [&] {
    if (grad_weight) set_weight_stride(p, *grad_weight);
    return p;
  };
  if (on_cuda(like)) {
    const int64_t count = SmallChannelSums(p).partial_size(p.small_side().channels);  // in the compute type
    const Tensor partial = empty_doubles(like, p.dtype == DType::f64 ? count : (count + 1) / 2);
    p.partial = partial.mutable_data_ptr();
    run(p, like);
    const SmallChannelGradientsParams gradients{with_grad_stride(), weight_sums, bias_sums};
    launch(like, [&](CudaStream stream) { return launch_small_channel_gradients(gradients, stream); });
  } else {
    std::vector<double> partial(p.slice_count() * p.partial_size());  // aligned for either compute type
    p.partial = partial.data();
    run(p, like);
    small_channel_gradients(with_grad_stride(), weight_sums, bias_sums);
  }
}

const char* supports(const ConvQuery& query) {
  const ConvGeometry& g = query.problem.geometry;
  if (g.groups != 1) return "the small-channel kernel has no groups";
  if (query.problem.residual_or_scale) return "the small-channel kernel has no residual and no output scale";
  if (std::min(g.x_channels, g.y_channels) > kSmallChannels) return "neither side has 1 to 4 channels";
  constexpr int64_t kMost = int64_t{1} << 30;  // coordinates are computed in 32 bits
  for (int i = 0; i < 2; ++i) {
    const ConvAxis& a = g.axis(i);
    const bool fits = std::max({a.stride, a.dilation, a.pad}) < kMost &&
                      a.x + (a.y + 1) * a.stride + a.taps * a.dilation + a.pad < kMost;
    if (!fits) return "image and kernel span 2^30 pixels or more";
  }
  return nullptr;
}

Outputs forward(const ConvCall& call, const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  const Convolution& conv = call.conv;
  const bool channels_last = call.problem.channels_last;
  const bool keeps = derivative_needs_input(conv.activation);
  const Tensor image = dense(input, channels_last);
  const Tensor dense_bias = bias ? torch::stable::contiguous(*bias) : empty_none(input);
  Tensor output = empty_image(call.output, input, channels_last);
  Tensor preactivation = keeps ? empty_image(call.output, input, channels_last) : empty_none(input);

  SmallChannelParams p = params_of(call, weight);
  (output_is_small(call) ? p.large_in : p.small_in) = image.const_data_ptr();
  (output_is_small(call) ? p.small_out : p.large_out) = output.mutable_data_ptr();
  p.preactivation = keeps ? preactivation.mutable_data_ptr() : nullptr;
  p.bias = bias ? dense_bias.const_data_ptr() : nullptr;
  run(p, input);
  return {output, preactivation};
}

Gradients backward(const ConvCall& call, const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                   const Tensor& saved, Wanted wanted) {
  const Convolution& conv = call.conv;
  const bool channels_last = call.problem.channels_last;
  const Tensor grad = dense(grad_output, channels_last);
  const bool masks = conv.activation != Activation::none;
  const Tensor mask = masks ? dense(saved, channels_last) : grad;
  const Tensor image = dense(input, channels_last);
  Tensor grad_input = wanted.input ? empty_image(sizes_of(input), input, channels_last) : empty_none(input);
  Tensor grad_weight =
      wanted.weight ? empty_image(sizes_of(weight), weight, is_channels_last(weight)) : empty_none(input);
  Tensor grad_bias = wanted.bias ? empty_vector(input, grad_output.size(1)) : empty_none(input);

  SmallChannelParams p = params_of(call, weight);
  const bool to_small = output_is_small(call);  // in forward
  (to_small ? p.small_in : p.large_in) = grad.const_data_ptr();
  if (masks) (to_small ? p.small_saved : p.large_saved) = mask.const_data_ptr();
  if (wanted.weight) (to_small ? p.large_in : p.small_in) = image.const_data_ptr();
  if (wanted.input) (to_small ? p.large_out : p.small_out) = grad_input.mutable_data_ptr();
  p.weight_gradient = wanted.weight;
  (to_small ? p.small_sums : p.large_sums) = wanted.bias;
  run(p, input, wanted.weight ? &grad_weight : nullptr, wanted.bias ? &grad_bias : nullptr);
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

const Backend kSmallChannelBackend{"small_channel",        supports, small_channel_estimate,
                                   direct_multiplications, forward,  backward};

}  // namespace sdgan
