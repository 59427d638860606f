// Transformed filters of weights that do not change, kept from call to call: inference and evaluation.
//
// Python names a parameter before it calls a convolution without gradients (offer_weight), and says when one is freed
// (forget_filters): sdgan_ext/ops/_kept_filters.py. Whether the weight is still the same is asked of its bits, in every
// call (kernels/fingerprint.h), because not every way of writing to a tensor leaves a trace: no version counter moves
// for `weight.data`, and inference tensors have none.
//
// A filter is kept from the second call with the same weight on. A weight that changes is looked at ever more rarely.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "kernels/conv/geometry.h"

namespace sdgan {

// The next convolution of this thread may keep what it makes of the weight at this address.
void offer_weight(int64_t address);
bool take_offer(const void* weight);  // whether it was offered; the offer is over

void forget_filters(int64_t address);

struct KeptFilters {
  int64_t bytes, filters, uses;  // calls that took a kept filter
};
KeptFilters kept_filters();
int64_t kept_filters_limit();
void limit_kept_filters(int64_t bytes);  // 0: none are kept

// What a filter is made from, and how: all that its values depend on beside the weight's.
struct FilterKey {
  const float* weight = nullptr;
  int64_t size[4] = {}, stride[4] = {};  // of the weight, which is dense
  Pass pass = Pass::fprop;
  int64_t scheme = 0;  // the transform's own number

  bool operator<(const FilterKey& other) const;
};

// The filter of `floats` that make(memory) computes; or nothing, where it is not kept. It lives as long as its user.
std::shared_ptr<float> kept_filter(const FilterKey& key, int64_t floats, const std::function<void(float*)>& make);

}  // namespace sdgan
