// test_ptx_gpu: every wrapper of ptx.cuh and sm90.cuh on the first GPU, against ptx_probe.cuh. Exit code 77 where there
// is no GPU, 1 where the hardware and the documented layout, so the host version, differ. To run on every architecture.
#include "tests/cuda_on_host/ptx_probe.cuh"

int main() {
  int devices = 0, major = 0, minor = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no GPU\n");
    return 77;
  }
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  const sdgan::cuda::probe::Report report = sdgan::cuda::probe::check_all(10 * major + minor);
  const cudaError_t error = cudaDeviceSynchronize();
  if (error != cudaSuccess) std::printf("%s\n", cudaGetErrorString(error));
  std::printf("ptx: %ld checks, %ld failures, compute capability %d.%d\n", report.checks, report.failures, major,
              minor);
  return error != cudaSuccess || report.failures != 0 || report.checks == 0;
}
