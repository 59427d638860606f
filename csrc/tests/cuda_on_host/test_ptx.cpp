// The host versions of ptx.cuh and sm90.cuh against ptx_probe.cuh, in several orders of the lanes.
#include "tests/check.h"
#include "tests/cuda_on_host/ptx_probe.cuh"

namespace sdgan::generic {

void test_ptx();

void test_ptx() {
  for (uint32_t shuffle : {0u, 1u, 2u}) {
    cuhost::options = {true, shuffle};
    const cuda::probe::Report report = cuda::probe::check_all(90);
    EXPECT(report.failures == 0);
    EXPECT(report.checks > 20000);
  }
  cuhost::options = {};
}

}  // namespace sdgan::generic
