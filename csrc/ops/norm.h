// What the bindings of batch norm and group norm share: layouts, and vectors of a value per channel.
#pragma once

#include "ops/common.h"

namespace sdgan {

// Whether the channels (dimension 1) of a dense tensor are innermost in memory and everything else is in order.
inline bool channels_last(const Tensor& t) {
  int64_t expected = t.size(1);
  if (t.size(1) != 1 && t.stride(1) != 1) return false;
  for (int64_t d = t.dim() - 1; d >= 0; --d) {
    if (d == 1) continue;
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

// An output for `t`: in its layout, where that is one of the two that the kernels know. The fake kernel does the same.
inline Tensor empty_output(const Tensor& t) {
  if (t.is_contiguous() || channels_last(t)) return empty(t, t.dim(), t.sizes().data(), t.strides().data());
  Tensor out = torch::stable::empty_like(t);
  return out.is_contiguous() || channels_last(out) ? out : torch::stable::new_empty(t, t.sizes());
}

// `t`, copied where its strides are not those of `like`.
inline Tensor in_strides_of(const Tensor& like, const Tensor& t) {
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (t.size(d) != 1 && t.stride(d) != like.stride(d)) {
      Tensor copy = torch::stable::empty_like(like);
      return torch::stable::copy_(copy, t);
    }
  }
  return t;
}

inline ScalarType compute_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor as(const Tensor& t, ScalarType type) { return t.scalar_type() == type ? t : torch::stable::to(t, type); }

// A vector of C in the type that the kernels compute in.
inline OptionalTensor vector(const OptionalTensor& t, const Tensor& input, const char* name) {
  if (!t) return std::nullopt;
  SDGAN_CHECK(t->dim() == 1 && t->size(0) == input.size(1), name, " must hold one value per channel");
  check_same_device(*t, input, name);
  return to_contiguous(as(*t, compute_type(input)));
}

// A gradient in the type of what it belongs to.
inline Tensor as_given(const Tensor& grad, const OptionalTensor& given) {
  return given ? as(grad, given->scalar_type()) : grad;
}

// Uninitialised, of the type that the kernels compute in.
inline Tensor empty_compute(const Tensor& input, int64_t dim, const int64_t* sizes, const int64_t* strides) {
  const bool f64 = input.scalar_type() == ScalarType::Double;
  return empty(input, dim, sizes, strides, f64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
}
inline Tensor empty_channels(const Tensor& input) {
  const int64_t size = input.size(1), stride = 1;
  return empty_compute(input, 1, &size, &stride);
}

}  // namespace sdgan
