// What each backend is expected to make of a convolution: the numbers that `auto` chooses by, and sd.explain shows.
// They depend on the problem and the instruction set alone, never on the number of threads: another kernel has other
// bits. The formulas, what they mean and how far they are off: docs/cost-model.md.
#pragma once

#include <string>

#include "kernels/conv/problem.h"
#include "kernels/isa.h"

namespace sdgan {

// What one call does, by the part of the machine that it keeps busy.
struct Work {
  double multiplications = 0;  // each with its addition; channels that pad a vector and tiles across the edge count
  double narrow = 0;           // those of them that take longer because a matrix has few columns
  double images = 0;           // bytes read or written in their order
  double reordered = 0;        // bytes copied to another layout, or written across their own
  double filter = 0;           // bytes of the transformed filter, or of its gradient
  double planes = 0;           // bytes of the transformed tiles
};

Work library_work(const ConvQuery& query, Isa isa);
// With tiles of 2 x 2 or 4 x 4.
Work winograd_work(const ConvQuery& query, int64_t tile = 2);

struct Estimate {
  bool worthwhile = false;
  double speedup = 0;               // over the library; 0: no number is known
  double least = 0;                 // of it, to be worthwhile
  const char* reason = nullptr;     // in place of the numbers
  const char* largest = nullptr;    // the part of the call that takes most time, where it is modelled
  const char* algorithm = nullptr;  // which of several the backend would run, where that is to be said

  std::string text() const;
};

// The tile that Winograd's kernels take: 4 where reduced precision is allowed and that is expected to be faster,
// else 2.
int64_t winograd_tile(const ConvQuery& query, Isa isa);
int64_t winograd_tile(const ConvQuery& query);
// Where winograd_serves. Without an instruction set: that of the CPU.
Estimate winograd_estimate(const ConvQuery& query, Isa isa);
Estimate winograd_estimate(const ConvQuery& query);
Estimate small_channel_estimate(const ConvQuery& query);

}  // namespace sdgan
