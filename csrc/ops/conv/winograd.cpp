// Fewer multiplications: kernels/conv/winograd/, float32 on the CPU. The kernels are channels_last; an NCHW image is
// copied.
#include "ops/conv/winograd.h"

#include "kernels/cpu/workspace.h"
#include "ops/conv/backend.h"
#include "ops/conv/epilogue.h"
#include "ops/conv/kept_filters.h"

namespace sdgan {
namespace {

constexpr int64_t kTiles = 32;              // what the planes of most layers leave of an L2 cache of 1 MiB
constexpr int64_t kCachedFilter = 1 << 22;  // floats; what lies beyond comes from memory for every block of tiles

float* data(Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }
const float* data(const Tensor& t) { return static_cast<const float*>(t.const_data_ptr()); }

// Slices as equal as can be for the threads there are.
void balance(WinogradParams& p) {
  const int64_t threads = torch::stable::get_num_threads();
  if (p.pass == Pass::wgrad) {
    p.block = 64;
    p.y_block = 128;
    p.x_block = 64;
    while (p.slice_count() < threads && p.x_block > 16) p.x_block /= 2;
    while (p.slice_count() < threads && p.y_block > 32) p.y_block /= 2;
  } else {
    const bool streamed = p.tile == 4 && winograd_filter_size(p) > kCachedFilter;
    const int64_t tiles = std::max<int64_t>(1, p.tile_count()), together = (streamed ? 2 : 1) * kTiles * threads;
    const int64_t slices = (tiles + together - 1) / together * threads;
    p.block = (tiles + slices - 1) / slices;
  }
}

WinogradParams winograd_call(const ConvCall& call, Pass pass) {
  WinogradParams p;
  p.pass = pass;
  p.geometry = call.problem.geometry;
  p.tile = winograd_tile({call.problem, pass});
  return p;
}

// From as many tiles on, the filter takes 2% of the time, and its memory is better left alone.
constexpr int64_t kTilesToKeepFor = 2048;

// All that the filter's values depend on, for a weight without gaps.
FilterKey filter_key(const WinogradParams& p, const Tensor& weight) {
  FilterKey key{data(weight)};
  for (int i = 0; i < 4; ++i) {
    key.size[i] = weight.size(i);
    key.stride[i] = weight.stride(i);
  }
  key.pass = p.pass;
  key.scheme = (p.tile * 2 + p.upsampled) * 4 + p.stride() * 2 - 2 + p.geometry.vertical.pad % p.stride();
  return key;
}

}  // namespace

void run_winograd(WinogradParams& p, const Tensor& weight, bool keeps_filter) {
  p.weight = data(weight);
  for (int i = 0; i < 4; ++i) p.weight_stride[i] = weight.stride(i);
  balance(p);
  const int64_t pairs = p.padded_y() * p.padded_x() * p.products();
  const int64_t groups = (p.pass == Pass::dgrad ? p.padded_y() : p.padded_x()) / 16;
  const bool dgrad = p.pass == Pass::dgrad, f43 = p.tile == 4;
  const auto transform = [&](float* filter) {
    p.filter = filter;
    parallel_slices(groups, pairs / groups, [&](int64_t begin, int64_t end) {
      if (f43) return winograd_f43_filter(p, begin, end);
      winograd_filter(p, begin, end);
    });
  };
  std::shared_ptr<float> kept;
  if (keeps_filter && p.tile_count() < kTilesToKeepFor && (has_format(weight, true) || has_format(weight, false))) {
    kept = kept_filter(filter_key(p, weight), winograd_filter_size(p), transform);
    p.filter = kept.get();
  }
  if (!kept) transform(workspace(Workspace::filter, winograd_filter_size(p)));
  parallel_slices(p.slice_count(), p.block * pairs / 16, [&](int64_t begin, int64_t end) {
    if (f43) return winograd_f43(p, begin, end);
    if (dgrad) return winograd_dgrad(p, begin, end);
    winograd_fprop(p, begin, end);
  });
}

namespace {

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
  const WinogradParams p{query.pass, query.problem.geometry, winograd_tile(query)};
  return static_cast<double>(p.tile_count()) * p.products() * p.padded_y() * p.padded_x();
}

Outputs forward(const ConvCall& call, const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  const Convolution& conv = call.conv;
  const bool keeps = derivative_needs_input(conv.activation);
  const Tensor image = dense(input, true);
  const Tensor dense_bias = bias ? to_contiguous(*bias) : empty_none(input);
  Tensor output = empty_image(call.output, input, true);
  Tensor preactivation = keeps ? empty_image(call.output, input, true) : empty_none(input);

  WinogradParams p = winograd_call(call, call.problem.forward());
  (conv.transposed ? p.y_in : p.x_in) = data(image);
  (conv.transposed ? p.x_out : p.y_out) = data(output);
  p.preactivation = keeps ? data(preactivation) : nullptr;
  p.bias = bias ? data(dense_bias) : nullptr;
  const Tensor dense_residual = call.residual ? dense(*call.residual, true) : empty_none(input);
  p.residual = call.residual ? data(dense_residual) : nullptr;
  p.output_scale = conv.output_scale;
  p.activation = conv.activation;
  p.negative_slope = conv.negative_slope;
  run_winograd(p, weight, call.keeps_filter);
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
    WinogradParams p = winograd_call(call, call.problem.input_gradient());
    (conv.transposed ? p.x_in : p.y_in) = data(v);
    (conv.transposed ? p.y_out : p.x_out) = data(image);
    run_winograd(p, weight);
    grad_input = in_layout(image, channels_last);
  }
  if (wanted.weight) {
    const Tensor image = dense(input, true);
    grad_weight = empty_image(sizes_of(weight), weight, is_channels_last(weight));
    WinogradParams p = winograd_call(call, Pass::wgrad);
    p.y_in = data(conv.transposed ? image : v);
    p.x_in = data(conv.transposed ? v : image);
    p.grad_weight = data(grad_weight);
    for (int i = 0; i < 4; ++i) p.weight_stride[i] = grad_weight.stride(i);
    balance(p);
    const int64_t work = p.tile_count() * p.y_block * p.x_block * p.products() / 16;
    parallel_slices(p.slice_count(), work, [&](int64_t begin, int64_t end) { winograd_wgrad(p, begin, end); });
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

const Backend kWinogradBackend{"winograd", supports, winograd_estimate, multiplications, forward, backward};

}  // namespace sdgan
