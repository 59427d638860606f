#include "ops/conv/epilogue.h"

namespace sdgan {
namespace {

// p has all but the memory of the bias' gradient, which is summed where there is a tensor for it.
void run_backward_on_cpu(ConvEpilogueBackwardParams& p, Tensor* grad_bias) {
  std::vector<double> partial(grad_bias ? p.shape.slice_count() * p.shape.channels_per_plane() : 0);
  p.partial = grad_bias ? partial.data() : nullptr;
  parallel_slices(p.shape.slice_count(), p.shape.slice_elements(),
                  [&](int64_t begin, int64_t end) { conv_epilogue_backward(p, begin, end); });
  if (grad_bias) conv_bias_gradient(p.shape, partial.data(), grad_bias->mutable_data_ptr(), p.dtype);
}

void run_backward_on_cuda(ConvEpilogueBackwardParams& p, const Tensor& grad_output, Tensor* grad_bias) {
  if (grad_output.numel() == 0) {
    if (grad_bias) torch::stable::zero_(*grad_bias);
    return;
  }
  const Tensor partial = empty_doubles(grad_output, grad_bias ? p.cuda_partial_count() : 0);
  if (grad_bias) {
    p.partial = static_cast<double*>(partial.mutable_data_ptr());
    p.grad_bias = grad_bias->mutable_data_ptr();
  }
  launch(grad_output, [&](CudaStream stream) { return launch_conv_epilogue_backward(p, stream); });
}

}  // namespace

Tensor window(Tensor t, const Sizes& sides) {
  Tensor rows = torch::stable::narrow(t, 2, sides[0], t.size(2) - sides[0] - sides[1]);
  return torch::stable::narrow(rows, 3, sides[2], t.size(3) - sides[2] - sides[3]);
}

Tensor empty_with_border(const Tensor& like, const Sizes& sides, bool channels_last) {
  const Sizes sizes{like.size(0), like.size(1), like.size(2) + sides[0] + sides[1], like.size(3) + sides[2] + sides[3]};
  Tensor out = empty_image(sizes, like, channels_last);
  for (int side = 0; side < 4; ++side) {
    if (sides[side] == 0) continue;
    const int64_t axis = 2 + side / 2;
    const bool at_end = side % 2 == 1;
    Tensor strip = torch::stable::narrow(out, axis, at_end ? out.size(axis) - sides[side] : 0, sides[side]);
    torch::stable::zero_(strip);
  }
  return out;
}

ConvEpilogueShape epilogue_shape(const Tensor& image, bool channels_last) {
  ConvEpilogueShape s;
  const int64_t n = image.size(0), c = image.size(1), h = image.size(2), w = image.size(3);
  s.channels = c;
  s.channels_last = channels_last;
  s.planes = channels_last ? n : n * c;
  s.lines = h;
  s.length = channels_last ? w * c : w;
  s.plane_stride = channels_last ? image.stride(0) : image.stride(1);
  s.line_stride = image.stride(2);
  if (!channels_last && s.line_stride == w) {  // a plane without gaps is one line
    s.length = h * w;
    s.lines = 1;
  }
  return s;
}

std::tuple<Tensor, Tensor> before_activation(const Convolution& conv, const Tensor& grad_output, const Tensor& saved,
                                             const Sizes& border, bool want_bias, bool channels_last) {
  const bool has_activation = conv.activation != Activation::none;
  const bool has_border = border != Sizes{};
  Tensor grad_bias = want_bias ? empty_vector(grad_output, grad_output.size(1)) : empty_none(grad_output);
  if (!has_activation && !has_border && !want_bias) return {grad_output, grad_bias};

  const Tensor grad = dense(grad_output, channels_last);
  Tensor v = grad;
  if (has_border) {
    v = empty_with_border(grad, border, channels_last);
  } else if (has_activation) {
    v = empty_image(sizes_of(grad), grad, channels_last);
  }
  const Tensor inside = has_border ? window(v, border) : v;
  ConvEpilogueBackwardParams p;
  p.shape = epilogue_shape(inside, channels_last);
  p.dtype = dtype_of(grad, "grad_output");
  p.activation = conv.activation;
  p.negative_slope = conv.negative_slope;
  p.grad_output = grad.const_data_ptr();
  const Tensor dense_saved = has_activation ? dense(saved, channels_last) : saved;
  p.saved = has_activation ? dense_saved.const_data_ptr() : nullptr;
  p.grad_preactivation = has_activation || has_border ? inside.mutable_data_ptr() : nullptr;
  Tensor* wanted_bias = want_bias ? &grad_bias : nullptr;
  if (on_cuda(grad)) {
    run_backward_on_cuda(p, grad, wanted_bias);
  } else {
    run_backward_on_cpu(p, wanted_bias);
  }
  return {v, grad_bias};
}

}  // namespace sdgan
