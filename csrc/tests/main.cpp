// Runs the test SDGAN_TEST on the instruction set that SDGAN_CPU_ISA names; exit code 77 where this CPU lacks it. With
// SDGAN_CUDA_ON_HOST the test is of CUDA kernels that g++ compiled.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/isa.h"
#include "tests/check.h"

namespace sdgan {

#if SDGAN_CUDA_ON_HOST
namespace generic {
void SDGAN_TEST();
}
using generic::SDGAN_TEST;
#else
SDGAN_CPU_KERNEL(SDGAN_TEST)
#endif

namespace testing {
namespace {

long checks = 0;
long failures = 0;

bool failed(bool ok) {
  ++checks;
  return !ok && ++failures <= 10;
}

bool same_special(double got, double want) {
  return std::isnan(want) ? std::isnan(got) : std::isinf(want) && got == want;
}

}  // namespace

void expect(bool ok, const char* what, const char* file, int line) {
  if (failed(ok)) std::fprintf(stderr, "%s:%d: not true: %s\n", file, line, what);
}

void expect_ulps(double input, float got, double want, double ulps, const char* file, int line) {
  const float nearest = static_cast<float>(want);
  bool ok = same_special(got, nearest);
  double error = INFINITY;
  if (std::isfinite(nearest) && std::isfinite(got)) {
    int exponent;
    std::frexp(want, &exponent);
    error = std::fabs(got - want) / std::ldexp(1.0, exponent - 24 < -149 ? -149 : exponent - 24);
    ok = error <= ulps;
  }
  if (failed(ok)) {
    std::fprintf(stderr, "%s:%d: at %.9g got %.9g, want %.9g: %.3g ulp, allowed %g\n", file, line, input, got, want,
                 error, ulps);
  }
}

void expect_close(double input, double got, double want, double tolerance, const char* file, int line) {
  const bool ok = same_special(got, want) || std::fabs(got - want) <= tolerance * std::fmax(1, std::fabs(want));
  if (failed(ok)) {
    std::fprintf(stderr, "%s:%d: at %.17g got %.17g, want %.17g, tolerance %g\n", file, line, input, got, want,
                 tolerance);
  }
}

void* guarded(size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t body = (bytes + page - 1) / page * page;
  void* map = mmap(nullptr, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED || mprotect(static_cast<char*>(map) + body, page, PROT_NONE) != 0) {
    std::perror("guarded memory");
    std::exit(1);
  }
  return static_cast<char*>(map) + body - bytes;
}

double from_bf16(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

bf16 to_bf16(double x) {  // the neighbour that is nearer; the even one of two equally near
  const float value = static_cast<float>(x);
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const bf16 low{static_cast<uint16_t>(bits >> 16)};
  const uint32_t rest = bits & 0xffff;
  if (std::isnan(value)) return {static_cast<uint16_t>(low.bits | 0x40)};
  const bool up = rest > 0x8000 || (rest == 0x8000 && low.bits % 2 == 1);
  return {static_cast<uint16_t>(low.bits + up)};
}

double from_f16(f16 x) {
  const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  const double sign = x.bits >> 15 ? -1 : 1;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

f16 to_f16(double x) {  // the nearest; of two equally near the even one
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return {0x7e00};
  if (x == 0) return {sign};  // frexp has no exponent for it
  int exponent;
  std::frexp(x, &exponent);
  const int step = exponent - 11 < -24 ? -24 : exponent - 11;  // of the last place
  const double rounded = std::nearbyint(std::ldexp(std::fabs(x), -step));
  if (std::isinf(x) || std::ldexp(rounded, step) > 65504) return {static_cast<uint16_t>(sign | 0x7c00)};
  // The exponent field counts from step -24; a fraction that rounded up to 2048 carries into it.
  return {static_cast<uint16_t>(sign + static_cast<uint16_t>(rounded) + (step == -24 ? 0 : (step + 24) << 10))};
}

}  // namespace testing
}  // namespace sdgan

int main() {
  const char* asked = std::getenv("SDGAN_CPU_ISA");
  const char* used = sdgan::isa_name(sdgan::cpu_isa());
  if (asked != nullptr && std::strcmp(asked, used) != 0) {
    std::printf("skipped: this CPU has no %s\n", asked);
    return 77;
  }
  sdgan::SDGAN_TEST();
  std::printf("%s: %ld checks, %ld failures\n", used, sdgan::testing::checks, sdgan::testing::failures);
  return sdgan::testing::failures != 0 || sdgan::testing::checks == 0;
}
