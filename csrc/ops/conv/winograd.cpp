// Fewer multiplications: kernels/conv/winograd/winograd.h, float32 on the CPU. The kernels are channels_last; an NCHW
// image is copied.
#include "kernels/cpu/workspace.h"
#include "kernels/conv/winograd/winograd.h"

#include "ops/conv/backend.h"
#include "ops/conv/epilogue.h"

namespace sdgan {
namespace {

constexpr int64_t kTiles = 32;  // what the planes of most layers leave of an L2 cache of 1 MiB

float* data(Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }
const float* data(const Tensor& t) { return static_cast<const float*>(t.const_data_ptr()); }

// Slices as equal as can be for the threads there are.
void balance(WinogradParams& p) {
  const int64_t threads = torch::stable::get_num_threads();
  if (p.product == Pass::wgrad) {
    p.block = 64;
    p.coarse_block = 128;
    p.fine_block = 64;
    while (p.slice_count() < threads && p.fine_block > 16) p.fine_block /= 2;
    while (p.slice_count() < threads && p.coarse_block > 32) p.coarse_block /= 2;
  } else {
    const int64_t tiles = std::max<int64_t>(1, p.tile_count()), together = kTiles * threads;
    const int64_t slices = (tiles + together - 1) / together * threads;
    p.block = (tiles + slices - 1) / slices;
  }
}

WinogradParams winograd_call(const ConvCall& call, const Tensor& weight, Pass pass) {
  WinogradParams p = winograd_params(call.problem.geometry, pass);
  p.weight = data(weight);
  for (int i = 0; i < 4; ++i) p.weight_stride[i] = weight.stride(i);
  balance(p);
  return p;
}

// to_fine or to_coarse: the filter, then all tiles.
void run(WinogradParams& p) {
  p.filter = workspace(Workspace::filter, winograd_filter_size(p));
  const int64_t pairs = p.padded_coarse() * p.padded_fine() * winograd_products(p.taps, p.stride);
  const int64_t groups = (p.product == Pass::dgrad ? p.padded_coarse() : p.padded_fine()) / 16;
  parallel_slices(groups, pairs / groups, [&](int64_t begin, int64_t end) { winograd_filter(p, begin, end); });
  const bool to_fine = p.product == Pass::dgrad;
  parallel_slices(p.slice_count(), p.block * pairs / 16, [&](int64_t begin, int64_t end) {
    to_fine ? winograd_dgrad(p, begin, end) : winograd_fprop(p, begin, end);
  });
}

Tensor in_layout(const Tensor& t, bool channels_last) { return channels_last ? t : dense(t, false); }

const char* supports(const ConvQuery& query) {
  const ConvGeometry& g = query.problem.geometry;
  const ConvAxis &v = g.vertical, &h = g.horizontal;
  if (query.problem.cuda) return "the Winograd kernels are for the CPU";
  if (query.problem.dtype != DType::f32) return "the Winograd kernels are for float32";
  if (g.groups != 1) return "the Winograd kernels have no groups";
  if (g.batch == 0) return "there are no images";
  if (v.dilation != 1 || h.dilation != 1) return "the Winograd kernels have no dilation";
  if (v.taps != h.taps || v.stride != h.stride || !winograd_serves(v.taps, v.stride, v.pad, h.pad)) {
    return "the Winograd kernels are for 3x3 of stride 1, and 3x3, 4x4 and 5x5 of stride 2";
  }
  return nullptr;
}

double multiplications(const ConvQuery& query) {
  const WinogradParams p = winograd_params(query.problem.geometry, query.pass);
  return static_cast<double>(p.tile_count()) * winograd_products(p.taps, p.stride) * p.padded_coarse() *
         p.padded_fine();
}

Outputs forward(const ConvCall& call, const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  const Convolution& conv = call.conv;
  const bool keeps = derivative_needs_input(conv.activation);
  const Tensor image = dense(input, true);
  const Tensor dense_bias = bias ? to_contiguous(*bias) : empty_none(input);
  Tensor output = empty_image(call.output, input, true);
  Tensor preactivation = keeps ? empty_image(call.output, input, true) : empty_none(input);

  WinogradParams p = winograd_call(call, weight, call.problem.forward());
  (conv.transposed ? p.coarse_in : p.fine_in) = data(image);
  (conv.transposed ? p.fine_out : p.coarse_out) = data(output);
  p.preactivation = keeps ? data(preactivation) : nullptr;
  p.bias = bias ? data(dense_bias) : nullptr;
  p.activation = conv.activation;
  p.negative_slope = conv.negative_slope;
  run(p);
  const bool channels_last = call.problem.channels_last;
  return {in_layout(output, channels_last), keeps ? in_layout(preactivation, channels_last) : preactivation};
}

Gradients backward(const ConvCall& call, const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                   const Tensor& saved, Wanted wanted) {
  const Convolution& conv = call.conv;
  const bool channels_last = call.problem.channels_last;
  auto [grad, grad_bias] = before_activation(conv, grad_output, saved, {}, wanted.bias, channels_last);
  Tensor grad_input = empty_none(input), grad_weight = empty_none(input);
  const Tensor v = dense(grad, true);
  if (wanted.input) {
    Tensor image = empty_image(call.input, input, true);
    WinogradParams p = winograd_call(call, weight, call.problem.input_gradient());
    (conv.transposed ? p.fine_in : p.coarse_in) = data(v);
    (conv.transposed ? p.coarse_out : p.fine_out) = data(image);
    run(p);
    grad_input = in_layout(image, channels_last);
  }
  if (wanted.weight) {
    const Tensor image = dense(input, true);
    grad_weight = empty_image(sizes_of(weight), weight, is_channels_last(weight));
    WinogradParams p = winograd_call(call, weight, Pass::wgrad);
    p.coarse_in = data(conv.transposed ? image : v);
    p.fine_in = data(conv.transposed ? v : image);
    p.grad_weight = data(grad_weight);
    for (int i = 0; i < 4; ++i) p.weight_stride[i] = grad_weight.stride(i);
    const int64_t work = p.tile_count() * p.coarse_block * p.fine_block * winograd_products(p.taps, p.stride) / 16;
    parallel_slices(p.slice_count(), work, [&](int64_t begin, int64_t end) { winograd_wgrad(p, begin, end); });
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

const Backend kWinogradBackend{"winograd", supports, winograd_estimate, multiplications, forward, backward};

}  // namespace sdgan
