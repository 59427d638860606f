// The passes before and after a convolution's product, kernels/conv/epilogue.h, for the backends that need them.
#pragma once

#include "kernels/conv/epilogue.h"
#include "ops/conv/convolution.h"

namespace sdgan {

// `sides`: rows and columns at the top, bottom, left and right.
Tensor window(Tensor t, const Sizes& sides);
// Fresh and larger than `like` by `sides`, with zeros there; the window is not initialised.
Tensor empty_with_border(const Tensor& like, const Sizes& sides, bool channels_last);

// `image` has the given format; it may be a window.
ConvEpilogueShape epilogue_shape(const Tensor& image, bool channels_last);

// v = grad_output * act'(saved) inside a border of zeros, and the sums of v by channel where want_bias is set, in one
// pass. Without activation and border v is grad_output itself, and there is a pass only for the sums.
std::tuple<Tensor, Tensor> before_activation(const Convolution& conv, const Tensor& grad_output, const Tensor& saved,
                                             const Sizes& border, bool want_bias, bool channels_last);

}  // namespace sdgan
