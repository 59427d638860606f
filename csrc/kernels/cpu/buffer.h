// Scratch memory of a kernel. The allocator's type belongs to one instruction set, so that no two of them share an
// instance of std::vector; buffers begin on a cache line.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace sdgan::SDGAN_ISA {

template <class T>
struct CacheLines {
  using value_type = T;
  CacheLines() = default;
  template <class U>
  CacheLines(const CacheLines<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t{64}); }
  template <class U>
  bool operator==(const CacheLines<U>&) const {
    return true;
  }
};

template <class T>
using Buffer = std::vector<T, CacheLines<T>>;

}  // namespace sdgan::SDGAN_ISA
