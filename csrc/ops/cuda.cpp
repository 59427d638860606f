// The device side of the binding: device guard, current stream, errors.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "ops/common.h"

namespace sdgan {
namespace {

#if !SDGAN_CUDA_ON_HOST
// Of libtorch_cuda, which a CPU torch has not and which is therefore not linked: the torch that is running has loaded
// it. (The stable ABI's own handle of a stream is torch 2.13's.)
CudaStream current_stream(int32_t device) {
  using Getter = AOTITorchError (*)(int32_t, void**);
  static const auto getter = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<Getter>(dlsym(library ? library : RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
  }();
  SDGAN_CHECK(getter != nullptr, "the running torch has no CUDA streams");
  CudaStream stream = nullptr;
  TORCH_ERROR_CODE_CHECK(getter(device, &stream));
  return stream;
}
#endif

}  // namespace

void launch([[maybe_unused]] const Tensor& t, const std::function<CudaError(CudaStream)>& launcher) {
#if SDGAN_CUDA_ON_HOST
  const CudaError error = launcher(nullptr);
#else
  int32_t device;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &device));
  const torch::stable::accelerator::DeviceGuard guard(device);
  const CudaError error = launcher(current_stream(device));
#endif
  SDGAN_CHECK(error == 0, cuda_error_text(error));
}

#if !SDGAN_CUDA
std::string cuda_error_text(CudaError) {
  return "this build has no CUDA kernels; rebuild it with `SDGAN_CUDA=ON pip install --no-build-isolation "
         "--force-reinstall --no-deps .`";
}
#endif

}  // namespace sdgan
