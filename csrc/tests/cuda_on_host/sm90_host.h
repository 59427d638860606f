// Host versions of kernels/cuda/sm90.cuh, which has their contracts. A load lands as late as it may: when no thread of
// the block can run, the newest first. So a kernel that does not wait reads NaN or stale data.
#pragma once

#include <cstring>
#include <map>
#include <vector>

#include "tests/cuda_on_host/ptx_host.h"

namespace sdgan::cuda {

struct TensorMap {
  const char* base;
  int64_t rows, row_bytes, stride_bytes;
  int box_rows, element_bytes;
};

template <class S>
CudaError make_tensor_map_2d(TensorMap* map, const S* base, int64_t rows, int64_t columns, int64_t row_stride,
                             int box_rows) {
  if (!can_tensor_map_2d(base, rows, columns, row_stride, box_rows)) return cudaErrorInvalidValue;
  constexpr int kSize = sizeof(S);
  *map = {reinterpret_cast<const char*>(base), rows, columns * kSize, row_stride * kSize, box_rows, kSize};
  return cudaSuccess;
}

namespace host {

struct Mbarrier {
  int count = 0;  // of arrivals in a phase; 0: not initialised
  int missing = 0;
  int64_t bytes = 0;  // announced, less those that landed
  unsigned phase = 0;
};
struct MbarrierWait {
  cuhost::Thread* thread;
  const uint64_t* barrier;
  int parity;
};
struct TmaLoad {
  char* to;
  TensorMap map;  // a copy: the thread that asked may have ended
  int x, y;
  const uint64_t* barrier;
  cuhost::Place issued;
};

// Of the running block.
inline std::map<const uint64_t*, Mbarrier> mbarriers;
inline std::vector<MbarrierWait> mbarrier_waits;
inline std::vector<TmaLoad> tma_loads;

inline Mbarrier& find_mbarrier(const uint64_t* b, cuhost::Place at) {
  const auto found = mbarriers.find(b);
  if (found == mbarriers.end()) cuhost::die("mbarrier: not initialised", at);
  return found->second;
}

inline void complete_phase(const uint64_t* b, Mbarrier& barrier) {
  if (barrier.missing != 0 || barrier.bytes != 0) return;
  barrier.missing = barrier.count;
  ++barrier.phase;
  std::vector<MbarrierWait> still;
  for (const MbarrierWait& wait : mbarrier_waits) {
    if (wait.barrier == b && static_cast<int>(barrier.phase & 1) != wait.parity) {
      cuhost::make_ready(wait.thread);
    } else {
      still.push_back(wait);
    }
  }
  mbarrier_waits.swap(still);
}

inline bool land_newest_load() {
  if (tma_loads.empty()) return false;
  const TmaLoad load = tma_loads.back();
  tma_loads.pop_back();
  const TensorMap& map = load.map;
  for (int r = 0; r < map.box_rows; ++r) {
    const int64_t y = int64_t{load.y} + r;
    for (int i = 0; i < 128; ++i) {
      const int64_t x = int64_t{load.x} * map.element_bytes + i;
      const bool inside = y >= 0 && y < map.rows && x >= 0 && x < map.row_bytes;
      load.to[swizzle_128(r, i)] = inside ? map.base[y * map.stride_bytes + x] : char{0};
    }
  }
  Mbarrier& barrier = find_mbarrier(load.barrier, load.issued);
  barrier.bytes -= int64_t{map.box_rows} * 128;
  complete_phase(load.barrier, barrier);
  return true;
}

inline void end_block() {
  if (!tma_loads.empty()) cuhost::die("the block ended before its TMA load landed", tma_loads.back().issued);
  mbarriers.clear();
}

}  // namespace host

inline void mbarrier_init(uint64_t* b, int count, CUHOST_AT) {
  const cuhost::Place at{file, line};
  if (reinterpret_cast<uintptr_t>(b) % 8 != 0) cuhost::die("mbarrier: misaligned address", at);
  if (count < 1 || count >= 1 << 20) cuhost::die("mbarrier: count out of range", at);
  host::mbarriers[b] = {count, count, 0, 0};
  cuhost::device.when_idle = host::land_newest_load;
  cuhost::device.when_block_ends = host::end_block;
}

inline void mbarrier_init_fence() {}

inline void mbarrier_arrive_expect_tx(uint64_t* b, int bytes, CUHOST_AT) {
  const cuhost::Place at{file, line};
  host::Mbarrier& barrier = host::find_mbarrier(b, at);
  if (barrier.missing == 0) cuhost::die("mbarrier: more arrivals than its count", at);
  barrier.bytes += bytes;
  if (bytes < 0 || barrier.bytes >= 1 << 20) cuhost::die("mbarrier: bytes out of range", at);
  --barrier.missing;
  host::complete_phase(b, barrier);
}

inline void mbarrier_arrive(uint64_t* b, CUHOST_AT) { mbarrier_arrive_expect_tx(b, 0, file, line); }

inline void mbarrier_wait(uint64_t* b, int parity, CUHOST_AT) {
  const cuhost::Place at{file, line};
  if (static_cast<int>(host::find_mbarrier(b, at).phase & 1) != parity) return;
  host::mbarrier_waits.push_back({cuhost::device.current, b, parity});
  cuhost::wait_for(parity == 0 ? "mbarrier_wait of parity 0" : "mbarrier_wait of parity 1", 0, at);
}

inline void tma_load_2d(void* smem, const TensorMap* map, int x, int y, uint64_t* b, CUHOST_AT) {
  const cuhost::Place at{file, line};
  if (reinterpret_cast<uintptr_t>(smem) % 1024 != 0) cuhost::die("tma_load_2d: misaligned shared address", at);
  host::find_mbarrier(b, at);
  host::tma_loads.push_back({static_cast<char*>(smem), *map, x, y, b, at});
}

}  // namespace sdgan::cuda
