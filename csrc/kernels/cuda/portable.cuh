// The dialect of the .cu files, the one header through which they see CUDA. nvcc compiles them for GPUs; g++, against
// tests/cuda_on_host/cuda_host.h, to run on the CPU in the tests (docs/cuda.md has the rules that follow).
#pragma once

#include <cstdint>

#include "kernels/launcher.h"
#include "kernels/scalar.h"

// The architecture compiled for; where there is none, as in g++, every wrapper of ptx.cuh and sm90.cuh is there.
#ifdef __CUDA_ARCH__
#define SDGAN_CUDA_ARCH __CUDA_ARCH__
#else
#define SDGAN_CUDA_ARCH 900
#endif

#ifdef __CUDACC__
#include <cuda_runtime.h>

#define SDGAN_DEVICE __device__ __forceinline__
#define PRAGMA_UNROLL _Pragma("unroll")

namespace sdgan::cuda {

// Raises a kernel's limit of dynamic shared memory where it needs more than the 48 KiB that every kernel may have.
template <class... P, class... A>
CudaError launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, CudaStream stream, A... args) {
  if (smem > (48u << 10)) {
    const cudaError_t raised = cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem));
    if (raised != cudaSuccess) {
      cudaGetLastError();  // reported here, and not once more by the next launch
      return raised;
    }
  }
  kernel<<<grid, block, smem, static_cast<cudaStream_t>(stream)>>>(args...);
  return cudaGetLastError();
}

template <class T>
SDGAN_DEVICE T* dynamic_smem() {
  extern __shared__ __align__(1024) unsigned char smem_bytes[];
  return reinterpret_cast<T*>(smem_bytes);
}

// An array in shared memory; on the host its accesses are checked: for races, for the array's end.
template <class T>
struct Smem {
  T* p;
  SDGAN_DEVICE T& operator[](int i) const { return p[i]; }
};

}  // namespace sdgan::cuda
#else
#include "tests/cuda_on_host/cuda_host.h"

#define SDGAN_DEVICE inline

namespace sdgan::cuda {

using ::dynamic_smem;
using ::launch;
using ::Smem;

}  // namespace sdgan::cuda
#endif
