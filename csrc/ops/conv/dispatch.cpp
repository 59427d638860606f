#include "ops/conv/dispatch.h"

#include <array>
#include <atomic>
#include <cstdio>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "ops/conv/backend.h"
#include "ops/conv/epilogue.h"

namespace sdgan {
namespace {

// In the order in which `auto` asks them; the last one runs everything.
const Backend* const kBackends[] = {&kSmallChannelBackend, &kWinogradBackend, &kImplicitGemmBackend, &kLibraryBackend};
constexpr int kCount = std::size(kBackends);

// ------------------------------------------------------------------------------------------------ the setting
// Four bits for each preference, the first one lowest: 1 + its index in kBackends, 0 at the end. One word, so that
// threads read it while another one writes it.
constexpr uint32_t kAuto = 0;
std::atomic<uint32_t> setting{kAuto};

int preference(uint32_t from, int i) { return static_cast<int>(from >> 4 * i & 15) - 1; }

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "'" : ", '") + name + "'";
  return text;
}

std::function<bool()>& tf32_question() {
  static auto* question = new std::function<bool()>;  // never destroyed: it holds an object of Python
  return *question;
}

// ------------------------------------------------------------------------------------------------- the choice
struct Choice {
  const Backend* backend = nullptr;  // null: none of the setting can run the pass
  Estimate estimate;                 // of `auto`
};

Choice choose(const ConvQuery& query, uint32_t preferences) {
  if (preferences == kAuto) {
    for (const Backend* backend : kBackends) {
      if (backend->supports(query) != nullptr) continue;
      const Estimate estimate = backend->estimate(query);
      if (estimate.worthwhile) return {backend, estimate};
    }
  }
  for (int i = 0; preference(preferences, i) >= 0; ++i) {
    const Backend* backend = kBackends[preference(preferences, i)];
    if (backend->supports(query) == nullptr) return {backend, {}};
  }
  if (query.problem.geometry.batch == 0) return {&kLibraryBackend, {}};  // nothing to do
  return {};
}

// For a pass that no backend of the setting can run.
std::string refusal(const ConvQuery& query, uint32_t preferences) {
  std::vector<std::string> asked, able{"auto"};
  const char* reason = "";
  for (int i = 0; preference(preferences, i) >= 0; ++i) {
    asked.push_back(kBackends[preference(preferences, i)]->name);
    reason = kBackends[preference(preferences, i)]->supports(query);
  }
  for (const Backend* backend : kBackends) {
    if (backend->supports(query) == nullptr) able.push_back(backend->name);
  }
  return "conv_backend is " + joined(asked) + ", which cannot run this pass of " +
         (query.problem.transposed ? "conv_transpose2d" : "conv2d") + ": " + reason + "; allowed here are " +
         joined(able);
}

const Backend& backend_of(const ConvQuery& query) {
  const uint32_t preferences = setting.load(std::memory_order_relaxed);
  const Backend* backend = choose(query, preferences).backend;
  SDGAN_CHECK(backend != nullptr, refusal(query, preferences));
  return *backend;
}

}  // namespace

void set_conv_backend(const std::vector<std::string>& names) {
  uint32_t preferences = kAuto;
  const bool automatic = names.size() == 1 && names[0] == "auto";
  for (size_t i = 0; !automatic && i < names.size(); ++i) {
    int index = 0;
    while (index < kCount && names[i] != kBackends[index]->name) ++index;
    if (index == kCount || i >= kCount) {
      std::string allowed = "'auto'";
      for (const Backend* backend : kBackends) allowed += std::string(", '") + backend->name + "'";
      throw std::invalid_argument("conv_backend is " + joined(names) + "; allowed are " + allowed);
    }
    preferences |= static_cast<uint32_t>(index + 1) << 4 * i;
  }
  setting.store(preferences, std::memory_order_relaxed);
}

std::vector<std::string> conv_backend() {
  const uint32_t preferences = setting.load(std::memory_order_relaxed);
  if (preferences == kAuto) return {"auto"};
  std::vector<std::string> names;
  for (int i = 0; preference(preferences, i) >= 0; ++i) names.push_back(kBackends[preference(preferences, i)]->name);
  return names;
}

ConvExplanation explain_convolution(const ConvQuery& query) {
  const uint32_t preferences = setting.load(std::memory_order_relaxed);
  const auto [backend, estimate] = choose(query, preferences);
  if (backend == nullptr) throw std::invalid_argument(refusal(query, preferences));
  ConvExplanation out{backend->name, "asked for by conv_backend", 0, backend->multiplications(query)};
  if (preferences != kAuto) {
    out.speedup = backend->estimate(query).speedup;
    return out;
  }
  out.speedup = estimate.speedup;
  out.reason = estimate.text();
  if (backend != &kLibraryBackend) return out;
  out.reason = "no other backend can run it";
  for (const Backend* other : kBackends) {  // the last reason is that of the one that comes nearest
    if (other == &kLibraryBackend) break;
    if (const char* reason = other->supports(query)) {
      if (other != &kImplicitGemmBackend || query.problem.cuda) out.reason = reason;
    } else {
      out.reason = other->estimate(query).text();
    }
  }
  return out;
}

void ask_tf32(std::function<bool()> question) { tf32_question() = std::move(question); }
bool tf32_allowed() { return tf32_question() && tf32_question()(); }

Outputs dispatch_forward(const ConvCall& call, const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  return backend_of({call.problem, call.problem.forward()}).forward(call, input, weight, bias);
}

Gradients dispatch_backward(const ConvCall& call, const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                            const Tensor& saved, Wanted wanted) {
  const bool both = wanted.input;
  const Backend& for_weight = backend_of({call.problem, Pass::wgrad, both});
  const Backend& for_input =
      wanted.input ? backend_of({call.problem, call.problem.input_gradient(), both}) : for_weight;
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

}  // namespace sdgan
