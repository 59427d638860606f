// What every file of the binding shares: short names for the stable ABI, checks, allocation, the thread pool.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/scalar.h"

namespace sdgan {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Python has checked the arguments with friendlier words; these hold for callers of torch.ops.sdgan_ext.
#define SDGAN_CHECK(condition, ...) STD_TORCH_CHECK(condition, "sdgan_ext: ", __VA_ARGS__)

inline DType dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::BFloat16:
      return DType::bf16;
    default:
      SDGAN_CHECK(false, name, " must be float32, float64 or bfloat16 on the CPU");
  }
}

inline void check_same_dtype(const Tensor& a, const Tensor& b, const char* names) {
  SDGAN_CHECK(a.scalar_type() == b.scalar_type(), names, " must have the same dtype");
}

inline const void* pointer(const OptionalTensor& t) { return t ? t->const_data_ptr() : nullptr; }
inline void* pointer(OptionalTensor& t) { return t ? t->mutable_data_ptr() : nullptr; }

inline Tensor empty_scalar(const Tensor& like) { return torch::stable::new_empty(like, std::vector<int64_t>{}); }
// The stand-in for an output that was not asked for.
inline Tensor empty_none(const Tensor& like) { return torch::stable::new_empty(like, std::vector<int64_t>{0}); }

// Hands slices [0, count) to torch's thread pool. `cost` is the number of elements a slice works on: small jobs stay on
// the calling thread, where they are faster.
template <class F>
void parallel_slices(int64_t count, int64_t cost, const F& f) {
  constexpr int64_t kWorthAThread = 16384;
  if (count <= 0) return;
  const int64_t grain = cost >= kWorthAThread ? 1 : kWorthAThread / (cost > 0 ? cost : 1);
  torch::stable::parallel_for(0, count, grain, f);
}

// The partial results of a reduction, added in order, stored in the scalar `out`. The mean of nothing is NaN, as in torch.
inline void finish_sum(const std::vector<double>& partial, Tensor& out, bool mean_of_nothing = false) {
  double total = mean_of_nothing ? std::nan("") : 0;
  for (double p : partial) total += p;
  switch (out.scalar_type()) {
    case ScalarType::Float:
      *static_cast<float*>(out.mutable_data_ptr()) = static_cast<float>(total);
      break;
    case ScalarType::Double:
      *static_cast<double*>(out.mutable_data_ptr()) = total;
      break;
    default:
      *static_cast<torch::headeronly::BFloat16*>(out.mutable_data_ptr()) = static_cast<float>(total);
  }
}

}  // namespace sdgan
