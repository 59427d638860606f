// CUDA's errors in words, with the fix where there is one, and what a stream is doing.
#include "kernels/cuda/portable.cuh"

namespace sdgan {

#ifdef __CUDACC__
std::string cuda_error_text(CudaError code) {
  const cudaError_t error = static_cast<cudaError_t>(code);
  switch (error) {
    case cudaErrorNoKernelImageForDevice: {
      int device = 0, major = 0, minor = 0;
      cudaGetDevice(&device);
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
      const std::string arch = std::to_string(major) + "." + std::to_string(minor);
      return "this build has no CUDA kernels for this GPU's compute capability " + arch +
             "; rebuild it with `TORCH_CUDA_ARCH_LIST=" + arch +
             " SDGAN_CUDA=ON pip install --no-build-isolation --force-reinstall --no-deps .`";
    }
    case cudaErrorInsufficientDriver:
    case cudaErrorInvalidKernelImage:
    case cudaErrorUnsupportedPtxVersion:
      return "the NVIDIA driver is too old for kernels that CUDA " + std::to_string(CUDART_VERSION / 1000) +
             " compiled; update it, or rebuild with the CUDA toolkit of torch.version.cuda";
    default:
      return std::string("CUDA error: ") + cudaGetErrorName(error) + ", " + cudaGetErrorString(error);
  }
}

CudaError wait_for_stream(CudaStream stream) { return cudaStreamSynchronize(static_cast<cudaStream_t>(stream)); }

bool stream_is_capturing(CudaStream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status);
  return status != cudaStreamCaptureStatusNone;
}
#else
CudaError wait_for_stream(CudaStream) { return 0; }
bool stream_is_capturing(CudaStream) { return false; }

std::string cuda_error_text(CudaError error) { return "error " + std::to_string(error) + " of a kernel on the host"; }
#endif

}  // namespace sdgan
