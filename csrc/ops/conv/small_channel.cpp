// One side has 1 to 4 channels: kernels/conv/small_channel.h. The thin side is the output where it has so few channels, else the
// input.
#include "kernels/conv/small_channel.h"

#include <algorithm>

#include "ops/conv/backend.h"

namespace sdgan {
namespace {

// The strides of c, k, r, s; wide channels are the weight's first dimension or its second.
void set_weight_stride(int64_t (&stride)[4], const Tensor& weight, bool wide_first) {
  for (int i = 0; i < 4; ++i) stride[i] = weight.stride(i < 2 && !wide_first ? 1 - i : i);
}

struct ThinCall {
  SmallChannelParams p;
  bool output_is_thin;
};

ThinCall thin_call(const ConvCall& from, const Tensor& input, const Tensor& weight) {
  ThinCall call{{}, from.output[1] <= kSmallChannels};
  SmallChannelParams& p = call.p;
  const Convolution& conv = from.conv;
  const Sizes& thin = call.output_is_thin ? from.output : from.input;
  const Sizes& wide = call.output_is_thin ? from.input : from.output;
  for (int axis = 0; axis < 2; ++axis) {
    (axis == 0 ? p.vertical : p.horizontal) = {wide[2 + axis],    thin[2 + axis],      weight.size(2 + axis),
                                               conv.stride[axis], conv.dilation[axis], conv.sides[2 * axis]};
  }
  p.batch = input.size(0);
  p.channels = wide[1];
  p.thin_channels = thin[1];
  p.wide_is_fine = call.output_is_thin != conv.transposed;
  p.channels_last = from.problem.channels_last;
  p.dtype = from.problem.dtype;
  p.weight = weight.const_data_ptr();
  set_weight_stride(p.weight_stride, weight, call.output_is_thin == conv.transposed);
  p.activation = conv.activation;
  p.negative_slope = conv.negative_slope;
  return call;
}

void run(const SmallChannelParams& p, const Tensor& like) {
  if (on_cuda(like)) return launch(like, [&](CudaStream stream) { return launch_small_channel(p, stream); });
  const int64_t image = p.vertical.wide * p.horizontal.wide * p.channels * p.taps();  // multiplications
  parallel_slices(p.slice_count(), image * p.slice_images() / p.row_slices() / 16,
                  [&](int64_t begin, int64_t end) { small_channel(p, begin, end); });
}

// The sums over the batch, where there are any: p runs with memory for their partial results, which are then added.
void run(SmallChannelParams p, const Tensor& like, const int64_t (&grad_stride)[4], void* grad_weight, void* grad_bias) {
  p.sums_over_batch = grad_weight || grad_bias;
  if (!p.sums_over_batch) return run(p, like);
  const auto with_grad_stride = [&] {
    for (int i = 0; i < 4; ++i) p.weight_stride[i] = grad_stride[i];
    return p;
  };
  if (on_cuda(like)) {
    const int64_t count = SmallChannelSums(p).partial_size(p.thin_channels);  // in the compute type
    const Tensor partial = empty_doubles(like, p.dtype == DType::f64 ? count : (count + 1) / 2);
    p.partial = partial.mutable_data_ptr();
    run(p, like);
    const SmallChannelGradientsParams gradients{with_grad_stride(), grad_weight, grad_bias};
    launch(like, [&](CudaStream stream) { return launch_small_channel_gradients(gradients, stream); });
  } else {
    std::vector<double> partial(p.slice_count() * p.partial_size());  // aligned for either compute type
    p.partial = partial.data();
    run(p, like);
    small_channel_gradients(with_grad_stride(), grad_weight, grad_bias);
  }
}

const char* supports(const ConvQuery& query) {
  const ConvGeometry& g = query.problem.geometry;
  if (g.groups != 1) return "the small-channel kernel has no groups";
  if (std::min(g.x_channels, g.y_channels) > kSmallChannels) return "neither side has 1 to 4 channels";
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

  auto [p, output_is_thin] = thin_call(call, input, weight);
  (output_is_thin ? p.wide_in : p.thin_in) = image.const_data_ptr();
  (output_is_thin ? p.thin_out : p.wide_out) = output.mutable_data_ptr();
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
  Tensor grad_bias =
      wanted.bias ? empty_vector(input, grad_output.size(1)) : empty_none(input);

  auto [p, output_is_thin] = thin_call(call, input, weight);
  (output_is_thin ? p.thin_in : p.wide_in) = grad.const_data_ptr();
  if (masks) (output_is_thin ? p.thin_saved : p.wide_saved) = mask.const_data_ptr();
  if (wanted.weight) (output_is_thin ? p.wide_in : p.thin_in) = image.const_data_ptr();
  if (wanted.input) (output_is_thin ? p.wide_out : p.thin_out) = grad_input.mutable_data_ptr();
  p.weight_gradient = wanted.weight;
  (output_is_thin ? p.thin_sums : p.wide_sums) = wanted.bias;
  int64_t grad_stride[4] = {};
  if (wanted.weight) set_weight_stride(grad_stride, grad_weight, output_is_thin == conv.transposed);
  run(p, input, grad_stride, wanted.weight ? grad_weight.mutable_data_ptr() : nullptr,
      wanted.bias ? grad_bias.mutable_data_ptr() : nullptr);
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

const Backend kSmallChannelBackend{"small_channel", supports, small_channel_estimate, direct_multiplications, forward,
                                   backward};

}  // namespace sdgan
