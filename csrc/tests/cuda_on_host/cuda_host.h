// Host stand-in for the CUDA C++ dialect: lets g++ compile a .cu file and run its kernels on the CPU.
// Not included when nvcc compiles (see cuda_portable.h). Threads of a block are fibers on one OS thread;
// blocks run one after another. Warp collectives: the last lane to arrive computes for all lanes.
#pragma once
#include <sys/mman.h>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>
#if defined(CUHOST_UCONTEXT) || !defined(__x86_64__)
#include <ucontext.h>
#define CUHOST_USE_UCONTEXT 1
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define CUHOST_ASAN 1
#endif

// ---- dialect -------------------------------------------------------------------------------------
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ static  // persists between blocks and starts zeroed, unlike on a GPU
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define PRAGMA_UNROLL
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
typedef void* cudaStream_t;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
constexpr int warpSize = 32;

namespace cuhost {
// ---- context switch ------------------------------------------------------------------------------
#ifndef CUHOST_USE_UCONTEXT
extern "C" void cuhost_switch(void** save_sp, void* new_sp);
// A file-scope asm (weak: one copy per program), so no compiler can see or inline the body: a naked
// inline function would let -fipa-ra keep live values in caller-saved registers over the switch.
asm(".pushsection .text\n.weak cuhost_switch\n.type cuhost_switch,@function\ncuhost_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size cuhost_switch,.-cuhost_switch\n.popsection\n");
#endif
struct Copy { void* dst; const void* src; unsigned bytes, size; };  // the rest of size becomes 0
struct Warp;
struct Fiber {
#ifdef CUHOST_USE_UCONTEXT
  ucontext_t uc;
#endif
  void* sp = nullptr;
  char* stack = nullptr;
  const void* asan_bottom = nullptr;
  size_t asan_size = 0;
  void* fake = nullptr;
  dim3 tid;
  unsigned lin = 0, lane = 0;
  Warp* warp = nullptr;
  bool done = false;
  const char *what = "", *file = "";
  int line = 0;
  unsigned mask = 0;
  std::vector<Copy> open;                 // cp.async issued, not committed
  std::deque<std::vector<Copy>> groups;   // committed groups, copied only in wait_group
};
typedef void (*Op)(unsigned mask, void** lanes);
struct Group { unsigned mask, arrived; Op op; };
struct Warp {
  unsigned exists = 0, epoch = 0;
  std::vector<Group> groups;
  void* payload[32];
};
struct Access { unsigned wt = ~0u, wb = 0, ww = 0, rt = ~0u, rb = 0, rw = 0; bool many = false; };
struct State {
  Fiber main;
  Fiber* cur = nullptr;
  std::deque<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Fiber*> ready;  // ring of runnable fibers
  size_t head = 0, count = 0;
  unsigned nthreads = 0, ndone = 0, at_bar = 0, bar_epoch = 1;
  const char* bar_file = "";
  int bar_line = 0;
  dim3 bid, bdim, gdim;
  void (*body)(void*) = nullptr;
  void* body_arg = nullptr;
  char* smem = nullptr;
  size_t smem_bytes = 0;
  bool race_check = false;
  bool (*on_idle)() = nullptr;
  uint32_t shuffle = 0;  // nonzero: pick the next runnable fiber pseudo-randomly
  std::unordered_map<uintptr_t, Access> shadow;
  unsigned long long switches = 0;
};
inline State S;
constexpr size_t kStack = 256 << 10, kGuard = 4096;

[[noreturn]] inline void die(const char* msg) {
  fflush(stdout);
  fprintf(stderr, "cuda_host: %s (block %u,%u,%u", msg, S.bid.x, S.bid.y, S.bid.z);
  if (S.cur != &S.main) fprintf(stderr, " thread %u,%u,%u", S.cur->tid.x, S.cur->tid.y, S.cur->tid.z);
  fprintf(stderr, ")\n");
  abort();
}
inline void push(Fiber* f) { S.ready[(S.head + S.count++) % S.ready.size()] = f; }
inline Fiber* pop() {
  while (!S.count && S.on_idle && S.on_idle()) {}  // nobody can run: let asynchronous work finish
  if (!S.count) return &S.main;
  if (S.shuffle) {
    S.shuffle = S.shuffle * 1664525u + 1013904223u;
    std::swap(S.ready[S.head], S.ready[(S.head + (S.shuffle >> 8) % S.count) % S.ready.size()]);
  }
  Fiber* f = S.ready[S.head];
  S.head = (S.head + 1) % S.ready.size();
  --S.count;
  return f;
}
inline void switch_to(Fiber* to, bool dying = false) {
  Fiber* me = S.cur;
  if (to == me) return;
  S.cur = to;
  ++S.switches;
#ifdef CUHOST_ASAN
  __sanitizer_start_switch_fiber(dying ? nullptr : &me->fake, to->asan_bottom, to->asan_size);
#endif
  (void)dying;
#ifdef CUHOST_USE_UCONTEXT
  swapcontext(&me->uc, &to->uc);
#else
  cuhost_switch(&me->sp, to->sp);
#endif
#ifdef CUHOST_ASAN
  __sanitizer_finish_switch_fiber(me->fake, nullptr, nullptr);
#endif
}
inline void fiber_entry() {
#ifdef CUHOST_ASAN
  const void* b; size_t n;
  __sanitizer_finish_switch_fiber(nullptr, &b, &n);
  if (!S.main.asan_bottom) S.main.asan_bottom = b, S.main.asan_size = n;  // first switch is from main
#endif
  S.body(S.body_arg);
  S.cur->done = true;
  ++S.ndone;
  switch_to(pop(), true);
  abort();
}
inline void init_fiber(Fiber& f) {
  if (!f.stack) {
    f.stack = (char*)mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (f.stack == (char*)MAP_FAILED || mprotect(f.stack, kGuard, PROT_NONE)) die("no memory for stacks");
    f.stack += kGuard;
    f.asan_bottom = f.stack; f.asan_size = kStack;
  }
#ifdef CUHOST_ASAN
  __asan_unpoison_memory_region(f.stack, kStack);
#endif
#ifdef CUHOST_USE_UCONTEXT
  getcontext(&f.uc);
  f.uc.uc_stack.ss_sp = f.stack; f.uc.uc_stack.ss_size = kStack; f.uc.uc_link = nullptr;
  makecontext(&f.uc, fiber_entry, 0);
#else
  void** top = (void**)(f.stack + kStack);
  top[-1] = nullptr; top[-2] = (void*)fiber_entry;  // rsp % 16 == 8 at entry, as after a call
  f.sp = top - 8;                                   // six callee-saved registers below
#endif
  f.done = false; f.fake = nullptr; f.open.clear(); f.groups.clear();
}
inline void wait_here(const char* what, unsigned mask, const char* file, int line) {
  Fiber* f = S.cur;
  f->what = what; f->mask = mask; f->file = file; f->line = line;
  switch_to(pop());
}
inline void sync_block(const char* file, int line) {
  if (!S.at_bar++) S.bar_file = file, S.bar_line = line;
  else if (S.bar_line != line || strcmp(S.bar_file, file)) {
    fprintf(stderr, "cuda_host: barrier at %s:%d while others wait at %s:%d\n", file, line, S.bar_file, S.bar_line);
    die("divergent __syncthreads()");
  }
  if (S.at_bar < S.nthreads) return wait_here("__syncthreads", 0, file, line);
  S.at_bar = 0; ++S.bar_epoch;
  for (unsigned i = 0; i < S.nthreads; ++i) if (&S.fibers[i] != S.cur) push(&S.fibers[i]);
}
// All lanes named by mask must call with the same op; the last one runs op on every lane's payload.
template <class P>
inline void collective(const char* what, unsigned mask, P& p, Op op, const char* file, int line) {
  Fiber* f = S.cur;
  Warp& w = *f->warp;
  mask &= w.exists;  // a short last warp
  if (!(mask >> f->lane & 1)) die("warp collective: the calling lane is not in its own mask");
  w.payload[f->lane] = &p;
  size_t g = 0;
  while (g < w.groups.size() && (w.groups[g].mask != mask || w.groups[g].op != op)) ++g;
  if (g == w.groups.size()) w.groups.push_back({mask, 0, op});
  w.groups[g].arrived |= 1u << f->lane;
  if (w.groups[g].arrived != mask) return wait_here(what, mask, file, line);
  w.groups[g] = w.groups.back(); w.groups.pop_back();
  op(mask, w.payload);
  unsigned base = f->lin - f->lane;
  for (unsigned m = mask & ~(1u << f->lane); m; m &= m - 1) push(&S.fibers[base + __builtin_ctz(m)]);
}
// ---- shared-memory race check: only for accesses reported through note() -------------------------
inline void note(const void* addr, unsigned bytes, bool write) {
  if (!S.race_check) return;
  unsigned t = S.cur->lin, we = S.cur->warp->epoch;
  auto ordered = [&](unsigned o, unsigned b, unsigned w) {  // is (o, b, w) before this access?
    return o == ~0u || o == t || b != S.bar_epoch || (o != ~1u && o / 32 == t / 32 && w != we);
  };
  for (uintptr_t a = (uintptr_t)addr / 4; a <= ((uintptr_t)addr + bytes - 1) / 4; ++a) {
    Access& r = S.shadow[a];
    if (!ordered(r.wt, r.wb, r.ww)) {
      fprintf(stderr, "cuda_host: %s by thread %u, write by thread %u, no barrier between\n", write ? "write" : "read", t, r.wt);
      die("shared-memory race");
    }
    if (write && !ordered(r.rt, r.rb, r.rw)) {
      fprintf(stderr, "cuda_host: write by thread %u, read by %s%.0d, no barrier between\n", t, r.rt == ~1u ? "several threads" : "thread ", r.rt == ~1u ? 0 : (int)r.rt);
      die("shared-memory race");
    }
    if (write) r.wt = t, r.wb = S.bar_epoch, r.ww = we;
    else {  // ~1u: several readers in this barrier interval
      bool other = r.rt != ~0u && r.rt != t && r.rb == S.bar_epoch;
      r.rt = other ? ~1u : t; r.rb = S.bar_epoch; r.rw = we;
    }
  }
}
template <class T> struct CheckedRef {
  T* p;
  operator T() const { note(p, sizeof(T), false); return *p; }
  CheckedRef& operator=(T v) { note(p, sizeof(T), true); *p = v; return *this; }
  CheckedRef& operator=(const CheckedRef& o) { return *this = (T)o; }
};
// ---- launch --------------------------------------------------------------------------------------
inline void run_block() {
  S.ndone = S.at_bar = 0; S.head = S.count = 0;
  S.ready.resize(S.nthreads);
  S.warps.assign((S.nthreads + 31) / 32, Warp());
  S.shadow.clear();
  if (S.smem_bytes) memset(S.smem, 0xFF, S.smem_bytes);  // NaN: reads of unwritten memory show
  for (unsigned i = 0; i < S.nthreads; ++i) {
    Fiber& f = S.fibers[i];
    init_fiber(f);
    f.lin = i; f.lane = i % 32; f.warp = &S.warps[i / 32]; f.warp->exists |= 1u << f.lane;
    f.tid = dim3(i % S.bdim.x, i / S.bdim.x % S.bdim.y, i / (S.bdim.x * S.bdim.y));
    push(&f);
  }
  switch_to(pop());
  if (S.ndone == S.nthreads) return;
  fprintf(stderr, "cuda_host: %u of %u threads exited, the others wait for ever:\n", S.ndone, S.nthreads);
  for (unsigned i = 0, n = 0; i < S.nthreads && n < 4; ++i)
    if (Fiber& f = S.fibers[i]; !f.done)
      fprintf(stderr, "  thread %u: %s mask %08x at %s:%d\n", i, f.what, f.mask, f.file, f.line), ++n;
  die("deadlock");
}
template <class F> cudaError_t run(dim3 grid, dim3 block, size_t smem, F&& body) {
  size_t n = size_t(block.x) * block.y * block.z;
  if (!n || n > 1024 || !grid.x || !grid.y || !grid.z || smem > (227u << 10)) return cudaErrorInvalidConfiguration;
  S.cur = &S.main; S.nthreads = (unsigned)n; S.bdim = block; S.gdim = grid; S.smem_bytes = smem;
  while (S.fibers.size() < n) S.fibers.emplace_back();
  void* mem = nullptr;  // exact size: ASan sees every access past the end
  if (smem && posix_memalign(&mem, 1024, smem)) die("no memory");
  S.smem = (char*)mem;
  S.body = [](void* a) { (*(F*)a)(); }; S.body_arg = (void*)&body;
  for (unsigned z = 0; z < grid.z; ++z) for (unsigned y = 0; y < grid.y; ++y) for (unsigned x = 0; x < grid.x; ++x) {
    S.bid = dim3(x, y, z);
    run_block();
  }
  free(mem);
  return cudaSuccess;
}
}  // namespace cuhost

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, void*, A... args) {
  return cuhost::run(grid, block, smem, [&] { kernel(args...); });
}
template <class T> T* dynamic_smem() { return (T*)cuhost::S.smem; }
template <class T> struct Smem {
  T* p;
  cuhost::CheckedRef<T> operator[](int i) const { return {p + i}; }
};

#define threadIdx (cuhost::S.cur->tid)
#define blockIdx (cuhost::S.bid)
#define blockDim (cuhost::S.bdim)
#define gridDim (cuhost::S.gdim)
#define CUHOST_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()
#include "cuda_host_intrinsics.h"
