// The habit of torch.backends.cudnn.benchmark for all backends: the first call of a shape times those that can run it,
// and its choice is kept for the process. No torch here; dispatch.cpp runs the candidates.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/conv/problem.h"

namespace sdgan {

// A call as far as it decides what is fastest. The number of threads is no part of it: a kept choice holds for any.
struct BenchmarkKey {
  static constexpr int kCount = 23;
  std::array<int64_t, kCount> numbers{};

  BenchmarkKey() = default;
  // forward, or the backward pass with the gradients that are wanted.
  BenchmarkKey(const ConvProblem& problem, bool forward, bool input_gradient, bool weight_gradient);
  bool operator==(const BenchmarkKey&) const = default;
};

// Indices into the dispatcher's backends: of the forward pass or the input's gradient, and of the weight's gradient.
struct BackendPair {
  int first = -1;
  int weight = -1;
  bool operator==(const BackendPair&) const = default;
};

struct Timing {
  BackendPair backends;
  double milliseconds = 0;  // the fastest of a few runs
};

struct Measured {
  BackendPair choice;
  std::vector<Timing> timings;  // empty where the choice comes from a file that has none
};

std::optional<Measured> find_measured(const BenchmarkKey& key);
// Keeps the first answer to a key: all threads then do the same.
Measured keep_measured(const BenchmarkKey& key, const Measured& measured);
std::vector<std::pair<BenchmarkKey, Measured>> all_measured();
void forget_measured();

// Times the candidates in turns: `run(backends)` runs one and waits for it.
Measured measure(const std::vector<BackendPair>& candidates, const std::function<void(BackendPair)>& run);

}  // namespace sdgan
