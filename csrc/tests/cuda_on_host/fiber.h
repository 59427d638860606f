// Part of cuda_host.h: stacks and the switch between them. A CUDA thread is a fiber; all fibers of a launch run on the
// operating system's thread that launched.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

#if defined(CUHOST_UCONTEXT) || !defined(__x86_64__)
#include <ucontext.h>
#define CUHOST_USE_UCONTEXT 1
#endif

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define CUHOST_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define CUHOST_ASAN 1
#endif
#ifdef CUHOST_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuhost {

constexpr size_t kStackBytes = 256 << 10;  // below each lies a page that faults
constexpr size_t kGuardBytes = 4096;

#ifndef CUHOST_USE_UCONTEXT
// Saves the callee-saved registers and the stack pointer, takes those of the other fiber. In assembly at file scope,
// weak: one copy in a program, and no compiler sees through the call and keeps values in other registers over it.
extern "C" __attribute__((visibility("hidden"))) void cuhost_switch(void** save_sp, void* new_sp);
asm(".pushsection .text\n.weak cuhost_switch\n.hidden cuhost_switch\n.type cuhost_switch,@function\n"
    "cuhost_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size cuhost_switch,.-cuhost_switch\n.popsection\n");
#endif

// A stack and where it was left. A Fiber that was never prepared stands for the stack of the launching thread.
struct Fiber {
#ifdef CUHOST_USE_UCONTEXT
  ucontext_t context;
#endif
  void* sp = nullptr;
  char* stack = nullptr;
  const void* asan_bottom = nullptr;
  size_t asan_size = 0;
  void* asan_fake_stack = nullptr;

  // The next switch to this fiber calls entry(), which must never return. The stack is kept from one use to the next.
  void prepare(void (*entry)()) {
    if (stack == nullptr) {
      void* map = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (map == MAP_FAILED || mprotect(map, kGuardBytes, PROT_NONE) != 0) {
        std::perror("cuda_host: stacks");
        std::abort();
      }
      stack = static_cast<char*>(map) + kGuardBytes;
      asan_bottom = stack;
      asan_size = kStackBytes;
    }
    asan_fake_stack = nullptr;
#ifdef CUHOST_USE_UCONTEXT
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
#else
    void** top = reinterpret_cast<void**>(stack + kStackBytes);
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(entry);  // rsp % 16 == 8 at entry, as after a call
    sp = top - 8;                              // above it the six callee-saved registers
#endif
  }
};

// AddressSanitizer must know on which stack it is. The first switch away from the launching thread's stack says where
// that one lies: `from_main`.
inline void arrived_on_new_stack([[maybe_unused]] Fiber* from_main) {
#ifdef CUHOST_ASAN
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (from_main != nullptr) from_main->asan_bottom = bottom, from_main->asan_size = size;
#endif
}

// `last`: `from` will not run again before it is prepared again.
inline void switch_stack(Fiber& from, Fiber& to, [[maybe_unused]] bool last) {
#ifdef CUHOST_ASAN
  __sanitizer_start_switch_fiber(last ? nullptr : &from.asan_fake_stack, to.asan_bottom, to.asan_size);
#endif
#ifdef CUHOST_USE_UCONTEXT
  swapcontext(&from.context, &to.context);
#else
  cuhost_switch(&from.sp, to.sp);
#endif
#ifdef CUHOST_ASAN
  __sanitizer_finish_switch_fiber(from.asan_fake_stack, nullptr, nullptr);
#endif
}

}  // namespace cuhost
