// The posterior q = N(mu, sigma^2), sigma = exp(logvar / 2), of a variational autoencoder (Kingma & Welling 2014):
//
//   z  = mu + sigma eps                                        reparameterisation (sec. 2.4)
//   kl = 1/2 (mu^2 + exp(logvar) - 1 - logvar)                 KL(q || N(0, I)) of each element (appendix B)
//
// eps is given, or drawn in the kernel (philox.h). The backward pass needs neither eps nor random numbers, because
// sigma eps = z - mu:
//
//   d mu     = gz + gk mu
//   d logvar = 1/2 (gz (z - mu) + gk (exp(logvar) - 1))
//   d eps    = gz sigma
#pragma once

#include "kernels/isa.h"
#include "kernels/launcher.h"
#include "kernels/scalar.h"

namespace sdgan {

struct GaussianParams {
  const void* mean = nullptr;     // [n]
  const void* logvar = nullptr;   // [n]
  const void* eps = nullptr;      // [n], or null: drawn from seed
  const int64_t* seed = nullptr;  // one element, on the device; null where eps is given or z is not wanted
  void* z = nullptr;              // [n], or null: KL only
  void* kl = nullptr;             // [n] when not reduced, else null
  double* partial = nullptr;      // [slices], on CUDA [kCudaPartials]: sums of KL, scaled; null when not reduced
  void* total = nullptr;          // CUDA: the sum of all, one element; null when not reduced
  int64_t n = 0;
  double scale = 1;
  DType dtype = DType::f32;
};

struct GaussianBackwardParams {
  const void* grad_z = nullptr;   // [n] or null
  const void* grad_kl = nullptr;  // [n], or one element when the KL was reduced, or null
  const void* mean = nullptr;     // [n]
  const void* logvar = nullptr;   // [n]
  const void* z = nullptr;        // [n]; null where grad_z is
  void* grad_mean = nullptr;      // [n]
  void* grad_logvar = nullptr;    // [n]
  void* grad_eps = nullptr;       // [n] or null
  int64_t n = 0;
  double scale = 1;
  bool reduced = true;
  DType dtype = DType::f32;
};

SDGAN_CPU_KERNEL(gaussian, const GaussianParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CPU_KERNEL(gaussian_backward, const GaussianBackwardParams& p, int64_t slice_begin, int64_t slice_end)
SDGAN_CUDA_KERNEL(gaussian, GaussianParams)
SDGAN_CUDA_KERNEL(gaussian_backward, GaussianBackwardParams)

}  // namespace sdgan
