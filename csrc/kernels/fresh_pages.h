// Large outputs come from the allocator as pages that do not exist yet: the first write to each is a fault, which takes
// several times as long as the write. Asking the kernel for the pages of a few slices at a time, just before they are
// written, takes two thirds of that, and they are still in cache. Linux from 5.14 on; elsewhere nothing happens.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "kernels/scalar.h"

namespace sdgan {

// An output that slices are written to: slice first_slice + s is its elements from s * kSlice on.
struct Written {
  void* data = nullptr;
  int64_t n = 0;
  int64_t first_slice = 0;
};

class FreshPages {
 public:
  static constexpr int64_t kSlicesAtOnce = 8;  // 256 KiB of float: it stays in a core's cache

  FreshPages(std::initializer_list<Written> outputs, int64_t item_size) : item_size_(item_size) {
    for (const Written& w : outputs) {
      if (w.data != nullptr && count_ < kMost && fresh(w)) outputs_[count_++] = w;
    }
  }

  bool none() const { return count_ == 0; }

  // Of slices [begin, end).
  void populate([[maybe_unused]] int64_t begin, [[maybe_unused]] int64_t end) const {
#if defined(__linux__)
    for (int i = 0; i < count_; ++i) {
      const Written& w = outputs_[i];
      const int64_t from = std::clamp((begin - w.first_slice) * kSlice, int64_t{0}, w.n);
      const int64_t to = std::clamp((end - w.first_slice) * kSlice, int64_t{0}, w.n);
      char *first = page_of(w, from), *last = page_of(w, to);
      constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, which older headers lack
      if (last > first) madvise(first, static_cast<size_t>(last - first), kPopulateWrite);  // a failure costs nothing
    }
#endif
  }

 private:
  static constexpr int kMost = 3;
  static constexpr int64_t kWorthwhile = int64_t{1} << 20;  // bytes

  // By three of its pages. Memory that an allocator hands out again has them.
  bool fresh([[maybe_unused]] const Written& w) const {
#if defined(__linux__)
    if (w.n * item_size_ < kWorthwhile) return false;
    for (int64_t quarter : {1, 2, 3}) {
      unsigned char present = 1;
      if (mincore(page_of(w, w.n / 4 * quarter), 1, &present) != 0 || (present & 1) != 0) return false;
    }
    return true;
#else
    return false;
#endif
  }

#if defined(__linux__)
  char* page_of(const Written& w, int64_t element) const {
    static const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(w.data) + element * item_size_) & ~(page - 1));
  }
#endif

  Written outputs_[kMost];
  int count_ = 0;
  int64_t item_size_;
};

}  // namespace sdgan
