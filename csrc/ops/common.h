// What every file of the binding shares: short names for the stable ABI, checks, allocation, and the two ways to run a
// kernel: slices for torch's thread pool, or a launch on the current CUDA stream.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/fresh_pages.h"
#include "kernels/launcher.h"
#include "kernels/scalar.h"

namespace sdgan {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Python has checked the arguments with friendlier words; these hold for callers of torch.ops.sdgan_ext.
#define SDGAN_CHECK(condition, ...) STD_TORCH_CHECK(condition, "sdgan_ext: ", __VA_ARGS__)

// Whether the CUDA kernels do the work. In the tests' build that runs them on the host they do, on the CPU's tensors.
inline bool on_cuda([[maybe_unused]] const Tensor& t) {
#if SDGAN_CUDA_ON_HOST
  return true;
#else
  return t.is_cuda();
#endif
}

inline DType dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Half:
      if (on_cuda(t)) return DType::f16;
      [[fallthrough]];
    default:
      SDGAN_CHECK(false, name, " must be float32, float64 or bfloat16, or float16 on CUDA");
  }
}

// A kernel would read the CPU's memory as the GPU's.
inline void check_same_device(const Tensor& a, const Tensor& b, const char* names) {
  const bool same = a.is_cuda() == b.is_cuda() && (!a.is_cuda() || a.get_device_index() == b.get_device_index());
  SDGAN_CHECK(same, names, " must be on the same device");
}

inline void check_same_dtype(const Tensor& a, const Tensor& b, const char* names) {
  SDGAN_CHECK(a.scalar_type() == b.scalar_type(), names, " must have the same dtype");
  check_same_device(a, b, names);
}

// An enumeration's value as the schemas have it; `last` is its last one.
template <class E>
E enumerator(int64_t code, E last, const char* name) {
  SDGAN_CHECK(0 <= code && code <= static_cast<int64_t>(last), name, " is ", code, "; the last one is ",
              static_cast<int64_t>(last));
  return static_cast<E>(code);
}
inline Reduction reduction_of(int64_t code) { return enumerator(code, Reduction::batchmean, "reduction"); }

// Elementwise kernels trust that their tensors match.
inline void check_like(const Tensor& t, const Tensor& other, const char* names) {
  check_same_dtype(t, other, names);
  SDGAN_CHECK(t.sizes().equals(other.sizes()), names, " must have the same shape");
}
inline void check_scalar(const Tensor& t, const Tensor& other, const char* name) {
  check_same_dtype(t, other, name);
  SDGAN_CHECK(t.numel() == 1, name, " must have one element");
}

// Opens a file's list of operators, m.impl(name, function): one implementation for the CPU and for CUDA.
#define SDGAN_IMPLEMENTATION(m)                                                          \
  static void sdgan_implementation(torch::stable::detail::StableLibrary& m);             \
  STABLE_TORCH_LIBRARY_IMPL(sdgan_ext, CPU, library) { sdgan_implementation(library); }  \
  STABLE_TORCH_LIBRARY_IMPL(sdgan_ext, CUDA, library) { sdgan_implementation(library); } \
  static void sdgan_implementation(torch::stable::detail::StableLibrary& m)

inline const void* pointer(const OptionalTensor& t) { return t ? t->const_data_ptr() : nullptr; }

// Straight to the allocator: torch::stable::new_empty looks its operator up by name, which costs more than a small
// kernel.
inline Tensor empty(const Tensor& like, int64_t dim, const int64_t* sizes, const int64_t* strides, int32_t dtype) {
  int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dim, sizes, strides, dtype, device_type, device_index, &handle));
  return Tensor(handle);
}
inline Tensor empty(const Tensor& like, int64_t dim, const int64_t* sizes, const int64_t* strides) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  return empty(like, dim, sizes, strides, dtype);
}
// Scratch memory on the device of `like`.
inline Tensor empty_doubles(const Tensor& like, int64_t count) {
  const int64_t stride = 1;
  return empty(like, 1, &count, &stride, aoti_torch_dtype_float64());
}
inline Tensor empty_vector(const Tensor& like, int64_t count) {
  const int64_t stride = 1;
  return empty(like, 1, &count, &stride);
}
inline Tensor empty_scalar(const Tensor& like) { return empty(like, 0, nullptr, nullptr); }
// The stand-in for an output that was not asked for.
inline Tensor empty_none(const Tensor& like) { return empty_vector(like, 0); }
// As torch.empty_like: the strides of `like` where it is dense, else dense ones in the same order of dimensions.
inline Tensor empty_as(const Tensor& like) {
  if (!like.is_contiguous()) return torch::stable::empty_like(like);
  return empty(like, like.dim(), like.sizes().data(), like.strides().data());
}
inline Tensor empty_if(bool needed, const Tensor& like) { return needed ? empty_as(like) : empty_none(like); }
inline Tensor scalar_one(const Tensor& like) {
  Tensor one = empty_scalar(like);
  return torch::stable::fill_(one, 1.0);
}

inline Tensor to_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }
// Elementwise kernels run over memory as if it had one dimension. For that, their first tensor must be dense (a copy
// where it has gaps or overlaps; its layout becomes that of the outputs) and the others have its layout.
inline Tensor dense(const Tensor& t) {
  if (t.is_contiguous()) return t;
  Tensor copy = torch::stable::empty_like(t);
  return copy.strides().equals(t.strides()) ? t : torch::stable::copy_(copy, t);
}
inline Tensor in_layout_of(const Tensor& dense, const Tensor& t) {
  if ((dense.is_contiguous() && t.is_contiguous()) || dense.strides().equals(t.strides())) return t;
  Tensor copy = torch::stable::empty_like(dense);
  return torch::stable::copy_(copy, t);
}

// The gradient of a loss that was reduced to one element or else has the shape of `elements`, which is dense.
inline Tensor loss_gradient(const Tensor& grad_loss, const Tensor& elements, bool reduced) {
  if (reduced) {
    check_scalar(grad_loss, elements, "grad_loss");
    return grad_loss;
  }
  check_like(grad_loss, elements, "grad_loss");
  return in_layout_of(elements, grad_loss);
}

// The number that the sum of an elementwise loss is divided by.
inline double divisor(Reduction reduction, const Tensor& elements) {
  switch (reduction) {
    case Reduction::mean:
      return static_cast<double>(elements.numel());
    case Reduction::batchmean:
      return static_cast<double>(elements.size(0));
    default:
      return 1;
  }
}

// Hands slices [0, count) to torch's thread pool. `cost` is the number of elements a slice works on: small jobs stay on
// the calling thread, where they are faster.
template <class F>
void parallel_slices(int64_t count, int64_t cost, const F& f) {
  constexpr int64_t kWorthAThread = 16384;
  if (count <= 0) return;
  const int64_t grain = cost >= kWorthAThread ? 1 : kWorthAThread / (cost > 0 ? cost : 1);
  if (count <= grain) return f(0, count);
  torch::stable::parallel_for(0, count, grain, f);
}

// Calls launcher(stream) with t's device as the current one and with its current stream; an error of CUDA becomes one
// of torch, in words.
void launch(const Tensor& t, const std::function<CudaError(CudaStream)>& launcher);

// The partial results of a reduction, added in order, stored in the scalar `out`. The mean of nothing is NaN, as in
// torch.
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

// What a kernel writes, for run_elementwise; nothing where it is not wanted.
inline Written written(void* data, const Tensor& t, int64_t first_slice = 0) { return {data, t.numel(), first_slice}; }

// A pass over the n elements of `like`, in slices. kernel(p, begin, end) runs it on the CPU, launcher(p, stream) on
// CUDA.
template <class Params, class Kernel, class Launcher>
void run_elementwise(Params& p, int64_t count, const Tensor& like, std::initializer_list<Written> outputs,
                     Kernel kernel, Launcher launcher) {
  if (on_cuda(like)) {
    if (count > 0) launch(like, [&](CudaStream stream) { return launcher(p, stream); });
    return;
  }
  const FreshPages fresh(outputs, like.element_size());
  parallel_slices(count, kSlice, [&](int64_t begin, int64_t end) {
    const int64_t step = fresh.none() ? end - begin : FreshPages::kSlicesAtOnce;
    for (; begin < end; begin += step) {
      const int64_t next = std::min(end, begin + step);
      fresh.populate(begin, next);
      kernel(p, begin, next);
    }
  });
}

// The same with a sum, which `total` receives where it is given.
template <class Params, class Kernel, class Launcher>
void run_reduction(Params& p, int64_t count, Tensor* total, bool mean_of_nothing, const Tensor& like,
                   std::initializer_list<Written> outputs, Kernel kernel, Launcher launcher) {
  if (!on_cuda(like)) {
    std::vector<double> partial(total ? count : 0);
    p.partial = total ? partial.data() : nullptr;
    run_elementwise(p, count, like, outputs, kernel, launcher);
    if (total) finish_sum(partial, *total, mean_of_nothing);
    return;
  }
  if (count > 0) {
    const Tensor partial = empty_doubles(like, total ? kCudaPartials : 0);
    p.partial = total ? static_cast<double*>(partial.mutable_data_ptr()) : nullptr;
    p.total = total ? total->mutable_data_ptr() : nullptr;
    run_elementwise(p, count, like, outputs, kernel, launcher);
  }
  if (total && (count == 0 || mean_of_nothing)) torch::stable::fill_(*total, mean_of_nothing ? std::nan("") : 0);
}

}  // namespace sdgan
