#include "ops/conv/kept_filters.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "kernels/fingerprint.h"
#include "ops/common.h"

namespace sdgan {
namespace {

constexpr int64_t kDefaultLimit = int64_t{64} << 20;
constexpr int64_t kLongAgo = 4096;     // calls after which a filter gives its memory to another
constexpr int64_t kLongestPause = 32;  // calls in which a weight that changes is not looked at
constexpr size_t kMostEntries = 4096;

struct Entry {
  uint64_t fingerprint = 0;
  std::shared_ptr<float> filter;  // null: seen once
  int64_t bytes = 0;              // of the filter
  int64_t last_use = 0;
  int64_t pause = 0, next_pause = 1;
};

struct Store {
  std::mutex mutex;
  std::map<FilterKey, Entry> entries;
  KeptFilters kept{};
  int64_t limit = kDefaultLimit;
  int64_t clock = 0;

  void drop_filter(Entry& entry) {
    if (!entry.filter) return;
    kept.bytes -= std::exchange(entry.bytes, 0);
    --kept.filters;
    entry.filter.reset();
  }
  std::map<FilterKey, Entry>::iterator oldest(bool with_filter) {
    auto found = entries.end();
    for (auto it = entries.begin(); it != entries.end(); ++it) {
      if (with_filter && !it->second.filter) continue;
      if (found == entries.end() || it->second.last_use < found->second.last_use) found = it;
    }
    return found;
  }
  // Whether `bytes` more may be kept. A filter in use stays: where more is in use than there is memory for, throwing
  // out one for the other would keep none.
  bool make_space(int64_t bytes) {
    while (kept.bytes + bytes > limit) {
      const auto found = oldest(true);
      if (found == entries.end() || clock - found->second.last_use < kLongAgo) return false;
      drop_filter(found->second);
    }
    return true;
  }
};

Store& store() {
  static auto* all = new Store;  // never destroyed: threads may outlive main
  return *all;
}

thread_local int64_t offered = 0;

uint64_t fingerprint_of(const FilterKey& key) {
  FingerprintParams p;
  p.data = key.weight;
  p.count = key.size[0] * key.size[1] * key.size[2] * key.size[3];
  std::vector<uint64_t> partial(p.slice_count());
  p.partial = partial.data();
  parallel_slices(p.slice_count(), FingerprintParams::kElements,
                  [&](int64_t begin, int64_t end) { fingerprint(p, begin, end); });
  uint64_t all = 0;
  for (uint64_t part : partial) all = fingerprint_step(all, part);
  return all;
}

std::shared_ptr<float> allocate(int64_t bytes) {
  constexpr std::align_val_t kCacheLine{64};
  return {static_cast<float*>(::operator new(bytes, kCacheLine)),
          [](float* p) { ::operator delete(p, std::align_val_t{64}); }};
}

}  // namespace

bool FilterKey::operator<(const FilterKey& other) const {
  const auto numbers = [](const FilterKey& key) {
    return std::tuple(key.weight, key.pass, key.scheme, std::to_array(key.size), std::to_array(key.stride));
  };
  return numbers(*this) < numbers(other);
}

void offer_weight(int64_t address) { offered = address; }

bool take_offer(const void* weight) {
  return std::exchange(offered, 0) == reinterpret_cast<int64_t>(weight) && weight != nullptr;
}

void forget_filters(int64_t address) {
  Store& all = store();
  const std::lock_guard lock(all.mutex);
  for (auto it = all.entries.begin(); it != all.entries.end();) {
    if (reinterpret_cast<int64_t>(it->first.weight) == address) {
      all.drop_filter(it->second);
      it = all.entries.erase(it);
    } else {
      ++it;
    }
  }
}

KeptFilters kept_filters() {
  const std::lock_guard lock(store().mutex);
  return store().kept;
}

int64_t kept_filters_limit() {
  const std::lock_guard lock(store().mutex);
  return store().limit;
}

void limit_kept_filters(int64_t bytes) {
  Store& all = store();
  const std::lock_guard lock(all.mutex);
  all.limit = bytes;
  while (all.kept.bytes > all.limit) all.drop_filter(all.oldest(true)->second);
}

std::shared_ptr<float> kept_filter(const FilterKey& key, int64_t floats, const std::function<void(float*)>& make) {
  Store& all = store();
  const int64_t bytes = floats * int64_t{sizeof(float)};
  {
    const std::lock_guard lock(all.mutex);
    if (bytes > all.limit) return nullptr;
    Entry& entry = all.entries[key];
    entry.last_use = ++all.clock;
    if (all.entries.size() > kMostEntries) {
      const auto oldest = all.oldest(false);
      all.drop_filter(oldest->second);
      all.entries.erase(oldest);
    }
    if (entry.pause > 0) {
      --entry.pause;
      return nullptr;
    }
  }
  const uint64_t fingerprint = fingerprint_of(key);
  {
    const std::lock_guard lock(all.mutex);
    Entry& entry = all.entries[key];
    if (entry.fingerprint != fingerprint) {
      if (entry.fingerprint != 0) {
        entry.pause = entry.next_pause;
        entry.next_pause = std::min(2 * entry.next_pause, kLongestPause);
      }
      all.drop_filter(entry);
      entry.fingerprint = fingerprint;
      return nullptr;
    }
    entry.next_pause = 1;
    if (entry.filter) {
      ++all.kept.uses;
      return entry.filter;
    }
    if (!all.make_space(bytes)) return nullptr;
  }
  std::shared_ptr<float> filter = allocate(bytes);
  make(filter.get());
  const std::lock_guard lock(all.mutex);
  const auto found = all.entries.find(key);
  // In the meantime it may have been forgotten, made by another thread, or its memory be in use.
  if (found == all.entries.end() || found->second.fingerprint != fingerprint || found->second.filter) return filter;
  if (!all.make_space(bytes)) return filter;
  found->second.filter = filter;
  found->second.bytes = bytes;
  all.kept.bytes += bytes;
  ++all.kept.filters;
  return filter;
}

}  // namespace sdgan
