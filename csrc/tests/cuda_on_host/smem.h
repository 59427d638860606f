// Part of cuda_host.h: Smem<T>, an array in shared memory whose accesses are checked: for races, and for its end where
// that is known, which it is for a __shared__ array and in dynamic shared memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "tests/cuda_on_host/race_check.h"

namespace cuhost {

// __shared__ arrays that an Smem was made of. They are filled with NaN before every block, so that stale data shows.
struct StaticArray {
  void* data;
  size_t bytes;
};
inline std::vector<StaticArray> static_arrays;

inline void remember_static_array(void* data, size_t bytes) {
  const char* stack = device.current->stack;
  if (data >= stack && data < stack + kStackBytes) die("an Smem of a local array");
  for (const StaticArray& known : static_arrays) {
    if (known.data == data) return;
  }
  static_arrays.push_back({data, bytes});
}

inline void fill_shared_memory() {
  if (device.smem != nullptr) std::memset(device.smem, 0xff, device.smem_bytes);
  for (const StaticArray& array : static_arrays) std::memset(array.data, 0xff, array.bytes);
}

// An index and where it stands in the kernel.
struct Index {
  std::ptrdiff_t i;
  Place at;
  template <class I, class = std::enable_if_t<std::is_convertible_v<I, std::ptrdiff_t>>>
  Index(I index, CUHOST_AT) : i(static_cast<std::ptrdiff_t>(index)), at{file, line} {}
};

// What s[i] is on the host: it reads when it is converted to T. So name the type, `const float x = s[i]`, not auto.
template <class T>
struct Element {
  T* p;
  Place at;

  T get() const {
    note_access(p, sizeof(T), false, at);
    return *p;
  }
  T set(T value) const {
    note_access(p, sizeof(T), true, at);
    return *p = value;
  }
  operator T() const { return get(); }
  T* operator&() const { return p; }  // what is done through it is not checked
  T operator=(T value) const { return set(value); }
  T operator=(const Element& other) const { return set(other.get()); }
  template <class U>
  T operator+=(U value) const {
    return set(static_cast<T>(get() + value));
  }
  template <class U>
  T operator-=(U value) const {
    return set(static_cast<T>(get() - value));
  }
  template <class U>
  T operator*=(U value) const {
    return set(static_cast<T>(get() * value));
  }
  template <class U>
  T operator/=(U value) const {
    return set(static_cast<T>(get() / value));
  }
  template <class U>
  T operator&=(U value) const {
    return set(static_cast<T>(get() & value));
  }
  template <class U>
  T operator|=(U value) const {
    return set(static_cast<T>(get() | value));
  }
};

}  // namespace cuhost

template <class T>
struct Smem {
  T* p = nullptr;
  const T* end = nullptr;  // null: unknown

  Smem() = default;
  template <class Array, class = std::enable_if_t<std::is_convertible_v<Array, T*>>>
  Smem(Array&& array) : p(array) {
    const uintptr_t offset = reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(cuhost::device.smem);
    const bool is_dynamic = offset < cuhost::device.smem_bytes;
    if constexpr (std::is_array_v<std::remove_reference_t<Array>>) {
      end = p + sizeof array / sizeof(T);
      if (!is_dynamic) cuhost::remember_static_array(const_cast<std::remove_const_t<T>*>(p), sizeof array);
    } else if (is_dynamic) {
      end = p + (cuhost::device.smem_bytes - offset) / sizeof(T);
    }
  }

  cuhost::Element<T> operator[](cuhost::Index index) const {
    if (end != nullptr && (index.i < 0 || index.i >= end - p)) {
      std::fprintf(stderr, "cuda_host: index %td of an array of %td\n", index.i, end - p);
      cuhost::die("index past shared memory", index.at);
    }
    return {p + index.i, index.at};
  }
};
