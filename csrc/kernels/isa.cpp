#include "kernels/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>

namespace sdgan {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "generic";
  }
}

bool isa_usable(Isa isa) {
  switch (isa) {
#if defined(SDGAN_HAS_AVX512)
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#endif
#if defined(SDGAN_HAS_AVX2)
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    case Isa::generic:
      return true;
    default:
      return false;
  }
}

bool cpu_has_bf16_matrix_units() {
#if defined(__x86_64__)
  static const bool has = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx >> 22 & 1) != 0;
  }();
  return has;
#else
  return false;
#endif
}

static Isa choose() {
  const Isa best_first[] = {Isa::avx512, Isa::avx2, Isa::generic};
  if (const char* asked = std::getenv("SDGAN_CPU_ISA")) {
    for (Isa isa : best_first) {
      if (std::strcmp(asked, isa_name(isa)) == 0 && isa_usable(isa)) return isa;
    }
  }
  for (Isa isa : best_first) {
    if (isa_usable(isa)) return isa;
  }
  return Isa::generic;
}

Isa cpu_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace sdgan
