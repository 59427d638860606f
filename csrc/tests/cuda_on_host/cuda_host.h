// CUDA C++ as g++ or clang understands it: compiles a .cu file whose only CUDA header is kernels/cuda/portable.cuh and
// runs its kernels on the CPU. docs/cuda.md, "CUDA without a GPU", has the rules for kernels and what this cannot show.
//
//   fiber.h        stacks          scheduler.h   who runs, barriers, messages     race_check.h  shared-memory races
//   intrinsics.h   __shfl_sync...  collectives.h the lanes of a warp together     smem.h        Smem<T>
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <numeric>

#include "tests/cuda_on_host/collectives.h"
#include "tests/cuda_on_host/intrinsics.h"
#include "tests/cuda_on_host/race_check.h"
#include "tests/cuda_on_host/scheduler.h"
#include "tests/cuda_on_host/smem.h"

// ---------------------------------------------------------------------------------------------------- the dialect
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ static  // zeros before the first block, stale after it unless an Smem was made of it
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define PRAGMA_UNROLL

#define threadIdx (cuhost::thread_index())
#define blockIdx (cuhost::block_index())
#define blockDim (cuhost::block_size())
#define gridDim (cuhost::grid_size())
constexpr int warpSize = 32;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };

namespace cuhost {

inline const dim3& thread_index() { return device.current->index; }
inline const dim3& block_index() { return device.block_index; }
inline const dim3& block_size() { return device.block_size; }
inline const dim3& grid_size() { return device.grid_size; }

// ------------------------------------------------------------------------------------------------------ launches
// What every GPU from sm_75 on refuses, and the error it gives. Static shared memory is not known here.
constexpr size_t kMostSmem = 227 << 10;
inline cudaError_t check_configuration(dim3 grid, dim3 block, size_t smem) {
  const auto within = [](unsigned n, unsigned most) { return n >= 1 && n <= most; };
  if (!within(block.x, 1024) || !within(block.y, 1024) || !within(block.z, 64) ||
      uint64_t{block.x} * block.y * block.z > 1024) {
    return cudaErrorInvalidConfiguration;
  }
  if (!within(grid.x, 0x7fffffff) || !within(grid.y, 65535) || !within(grid.z, 65535)) {
    return cudaErrorInvalidConfiguration;
  }
  return smem > kMostSmem ? cudaErrorInvalidValue : cudaSuccess;
}

inline std::mutex one_launch;
inline thread_local bool launching = false;

// Calls body() in every thread of every block, one block after another. Returns when all have ended, as if the stream
// were waited for. Operating-system threads take turns.
template <class Body>
cudaError_t run(dim3 grid, dim3 block, size_t smem, Body&& body) {
  if (launching) die("a kernel cannot launch a kernel");
  const cudaError_t error = check_configuration(grid, block, smem);
  if (error != cudaSuccess) return error;

  const std::lock_guard<std::mutex> lock(one_launch);
  launching = true;
  device.launcher = Fiber();
  device.current = nullptr;
  device.thread_count = block.x * block.y * block.z;
  device.block_size = block;
  device.grid_size = grid;
  device.random = options.shuffle;
  while (device.threads.size() < device.thread_count) device.threads.emplace_back();
  void* memory = nullptr;  // of this very size, so that AddressSanitizer sees what lies past it
  if (smem != 0 && posix_memalign(&memory, 1024, smem) != 0) die("no memory");
  device.smem = static_cast<char*>(memory);
  device.smem_bytes = smem;
  using Function = std::remove_reference_t<Body>;
  device.kernel = [](void* f) { (*static_cast<Function*>(f))(); };
  device.kernel_arguments = &body;

  // Shuffled, the blocks run in steps of a number that has no divisor in common with theirs.
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  uint64_t step = 1, at = 0;
  if (options.shuffle != 0) {
    step = next_random() % blocks | 1;
    while (std::gcd(step, blocks) != 1) step += 2;
    at = next_random() % blocks;
  }
  for (uint64_t i = 0; i < blocks; ++i, at = (at + step) % blocks) {
    device.block_index = dim3(static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                              static_cast<unsigned>(at / grid.x / grid.y));
    fill_shared_memory();
    run_block();
  }
  std::free(memory);
  device.smem = nullptr;
  device.smem_bytes = 0;
  launching = false;
  return cudaSuccess;
}

}  // namespace cuhost

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t, A... args) {
  return cuhost::run(grid, block, smem, [&] { kernel(args...); });
}

template <class T>
T* dynamic_smem() {
  return reinterpret_cast<T*>(cuhost::device.smem);
}
