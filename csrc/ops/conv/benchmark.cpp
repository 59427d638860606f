#include "ops/conv/benchmark.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <unordered_map>

namespace sdgan {
namespace {

struct Hash {
  size_t operator()(const BenchmarkKey& key) const {  // FNV-1a, by numbers
    uint64_t hash = 0xcbf29ce484222325u;
    for (const int64_t number : key.numbers) hash = (hash ^ static_cast<uint64_t>(number)) * 0x100000001b3u;
    return hash;
  }
};

struct Kept {
  std::mutex mutex;
  std::unordered_map<BenchmarkKey, Measured, Hash> answers;
};

Kept& kept() {
  static auto* all = new Kept;  // never destroyed: autograd's threads may outlive main
  return *all;
}

}  // namespace

BenchmarkKey::BenchmarkKey(const ConvProblem& problem, bool forward, bool input_gradient, bool weight_gradient) {
  const ConvGeometry& g = problem.geometry;
  int at = 0;
  const auto add = [&](int64_t number) { numbers[at++] = number; };
  add(problem.transposed);
  add(forward && problem.residual_or_scale ? 2 : forward);  // fewer backends can run it
  add(input_gradient);
  add(weight_gradient);
  add(static_cast<int64_t>(problem.dtype));
  add(problem.cuda);
  add(problem.channels_last + 2 * problem.reduced_precision);  // one number: files from before it have as many
  add(g.batch);
  add(g.x_channels);
  add(g.y_channels);
  add(g.groups);
  for (int i = 0; i < 2; ++i) {
    const ConvAxis& a = g.axis(i);
    for (const int64_t number : {a.x, a.y, a.taps, a.stride, a.dilation, a.pad}) add(number);
  }
}

std::optional<Measured> find_measured(const BenchmarkKey& key) {
  const std::lock_guard lock(kept().mutex);
  const auto found = kept().answers.find(key);
  if (found == kept().answers.end()) return std::nullopt;
  return found->second;
}

Measured keep_measured(const BenchmarkKey& key, const Measured& measured) {
  const std::lock_guard lock(kept().mutex);
  return kept().answers.try_emplace(key, measured).first->second;
}

std::vector<std::pair<BenchmarkKey, Measured>> all_measured() {
  const std::lock_guard lock(kept().mutex);
  return {kept().answers.begin(), kept().answers.end()};
}

void forget_measured() {
  const std::lock_guard lock(kept().mutex);
  kept().answers.clear();
}

Measured measure(const std::vector<BackendPair>& candidates, const std::function<void(BackendPair)>& run) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRounds = 4;       // the first one warms up
  constexpr double kEnough = 200;  // milliseconds for a candidate
  Measured out;
  for (const BackendPair& backends : candidates) out.timings.push_back({backends, 0});
  double spent = 0;
  for (int round = 0; round < kRounds && spent < kEnough * candidates.size(); ++round) {
    for (Timing& timing : out.timings) {
      const auto begin = Clock::now();
      run(timing.backends);
      const double elapsed = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
      spent += elapsed;
      timing.milliseconds = round <= 1 ? elapsed : std::min(timing.milliseconds, elapsed);
    }
  }
  const auto faster = [](const Timing& a, const Timing& b) { return a.milliseconds < b.milliseconds; };
  out.choice = std::min_element(out.timings.begin(), out.timings.end(), faster)->backends;
  return out;
}

}  // namespace sdgan
