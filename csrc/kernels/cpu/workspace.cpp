#include "kernels/cpu/workspace.h"

#include <memory>
#include <new>

namespace sdgan {
namespace {

constexpr std::align_val_t kCacheLine{64};

struct Free {
  void operator()(float* p) const { ::operator delete(p, kCacheLine); }
};
struct Memory {
  std::unique_ptr<float, Free> data;
  int64_t floats = 0;
};

}  // namespace

float* workspace(Workspace use, int64_t floats) {
  static thread_local Memory all[2];
  Memory& memory = all[static_cast<int>(use)];
  if (memory.floats < floats) {
    memory = {};  // first free, then allocate
    memory.data.reset(static_cast<float*>(::operator new(floats * sizeof(float), kCacheLine)));
    memory.floats = floats;
  }
  return memory.data.get();
}

}  // namespace sdgan
