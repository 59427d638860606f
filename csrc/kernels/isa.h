// Run-time choice of the instruction set. Every kernel file is compiled once per instruction set (CMakeLists.txt),
// into the namespace that SDGAN_ISA names.
#pragma once

namespace sdgan {

enum class Isa { generic, avx2, avx512 };

// The best instruction set that was compiled in and that this CPU has, unless SDGAN_CPU_ISA=generic|avx2|avx512 asks
// for another one. Read once. An unknown or impossible request is ignored here; Python refuses it on import.
Isa cpu_isa();
const char* isa_name(Isa isa);
bool isa_usable(Isa isa);  // compiled in, and the CPU has it
// Whether the CPU has matrix units for bfloat16 (AMX), which the library uses and no kernel of ours does.
bool cpu_has_bf16_matrix_units();

}  // namespace sdgan

#if defined(SDGAN_HAS_AVX2)
#define SDGAN_IF_AVX2(...) __VA_ARGS__
#else
#define SDGAN_IF_AVX2(...)
#endif
#if defined(SDGAN_HAS_AVX512)
#define SDGAN_IF_AVX512(...) __VA_ARGS__
#else
#define SDGAN_IF_AVX512(...)
#endif

// Declares the CPU kernel `name(arguments...)` in the namespace of every instruction set, and `name` itself, which
// calls the one that cpu_isa() chose. Used inside namespace sdgan.
#define SDGAN_CPU_KERNEL(name, ...)                                     \
  namespace generic {                                                   \
  void name(__VA_ARGS__);                                               \
  }                                                                     \
  SDGAN_IF_AVX2(namespace avx2 { void name(__VA_ARGS__); })             \
  SDGAN_IF_AVX512(namespace avx512 { void name(__VA_ARGS__); })         \
  template <class... Args>                                              \
  void name(const Args&... args) {                                      \
    switch (cpu_isa()) {                                                \
      SDGAN_IF_AVX512(case Isa::avx512 : return avx512::name(args...);) \
      SDGAN_IF_AVX2(case Isa::avx2 : return avx2::name(args...);)       \
      default:                                                          \
        return generic::name(args...);                                  \
    }                                                                   \
  }
