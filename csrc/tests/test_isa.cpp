// isa.h: a kernel's name calls the version of the instruction set in use, which is one that this CPU has.
#include "kernels/isa.h"

#include "tests/check.h"

namespace sdgan {

SDGAN_CPU_KERNEL(version_called, Isa* result)

namespace SDGAN_ISA {

void test_isa();

void version_called(Isa* result) { *result = Isa::SDGAN_ISA; }

void test_isa() {
  Isa called;
  sdgan::version_called(&called);
  EXPECT(called == Isa::SDGAN_ISA && called == cpu_isa());
  EXPECT(isa_usable(called) && isa_usable(Isa::generic));
}

}  // namespace SDGAN_ISA
}  // namespace sdgan
