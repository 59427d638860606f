// Part of cuda_host.h: the threads of a block, who of them runs next, barriers, and the end in a message.
//
// Threads run until they wait: at a barrier, for a warp, for an mbarrier. A misuse that a GPU would answer with a hang,
// an error or chance ends the process with a message that names the place in the kernel.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "tests/cuda_on_host/fiber.h"
#include "tests/cuda_on_host/vector_types.h"

// As the last parameters of a function that kernels call: where they call it.
#define CUHOST_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace cuhost {

// What a test may set, while nothing runs.
struct Options {
  bool race_check = false;  // see race_check.h
  uint32_t shuffle = 0;     // a seed: threads and blocks run in a pseudo-random order, not in that of their indices
};
inline Options options;

struct Place {
  const char* file = "";
  int line = 0;
};

struct Warp;

// An asynchronous copy of `bytes` bytes; zeros fill up to `size`.
struct Copy {
  void* to;
  const void* from;
  unsigned bytes, size;
  Place issued;
};

struct Thread : Fiber {
  dim3 index;
  unsigned linear = 0, lane = 0;
  Warp* warp = nullptr;
  bool done = false;
  const char* waits_for = "";
  unsigned waits_mask = 0;
  Place waits_at;
  std::vector<Copy> open_copies;              // cp.async, not committed
  std::deque<std::vector<Copy>> copy_groups;  // committed; they land in the wait
};

using LaneFunction = void (*)(unsigned mask, void** lanes);

// A collective some of whose lanes have arrived.
struct Meeting {
  unsigned mask, arrived;
  LaneFunction function;
  Place first;
};

struct Warp {
  unsigned exists = 0;  // lanes
  unsigned syncs = 0;   // completed __syncwarp
  std::vector<Meeting> meetings;
  void* lanes[32] = {};
};

// The one SM. What is not said to last is that of the running block.
struct Device {
  std::deque<Thread> threads;  // lasts, and grows: their stacks are reused
  Fiber launcher;
  Thread* current = nullptr;  // null while the launcher runs
  std::vector<Warp> warps;
  std::vector<Thread*> ready;  // a ring of `ready_count` from `ready_head` on
  size_t ready_head = 0, ready_count = 0;
  unsigned thread_count = 0, done_count = 0;
  unsigned at_barrier = 0, votes = 0, votes_of_last = 0;
  Place barrier;                  // where the first waits, then the last one passed
  uint64_t barrier_interval = 1;  // lasts: never the same for two blocks
  dim3 block_index, block_size, grid_size;
  void (*kernel)(void*) = nullptr;
  void* kernel_arguments = nullptr;
  char* smem = nullptr;
  size_t smem_bytes = 0;
  // Lets a piece of asynchronous work finish when no thread can run; false when there is none.
  bool (*when_idle)() = nullptr;
  void (*when_block_ends)() = nullptr;
  uint32_t random = 0;
  unsigned long long switches = 0;  // lasts
};
inline Device device;

[[noreturn]] inline void die(const char* message, Place at = {}) {
  std::fflush(stdout);
  std::fprintf(stderr, "cuda_host: %s", message);
  if (at.line != 0) std::fprintf(stderr, " at %s:%d", at.file, at.line);
  const dim3 b = device.block_index;
  std::fprintf(stderr, " (block %u,%u,%u", b.x, b.y, b.z);
  if (device.current != nullptr) {
    const dim3 t = device.current->index;
    std::fprintf(stderr, " thread %u,%u,%u", t.x, t.y, t.z);
  }
  std::fprintf(stderr, ")\n");
  std::abort();
}

// ---------------------------------------------------------------------------------------------- who runs next
inline void make_ready(Thread* thread) {
  device.ready[(device.ready_head + device.ready_count++) % device.ready.size()] = thread;
}

inline uint32_t next_random() {
  device.random = device.random * 1664525u + 1013904223u;
  return device.random >> 8;
}

// Null: nobody can run, the launcher must see why.
inline Thread* next_ready() {
  while (device.ready_count == 0 && device.done_count < device.thread_count && device.when_idle != nullptr) {
    if (!device.when_idle()) break;
  }
  if (device.ready_count == 0) return nullptr;
  const size_t size = device.ready.size();
  if (options.shuffle != 0) {
    const size_t pick = (device.ready_head + next_random() % device.ready_count) % size;
    std::swap(device.ready[device.ready_head], device.ready[pick]);
  }
  Thread* thread = device.ready[device.ready_head];
  device.ready_head = (device.ready_head + 1) % size;
  --device.ready_count;
  return thread;
}

inline void run_next(bool last = false) {
  Thread* from = device.current;
  Thread* to = next_ready();
  if (to == from) return;
  device.current = to;
  ++device.switches;
  switch_stack(from ? *from : device.launcher, to ? *to : device.launcher, last);
}

inline void wait_for(const char* what, unsigned mask, Place at) {
  Thread* me = device.current;
  me->waits_for = what;
  me->waits_mask = mask;
  me->waits_at = at;
  run_next();
}

inline void thread_main() {
  arrived_on_new_stack(device.launcher.asan_bottom == nullptr ? &device.launcher : nullptr);
  device.kernel(device.kernel_arguments);
  device.current->done = true;
  ++device.done_count;
  run_next(true);
  std::abort();
}

// --------------------------------------------------------------------------------------------------- barriers
// For all threads of the block, at the same place: stricter than a GPU, which forgives a thread that ended. Returns for
// how many of them `vote` was true.
inline unsigned sync_block(bool vote, Place at) {
  device.votes += vote;
  if (device.at_barrier++ == 0) {
    device.barrier = at;
  } else if (device.barrier.line != at.line || std::strcmp(device.barrier.file, at.file) != 0) {
    std::fprintf(stderr, "cuda_host: others wait at %s:%d\n", device.barrier.file, device.barrier.line);
    die("divergent __syncthreads()", at);
  }
  if (device.at_barrier < device.thread_count) {
    wait_for("__syncthreads", 0, at);
    return device.votes_of_last;
  }
  device.at_barrier = 0;
  device.votes_of_last = std::exchange(device.votes, 0u);
  ++device.barrier_interval;
  for (unsigned i = 0; i < device.thread_count; ++i) {
    if (&device.threads[i] != device.current) make_ready(&device.threads[i]);
  }
  return device.votes_of_last;
}

// Who waits for what, one line for all that wait for the same.
[[noreturn]] inline void report_deadlock() {
  std::fprintf(stderr, "cuda_host: %u of %u threads ended, the others wait for ever:\n", device.done_count,
               device.thread_count);
  std::vector<std::pair<const Thread*, unsigned>> groups;
  for (unsigned i = 0; i < device.thread_count; ++i) {
    const Thread& t = device.threads[i];
    if (t.done) continue;
    size_t g = 0;
    while (g < groups.size() &&
           (groups[g].first->waits_at.line != t.waits_at.line || groups[g].first->waits_mask != t.waits_mask ||
            std::strcmp(groups[g].first->waits_for, t.waits_for) != 0)) {
      ++g;
    }
    if (g == groups.size()) groups.push_back({&t, 0});
    ++groups[g].second;
  }
  for (const auto& [t, count] : groups) {
    std::fprintf(stderr, "  %u from thread %u on: %s", count, t->linear, t->waits_for);
    if (t->waits_mask != 0) std::fprintf(stderr, " of lanes %08x", t->waits_mask);
    std::fprintf(stderr, " at %s:%d\n", t->waits_at.file, t->waits_at.line);
  }
  die("deadlock");
}

// --------------------------------------------------------------------------------------------------- one block
inline void run_block() {
  const dim3 size = device.block_size;
  device.done_count = device.at_barrier = device.votes = 0;
  device.ready_head = device.ready_count = 0;
  device.ready.resize(device.thread_count);
  device.warps.assign((device.thread_count + 31) / 32, Warp());
  ++device.barrier_interval;
  device.barrier = {};
  for (unsigned i = 0; i < device.thread_count; ++i) {
    Thread& t = device.threads[i];
    t.prepare(thread_main);
    t.linear = i;
    t.lane = i % 32;
    t.warp = &device.warps[i / 32];
    t.warp->exists |= 1u << t.lane;
    t.index = dim3(i % size.x, i / size.x % size.y, i / (size.x * size.y));
    t.done = false;
    t.open_copies.clear();
    t.copy_groups.clear();
    make_ready(&t);
  }
  run_next();
  if (device.done_count != device.thread_count) report_deadlock();
  if (device.when_block_ends != nullptr) device.when_block_ends();
}

}  // namespace cuhost
