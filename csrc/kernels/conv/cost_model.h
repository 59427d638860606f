// What each backend is expected to make of a convolution: the numbers that `auto` chooses by, and sd.explain shows.
// They depend on the problem and the instruction set alone, never on the number of threads: another kernel has other
// bits.
#pragma once

#include <string>

#include "kernels/conv/problem.h"

namespace sdgan {

struct Estimate {
  bool worthwhile = false;
  double speedup = 0;            // over the library; 0: no number is known
  double least = 0;              // of it, to be worthwhile
  const char* reason = nullptr;  // in place of the numbers

  std::string text() const;
};

Estimate winograd_estimate(const ConvQuery& query);
Estimate small_channel_estimate(const ConvQuery& query);

}  // namespace sdgan
