// How the header of an op declares its CUDA launcher, beside SDGAN_CPU_KERNEL; understood without the CUDA toolkit.
#pragma once

#include <cstdint>
#include <string>

namespace sdgan {

using CudaStream = void*;  // a cudaStream_t
using CudaError = int;     // a cudaError_t, 0 for success, or:
constexpr CudaError kCudaNotBuilt = -1;

// The doubles that a launcher needs where its parameters have `partial`.
constexpr int64_t kCudaPartials = 4096;

// The error in words, with the fix where there is one.
std::string cuda_error_text(CudaError error);

// For timing: waits for the stream; whether its work is recorded into a graph instead of done.
#if SDGAN_CUDA
CudaError wait_for_stream(CudaStream stream);
bool stream_is_capturing(CudaStream stream);
#else
inline CudaError wait_for_stream(CudaStream) { return kCudaNotBuilt; }
inline bool stream_is_capturing(CudaStream) { return false; }
#endif

}  // namespace sdgan

// launch_<name>(p, stream) checks nothing, allocates nothing, does not wait, and returns the first error of its
// launches. In a build without CUDA kernels it is there too and returns kCudaNotBuilt.
#if SDGAN_CUDA
#define SDGAN_CUDA_KERNEL(name, Params) CudaError launch_##name(const Params& p, CudaStream stream);
#else
#define SDGAN_CUDA_KERNEL(name, Params) \
  inline CudaError launch_##name(const Params&, CudaStream) { return kCudaNotBuilt; }
#endif
