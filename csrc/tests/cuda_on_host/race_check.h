// Part of cuda_host.h: two accesses to one byte of shared memory by two threads, one of them a write, must have a
// barrier between them, or a __syncwarp where the threads are of one warp. Checked with options.race_check for the
// accesses that are reported here: through Smem<T>, cp.async, ldmatrix; not for raw pointers. An mbarrier orders
// nothing here.
#pragma once

#include <memory>
#include <unordered_map>

#include "tests/cuda_on_host/scheduler.h"

namespace cuhost {

// The last access of a kind to a byte. Of reads in one interval between barriers, `by` says how many threads made them.
struct Access {
  enum By : uint8_t { nobody, one_thread, one_warp, several_warps };
  uint64_t interval = 0;  // device.barrier_interval
  unsigned syncs = 0;     // of the warp
  uint16_t thread = 0;
  By by = nobody;
  Place at;

  // Is it before whatever the running thread does now?
  bool is_ordered() const {
    if (by == nobody || interval != device.barrier_interval) return true;
    if (by == several_warps) return false;
    if (by == one_thread && thread == device.current->linear) return true;
    return thread / 32 == device.current->linear / 32 && syncs != device.current->warp->syncs;
  }
};

struct History {
  Access write, read;
};

// By address, in pages: shared memory is small and dense. Never cleared, since no two blocks share an interval.
inline History& history_of(uintptr_t address) {
  constexpr uintptr_t kPage = 1024;
  static std::unordered_map<uintptr_t, std::unique_ptr<History[]>> pages;
  static uintptr_t last = ~uintptr_t{0};
  static History* last_page = nullptr;
  if (address / kPage != last) {
    std::unique_ptr<History[]>& page = pages[address / kPage];
    if (page == nullptr) page.reset(new History[kPage]);
    last = address / kPage;
    last_page = page.get();
  }
  return last_page[address % kPage];
}

[[noreturn]] inline void report_race(const char* what, uintptr_t address, const Access& other, const char* done,
                                     Place at) {
  static constexpr const char* kWho[] = {"nobody", "thread", "several threads of the warp of thread",
                                         "several threads, the last of them"};
  std::fprintf(stderr, "cuda_host: %s at %s:%d, thread %u; %s at %s:%d, %s %u; no barrier between", what, at.file,
               at.line, device.current->linear, done, other.at.file, other.at.line, kWho[other.by], other.thread);
  const uintptr_t offset = address - reinterpret_cast<uintptr_t>(device.smem);
  if (offset < device.smem_bytes) {
    std::fprintf(stderr, "; byte %zu of dynamic shared memory", static_cast<size_t>(offset));
  }
  std::fprintf(stderr, "\n");
  die("shared-memory race", at);
}

inline void note_access(const void* address, size_t bytes, bool is_write, Place at) {
  if (!options.race_check) return;
  const Thread& me = *device.current;
  const Access now{device.barrier_interval, me.warp->syncs, static_cast<uint16_t>(me.linear), Access::one_thread, at};
  const uintptr_t first = reinterpret_cast<uintptr_t>(address);
  for (uintptr_t a = first; a < first + bytes; ++a) {
    History& h = history_of(a);
    if (!h.write.is_ordered()) report_race(is_write ? "write" : "read", a, h.write, "write", at);
    if (is_write) {
      if (!h.read.is_ordered()) report_race("write", a, h.read, "read", at);
      h.write = now;
      h.read.by = Access::nobody;  // who is after this write is after what is before it
      continue;
    }
    // A read that a later writer may be ordered after only together with the others is kept as theirs.
    const bool same_interval = h.read.by != Access::nobody && h.read.interval == now.interval;
    const bool same_warp = h.read.thread / 32 == now.thread / 32;
    Access::By by = Access::one_thread;
    if (same_interval && (h.read.by == Access::several_warps || !same_warp)) {
      by = Access::several_warps;
    } else if (same_interval && h.read.syncs == now.syncs &&
               (h.read.by == Access::one_warp || h.read.thread != now.thread)) {
      by = Access::one_warp;
    }
    h.read = now;
    h.read.by = by;
  }
}

}  // namespace cuhost
