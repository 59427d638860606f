// Fewer multiplications: kernels/winograd.h, float32 on the CPU. The kernels are channels_last; an NCHW image is copied.
#include "kernels/cpu/workspace.h"
#include "kernels/winograd.h"

#include <algorithm>

#include "ops/convolution_epilogue.h"

namespace sdgan {
namespace {

constexpr int64_t kTiles = 32;  // what the planes of most layers leave of an L2 cache of 1 MiB

float* data(Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }
const float* data(const Tensor& t) { return static_cast<const float*>(t.const_data_ptr()); }

// Slices as equal as can be for the threads there are.
void balance(WinogradParams& p) {
  const int64_t threads = torch::stable::get_num_threads();
  if (p.product == WinogradProduct::wgrad) {
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

WinogradParams winograd_call(const Convolution& conv, const Tensor& input, const Tensor& weight, const IntList& output,
                             ConvolutionPass pass) {
  WinogradParams p = winograd_geometry(conv.transposed, pass, sizes_of(input), sizes_of(weight), output, conv.stride,
                                       conv.sides);
  p.weight = data(weight);
  for (int i = 0; i < 4; ++i) p.weight_stride[i] = weight.stride(i);
  balance(p);
  return p;
}

// to_fine or to_coarse: the filter, then all tiles.
void run(WinogradParams& p) {
  p.filter = workspace(Workspace::filter, winograd_filter_size(p));
  const int64_t pairs = p.padded_coarse() * p.padded_fine() * winograd_products(p.taps, p.stride);
  const int64_t groups = (p.product == WinogradProduct::to_fine ? p.padded_coarse() : p.padded_fine()) / 16;
  parallel_slices(groups, pairs / groups, [&](int64_t begin, int64_t end) { winograd_filter(p, begin, end); });
  const bool to_fine = p.product == WinogradProduct::to_fine;
  parallel_slices(p.slice_count(), p.block * pairs / 16, [&](int64_t begin, int64_t end) {
    to_fine ? winograd_to_fine(p, begin, end) : winograd_to_coarse(p, begin, end);
  });
}

Tensor in_layout(const Tensor& t, bool channels_last) { return channels_last ? t : dense(t, false); }

}  // namespace

Outputs winograd_convolution(const Convolution& conv, const Tensor& input, const Tensor& weight,
                             const OptionalTensor& bias, bool channels_last) {
  const IntList size = output_sizes(conv, input, weight);
  const bool keeps = derivative_needs_input(conv.activation);
  const Tensor image = dense(input, true);
  const Tensor dense_bias = bias ? to_contiguous(*bias) : empty_none(input);
  Tensor output = empty_image(size, input, true);
  Tensor preactivation = keeps ? empty_image(size, input, true) : empty_none(input);

  WinogradParams p = winograd_call(conv, input, weight, size, ConvolutionPass::forward);
  (conv.transposed ? p.coarse_in : p.fine_in) = data(image);
  (conv.transposed ? p.fine_out : p.coarse_out) = data(output);
  p.preactivation = keeps ? data(preactivation) : nullptr;
  p.bias = bias ? data(dense_bias) : nullptr;
  p.activation = conv.activation;
  p.negative_slope = conv.negative_slope;
  run(p);
  return {in_layout(output, channels_last), keeps ? in_layout(preactivation, channels_last) : preactivation};
}

Gradients winograd_convolution_backward(const Convolution& conv, const Tensor& grad_output, const Tensor& input,
                                        const Tensor& weight, const Tensor& saved, Wanted wanted, Wanted by_winograd,
                                        bool channels_last) {
  const IntList none{0, 0, 0, 0}, size = sizes_of(grad_output);
  auto [grad, grad_bias] = before_activation(conv, grad_output, saved, none, wanted.bias, channels_last);
  Tensor grad_input = empty_none(input), grad_weight = empty_none(input);

  const Wanted by_library{wanted.input && !by_winograd.input, wanted.weight && !by_winograd.weight, false};
  if (by_library.input || by_library.weight) {
    Convolution plain = conv;
    plain.activation = Activation::none;
    std::tie(grad_input, grad_weight, std::ignore) =
        library_convolution_backward(plain, grad, input, weight, saved, by_library, channels_last);
  }
  const Tensor v = dense(grad, true);
  if (wanted.input && by_winograd.input) {
    Tensor image = empty_image(sizes_of(input), input, true);
    WinogradParams p = winograd_call(conv, input, weight, size, ConvolutionPass::grad_input);
    (conv.transposed ? p.fine_in : p.coarse_in) = data(v);
    (conv.transposed ? p.coarse_out : p.fine_out) = data(image);
    run(p);
    grad_input = in_layout(image, channels_last);
  }
  if (wanted.weight && by_winograd.weight) {
    const Tensor image = dense(input, true);
    grad_weight = empty_image(sizes_of(weight), weight, is_channels_last(weight));
    WinogradParams p = winograd_call(conv, input, weight, size, ConvolutionPass::grad_weight);
    p.coarse_in = data(conv.transposed ? image : v);
    p.fine_in = data(conv.transposed ? v : image);
    p.grad_weight = data(grad_weight);
    for (int i = 0; i < 4; ++i) p.weight_stride[i] = grad_weight.stride(i);
    const int64_t work = p.tile_count() * p.coarse_block * p.fine_block * winograd_products(p.taps, p.stride) / 16;
    parallel_slices(p.slice_count(), work, [&](int64_t begin, int64_t end) { winograd_wgrad(p, begin, end); });
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace sdgan
