// Which backend runs a convolution: sd.conv_backend's setting, the cost model, or measurements. No torch here:
// module.cpp binds it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/conv/problem.h"

namespace sdgan {

// The setting of sd.conv_backend, for the whole process and read by every call: "auto", "benchmark", or backends in
// order of preference, of which the first that can run a pass does. Throws std::invalid_argument for another name.
void set_conv_backend(const std::vector<std::string>& names);
std::vector<std::string> conv_backend();
// The backends there are, in the order in which `auto` asks them.
std::vector<std::string> backend_names();

// How a query would be answered, in words.
struct ConvExplanation {
  const char* backend;
  std::string reason;
  double speedup = 0;          // estimate over the library; 0: there is none
  double multiplications = 0;  // that the backend makes in the pass
};
// Throws std::invalid_argument where no backend of the setting can run the pass.
ConvExplanation explain_convolution(const ConvQuery& query);

// What "benchmark" has measured, with names: for sd.conv_backend's file.
struct MeasuredConvolution {
  std::vector<int64_t> key;   // BenchmarkKey
  std::string first, weight;  // backends of forward or input's gradient, and of the weight's gradient or ""
  struct Time {
    std::string first, weight;
    double milliseconds;
  };
  std::vector<Time> times;
};
std::vector<MeasuredConvolution> measured_convolutions();
// As if it had been measured here. Throws std::invalid_argument for what this build does not know.
void add_measured_convolution(const MeasuredConvolution& measured);

// Whether torch lets tf32 stand for float32 in convolutions. Its flag is Python's to read (the stable ABI does not know
// it): ask_tf32 receives the question once. Without an answer, no.
void ask_tf32(std::function<bool()> question);
bool tf32_allowed();

// Whether problem.reduced_precision holds: torch.get_float32_matmul_precision(), asked in the same way, and only where
// a kernel of reduced precision could run the problem.
void ask_reduced_precision(std::function<bool()> question);
bool reduced_precision(const ConvProblem& problem);

}  // namespace sdgan
