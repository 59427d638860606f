// A backend of the convolutions. "Add a convolution backend in five steps" is in csrc/README.md.
#pragma once

#include "kernels/conv/cost_model.h"
#include "ops/conv/convolution.h"

namespace sdgan {

struct Backend {
  const char* name;  // as in sd.conv_backend(name)
  // Why it cannot run the pass; null where it can.
  const char* (*supports)(const ConvQuery& query);
  // What `auto` goes by: it takes the first backend whose speed-up over the library reaches what is asked of it.
  Estimate (*estimate)(const ConvQuery& query);
  // Products of two numbers that it makes in the pass.
  double (*multiplications)(const ConvQuery& query);

  Outputs (*forward)(const ConvCall& call, const Tensor& input, const Tensor& weight, const OptionalTensor& bias);
  Gradients (*backward)(const ConvCall& call, const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                        const Tensor& saved, Wanted wanted);
};

inline double direct_multiplications(const ConvQuery& query) {
  return static_cast<double>(query.problem.geometry.multiplications());
}

extern const Backend kSmallChannelBackend;  // small_channel.cpp
extern const Backend kWinogradBackend;      // winograd.cpp
extern const Backend kImplicitGemmBackend;  // implicit_gemm.cpp
extern const Backend kLibraryBackend;       // library.cpp: runs everything

}  // namespace sdgan
