// Running the Winograd kernels, for the backend of the convolutions and for upsample_conv2d.
#pragma once

#include "kernels/conv/winograd/winograd.h"
#include "ops/conv/convolution.h"

namespace sdgan {

// fprop or dgrad, by geometry, activation and images of p, whose other members it sets: the filter, then all tiles.
void run_winograd(WinogradParams& p, const Tensor& weight, bool keeps_filter = false);

}  // namespace sdgan
