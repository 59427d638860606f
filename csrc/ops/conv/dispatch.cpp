#include "ops/conv/dispatch.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "kernels/conv/winograd/winograd.h"

#include "ops/conv/backend.h"
#include "ops/conv/benchmark.h"
#include "ops/conv/epilogue.h"

namespace sdgan {
namespace {

// The last one runs everything.
const Backend* const kBackends[] = {&kSmallChannelBackend, &kWinogradBackend, &kImplicitGemmBackend, &kLibraryBackend};
constexpr int kCount = std::size(kBackends);
constexpr int kLibrary = kCount - 1;

bool can_run(int backend, const ConvQuery& query) { return kBackends[backend]->supports(query) == nullptr; }

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "'" : ", '") + name + "'";
  return text;
}

int index_of(const std::string& name) {
  for (int i = 0; i < kCount; ++i) {
    if (name == kBackends[i]->name) return i;
  }
  return -1;
}

// ------------------------------------------------------------------------------------------------- the setting
// One word, so that threads read it while another one writes it. Preferences take four bits each, the first one lowest:
// 1 + the backend's index; 0 ends them.
constexpr uint32_t kAuto = 0, kBenchmark = ~0u;
std::atomic<uint32_t> setting{kAuto};

int preference(uint32_t preferences, int i) { return static_cast<int>(preferences >> 4 * i & 15) - 1; }

std::function<bool()>& tf32_question() {
  static auto* question = new std::function<bool()>;  // never destroyed: it holds an object of Python
  return *question;
}

std::function<bool()>& precision_question() {
  static auto* question = new std::function<bool()>;
  return *question;
}

// -------------------------------------------------------------------------------------------------- the choice
struct Choice {
  int backend = -1;  // -1: none of the setting can run the pass
  Estimate estimate;
};

Choice automatic(const ConvQuery& query) {
  for (int i = 0; i < kLibrary; ++i) {
    if (!can_run(i, query)) continue;
    const Estimate estimate = kBackends[i]->estimate(query);
    if (estimate.worthwhile) return {i, estimate};
  }
  return {kLibrary, kBackends[kLibrary]->estimate(query)};
}

Choice choose(const ConvQuery& query, uint32_t preferences) {
  if (preferences == kAuto || preferences == kBenchmark) return automatic(query);
  for (int i = 0; preference(preferences, i) >= 0; ++i) {
    if (can_run(preference(preferences, i), query)) return {preference(preferences, i), {}};
  }
  if (query.problem.geometry.batch == 0) return {kLibrary, {}};  // nothing to do
  return {};
}

std::string refusal(const ConvQuery& query, uint32_t preferences) {
  std::vector<std::string> asked, able{"auto", "benchmark"};
  const char* reason = "";
  for (int i = 0; preference(preferences, i) >= 0; ++i) {
    const Backend& backend = *kBackends[preference(preferences, i)];
    asked.push_back(backend.name);
    reason = backend.supports(query);
  }
  for (int i = 0; i < kCount; ++i) {
    if (can_run(i, query)) able.push_back(kBackends[i]->name);
  }
  return "conv_backend is " + joined(asked) + ", which cannot run this " +
         (query.problem.transposed ? "conv_transpose2d" : "conv2d") + (query.is_forward() ? "" : "'s gradient") + ": " +
         reason + "; it can be one of " + joined(able);
}

int backend_of(const ConvQuery& query, uint32_t preferences) {
  const int backend = choose(query, preferences).backend;
  if (backend < 0) throw std::runtime_error(refusal(query, preferences));
  return backend;
}

// ----------------------------------------------------------------------------------------------- by measurement
ConvQuery forward_query(const ConvProblem& problem) { return {problem, problem.forward()}; }
ConvQuery input_query(const ConvProblem& problem) { return {problem, problem.input_gradient(), true}; }
ConvQuery weight_query(const ConvProblem& problem, bool both) { return {problem, Pass::wgrad, both}; }

// What may run a forward or backward pass: one backend, or another one for each gradient.
std::vector<BackendPair> candidates(const ConvProblem& problem, bool forward, Wanted wanted) {
  std::vector<BackendPair> out;
  for (int i = 0; i < kCount; ++i) {
    if (forward) {
      if (can_run(i, forward_query(problem))) out.push_back({i, -1});
      continue;
    }
    if (wanted.input && !can_run(i, input_query(problem))) continue;
    for (int j = 0; j < kCount; ++j) {
      if (!(wanted.input && wanted.weight) && j != i) continue;
      if (can_run(j, weight_query(problem, wanted.input))) out.push_back({i, j});
    }
  }
  return out;
}

BackendPair benchmarked(const ConvProblem& problem, bool forward, Wanted wanted, const Tensor& like,
                        const std::function<void(BackendPair)>& run) {
  const BenchmarkKey key(problem, forward, wanted.input, wanted.weight);
  if (const auto measured = find_measured(key)) {
    const auto [first, weight] = measured->choice;  // of a file perhaps, which may be wrong
    const bool able = forward ? can_run(first, forward_query(problem))
                              : weight >= 0 && can_run(weight, weight_query(problem, wanted.input)) &&
                                    can_run(first, input_query(problem));
    SDGAN_CHECK(
        able, "the file of conv_backend('benchmark') names a backend that cannot run this convolution; make a new one");
    return measured->choice;
  }
  bool capturing = false;
  const auto wait = [&] {
    if (!problem.cuda) return;
    launch(like, [&](CudaStream stream) {
      capturing = stream_is_capturing(stream);
      return capturing ? CudaError{0} : wait_for_stream(stream);
    });
  };
  wait();
  if (capturing || problem.geometry.batch == 0) {  // nothing can be timed, and nothing is kept
    if (forward) return {automatic(forward_query(problem)).backend, -1};
    const int for_weight = automatic(weight_query(problem, wanted.input)).backend;
    return {wanted.input ? automatic(input_query(problem)).backend : for_weight, for_weight};
  }
  const Measured measured = measure(candidates(problem, forward, wanted), [&](BackendPair backends) {
    run(backends);
    wait();
  });
  return keep_measured(key, measured).choice;
}

std::string timings_text(const std::vector<Timing>& timings) {
  std::string text = "measured:";
  for (const Timing& timing : timings) {
    const int second = timing.backends.weight;
    char figure[64];
    std::snprintf(figure, sizeof figure, " %.3g ms", timing.milliseconds);
    text += (text.back() == ':' ? " " : ", ") + std::string(kBackends[timing.backends.first]->name);
    if (second >= 0 && second != timing.backends.first) text += std::string(" + ") + kBackends[second]->name;
    text += figure;
  }
  return text;
}

// Why `auto` left a query to the library: what the first backend lacks that could run it, or else why the last one that
// is for this device cannot.
std::string why_library(const ConvQuery& query) {
  std::string reason = "no other backend can run it";
  for (int i = 0; i < kLibrary; ++i) {
    if (can_run(i, query)) return kBackends[i]->estimate(query).text();
    const bool for_this_device = kBackends[i] != &kImplicitGemmBackend || query.problem.cuda;
    if (for_this_device) reason = kBackends[i]->supports(query);
  }
  return reason;
}

// ------------------------------------------------------------------------------------------------------- running
Gradients run_backward(BackendPair backends, const ConvCall& call, const Tensor& grad_output, const Tensor& input,
                       const Tensor& weight, const Tensor& saved, Wanted wanted) {
  const Backend &for_input = *kBackends[backends.first], &for_weight = *kBackends[backends.weight];
  if (&for_input == &for_weight || !wanted.weight) {
    return for_input.backward(call, grad_output, input, weight, saved, wanted);
  }
  // The activation's gradient and the bias' sums once, then each product by its own backend.
  auto [grad, grad_bias] =
      before_activation(call.conv, grad_output, saved, {}, wanted.bias, call.problem.channels_last);
  ConvCall plain = call;
  plain.conv.activation = Activation::none;
  const Tensor none = empty_none(input);
  Tensor grad_input = std::get<0>(for_input.backward(plain, grad, input, weight, none, {true, false, false}));
  Tensor grad_weight = std::get<1>(for_weight.backward(plain, grad, input, weight, none, {false, true, false}));
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

void set_conv_backend(const std::vector<std::string>& names) {
  uint32_t preferences = kAuto;
  if (names == std::vector<std::string>{"auto"} || names == std::vector<std::string>{"benchmark"}) {
    setting.store(names[0] == "auto" ? kAuto : kBenchmark, std::memory_order_relaxed);
    return;
  }
  for (size_t i = 0; i < names.size(); ++i) {
    const int index = index_of(names[i]);
    if (index < 0 || i >= kCount) {
      throw std::invalid_argument("conv_backend is " + joined(names) + "; allowed are 'auto', 'benchmark', and " +
                                  joined(backend_names()) + " in order of preference");
    }
    preferences |= static_cast<uint32_t>(index + 1) << 4 * i;
  }
  setting.store(preferences, std::memory_order_relaxed);
}

std::vector<std::string> conv_backend() {
  const uint32_t preferences = setting.load(std::memory_order_relaxed);
  if (preferences == kAuto) return {"auto"};
  if (preferences == kBenchmark) return {"benchmark"};
  std::vector<std::string> names;
  for (int i = 0; preference(preferences, i) >= 0; ++i) names.push_back(kBackends[preference(preferences, i)]->name);
  return names;
}

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const Backend* backend : kBackends) names.push_back(backend->name);
  return names;
}

ConvExplanation explain_convolution(const ConvQuery& query) {
  const uint32_t preferences = setting.load(std::memory_order_relaxed);
  auto [backend, estimate] = choose(query, preferences);
  if (backend < 0) throw std::invalid_argument(refusal(query, preferences));
  std::string reason = backend == kLibrary ? why_library(query) : estimate.text();
  if (preferences != kAuto && preferences != kBenchmark) {
    const int first = preference(preferences, 0);
    reason = backend == first ? "asked for by conv_backend" : kBackends[first]->supports(query);
    estimate = kBackends[backend]->estimate(query);
  }
  if (preferences == kBenchmark) {
    const bool weight = query.pass == Pass::wgrad, input = !query.is_forward() && query.both_gradients;
    const BenchmarkKey key(query.problem, query.is_forward(), input, !query.is_forward() && (weight || input));
    if (const auto measured = find_measured(key)) {
      backend = weight ? measured->choice.weight : measured->choice.first;
      reason = timings_text(measured->timings);
    } else {
      reason = "not measured yet; by estimate: " + reason;
    }
  }
  if (estimate.algorithm != nullptr) reason = std::string(estimate.algorithm) + ", " + reason;
  const Backend& chosen = *kBackends[backend];
  return {chosen.name, reason, backend == kLibrary ? 0 : estimate.speedup, chosen.multiplications(query)};
}

std::vector<MeasuredConvolution> measured_convolutions() {
  const auto name = [](int backend) { return backend < 0 ? std::string() : std::string(kBackends[backend]->name); };
  std::vector<MeasuredConvolution> out;
  for (const auto& [key, measured] : all_measured()) {
    MeasuredConvolution row{
        {key.numbers.begin(), key.numbers.end()}, name(measured.choice.first), name(measured.choice.weight), {}};
    for (const Timing& timing : measured.timings) {
      row.times.push_back({name(timing.backends.first), name(timing.backends.weight), timing.milliseconds});
    }
    out.push_back(std::move(row));
  }
  return out;
}

void add_measured_convolution(const MeasuredConvolution& measured) {
  BenchmarkKey key;
  if (measured.key.size() != key.numbers.size()) throw std::invalid_argument("it has the key of another version");
  std::copy(measured.key.begin(), measured.key.end(), key.numbers.begin());
  const auto pair = [](const std::string& first, const std::string& weight) {
    const BackendPair backends{index_of(first), index_of(weight)};
    if (backends.first < 0 || (backends.weight < 0 && !weight.empty())) {
      throw std::invalid_argument("it names " + joined({first, weight}) + "; backends are " + joined(backend_names()));
    }
    return backends;
  };
  Measured kept{pair(measured.first, measured.weight), {}};
  for (const auto& time : measured.times) kept.timings.push_back({pair(time.first, time.weight), time.milliseconds});
  keep_measured(key, kept);
}

void ask_tf32(std::function<bool()> question) { tf32_question() = std::move(question); }
bool tf32_allowed() { return tf32_question() && tf32_question()(); }

void ask_reduced_precision(std::function<bool()> question) { precision_question() = std::move(question); }
bool reduced_precision(const ConvProblem& problem) {
  const bool matters = !problem.cuda && problem.dtype == DType::f32 && winograd_f43_serves(problem.geometry);
  return matters && precision_question() && precision_question()();
}

Outputs dispatch_forward(const ConvCall& call, const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  const uint32_t preferences = setting.load(std::memory_order_relaxed);
  int backend = 0;
  if (preferences == kBenchmark) {
    const auto run = [&](BackendPair backends) { kBackends[backends.first]->forward(call, input, weight, bias); };
    backend = benchmarked(call.problem, true, {}, input, run).first;
  } else {
    backend = backend_of(forward_query(call.problem), preferences);
  }
  return kBackends[backend]->forward(call, input, weight, bias);
}

Gradients dispatch_backward(const ConvCall& call, const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                            const Tensor& saved, Wanted wanted) {
  const uint32_t preferences = setting.load(std::memory_order_relaxed);
  BackendPair backends;
  if (preferences == kBenchmark) {
    const auto run = [&](BackendPair pair) { run_backward(pair, call, grad_output, input, weight, saved, wanted); };
    backends = benchmarked(call.problem, false, wanted, input, run);
  } else {
    backends.weight = backend_of(weight_query(call.problem, wanted.input), preferences);
    backends.first = backends.weight;
    if (wanted.input) backends.first = backend_of(input_query(call.problem), preferences);
  }
  return run_backward(backends, call, grad_output, input, weight, saved, wanted);
}

}  // namespace sdgan
