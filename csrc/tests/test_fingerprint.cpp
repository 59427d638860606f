// fingerprint.h: every bit of every element counts, and so does where it stands.
#include "kernels/fingerprint.h"

#include <bit>
#include <set>
#include <utility>
#include <vector>

#include "tests/check.h"

namespace sdgan::SDGAN_ISA {

void test_fingerprint();

namespace {

uint64_t of(const std::vector<float>& values) {
  FingerprintParams p{values.data(), static_cast<int64_t>(values.size())};
  std::vector<uint64_t> partial(p.slice_count());
  p.partial = partial.data();
  fingerprint(p, 0, p.slice_count());
  uint64_t all = 0;
  for (uint64_t part : partial) all = fingerprint_step(all, part);
  return all;
}

void flip(float& value, int bit) { value = std::bit_cast<float>(std::bit_cast<uint32_t>(value) ^ (1u << bit)); }

}  // namespace

void test_fingerprint() {
  constexpr int64_t kSizes[] = {1, 2, 15, 16, 17, 127, 128, 129, 1000, FingerprintParams::kElements + 3};
  for (int64_t size : kSizes) {
    std::vector<float> values(size);
    for (int64_t i = 0; i < size; ++i) values[i] = static_cast<float>(i % 7) - 3;
    std::set<uint64_t> seen{of(values)};
    size_t count = 1;
    for (int64_t i = 0; i < size; i += 1 + size / 200) {
      for (int bit : {0, 12, 30}) {
        flip(values[i], bit);
        seen.insert(of(values));
        ++count;
        flip(values[i], bit);
      }
    }
    std::vector<float> negative = values, swapped = values, longer = values;
    for (float& value : negative) flip(value, 31);
    seen.insert(of(negative));
    longer.push_back(0);
    seen.insert(of(longer));
    count += 2;
    if (values.front() != values.back()) {
      std::swap(swapped.front(), swapped.back());
      seen.insert(of(swapped));
      ++count;
    }
    EXPECT(seen.size() == count);
    EXPECT(of(std::vector<float>(values)) == of(values));  // wherever it lies
  }
}

}  // namespace sdgan::SDGAN_ISA
