// Running the Winograd kernels, for the backend of the convolutions and for upsample_conv2d.
#pragma once

#include "kernels/conv/winograd/winograd.h"
#include "ops/conv/convolution.h"

namespace sdgan {

// fprop or dgrad, by geometry, weight, activation and images of p: the filter, then all tiles. Sets block and filter.
void run_winograd(WinogradParams& p);
void set_weight(WinogradParams& p, const Tensor& weight);

}  // namespace sdgan
