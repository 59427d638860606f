// CUDA's errors in words.
#include "kernels/cuda/portable.cuh"

namespace sdgan {

#ifdef __CUDACC__
std::string cuda_error_text(CudaError code) {
  const cudaError_t error = static_cast<cudaError_t>(code);
  const std::string name = std::string(cudaGetErrorName(error)) + ", " + cudaGetErrorString(error);
  if (error == cudaErrorNoKernelImageForDevice) {
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    const std::string arch = std::to_string(major) + "." + std::to_string(minor);
    return "this build has no CUDA kernels for this GPU's compute capability " + arch + "; rebuild it with `TORCH_CUDA_ARCH_LIST=" +
           arch + " SDGAN_CUDA=ON pip install --no-build-isolation --force-reinstall --no-deps .`";
  }
  if (error == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver is older than the CUDA " + std::to_string(CUDART_VERSION / 1000) +
           " that the kernels were compiled with; update it, or rebuild with the CUDA toolkit of torch.version.cuda";
  }
  return name;
}
#else
std::string cuda_error_text(CudaError error) { return "error " + std::to_string(error) + " of the CUDA kernels on the host"; }
#endif

}  // namespace sdgan
