// `sdgan_ext._C`: loading it registers the operators of csrc/ops; it binds what is not an operator. No tensor crosses
// here, so pybind11 and LibTorch's stable ABI can live in one shared object.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "kernels/isa.h"
#include "ops/conv/benchmark.h"
#include "ops/conv/dispatch.h"
#include "ops/conv/kept_filters.h"

namespace py = pybind11;

using Sizes = std::vector<int64_t>;

// [6] as in ConvAxis.
static sdgan::ConvAxis axis(const Sizes& s) { return {s.at(0), s.at(1), s.at(2), s.at(3), s.at(4), s.at(5)}; }

static py::object words(const char* text) { return py::str(text).attr("split")(); }

static std::function<bool()> asked_of_python(py::function question) {
  return [question = std::move(question)] {
    const py::gil_scoped_acquire gil;
    return question().cast<bool>();
  };
}

PYBIND11_MODULE(_C, m) {
  m.def("build_info", [] {
    py::dict info;
    py::list compiled, usable;
    for (sdgan::Isa isa : {sdgan::Isa::generic, sdgan::Isa::avx2, sdgan::Isa::avx512}) {
      if (sdgan::isa_usable(isa)) usable.append(sdgan::isa_name(isa));
    }
    compiled.append("generic");
    SDGAN_IF_AVX2(compiled.append("avx2");)
    SDGAN_IF_AVX512(compiled.append("avx512");)
    info["version"] = SDGAN_VERSION;
    info["compiler"] = __VERSION__;
    info["cpu_isa"] = sdgan::isa_name(sdgan::cpu_isa());
    info["cpu_isa_compiled"] = compiled;
    info["cpu_isa_usable"] = usable;
    info["cuda"] = static_cast<bool>(SDGAN_CUDA);
#if SDGAN_CUDA_ON_HOST
    info["cuda_reason"] = "the tests' build, which runs the kernels on the CPU";
    info["cuda_version"] = "";
    info["cuda_architectures"] = words("host");
#else
    info["cuda_reason"] = SDGAN_CUDA_REASON;
    info["cuda_version"] = SDGAN_CUDA_VERSION;
    info["cuda_architectures"] = words(SDGAN_CUDA_ARCHITECTURES);
#endif
    return info;
  });
  m.def("set_conv_backend", &sdgan::set_conv_backend);
  m.def("conv_backend", &sdgan::conv_backend);
  m.def("conv_backend_names", &sdgan::backend_names);
  m.def("forget_measured_convolutions", &sdgan::forget_measured);
  // [(key, first, weight, [(first, weight, milliseconds), ...]), ...]
  m.def("measured_convolutions", [] {
    py::list rows;
    for (const auto& row : sdgan::measured_convolutions()) {
      py::list times;
      for (const auto& time : row.times) times.append(py::make_tuple(time.first, time.weight, time.milliseconds));
      rows.append(py::make_tuple(row.key, row.first, row.weight, times));
    }
    return rows;
  });
  m.def("add_measured_convolution", [](Sizes key, std::string first, std::string weight,
                                       const std::vector<std::tuple<std::string, std::string, double>>& times) {
    sdgan::MeasuredConvolution row{std::move(key), std::move(first), std::move(weight), {}};
    for (const auto& [a, b, milliseconds] : times) row.times.push_back({a, b, milliseconds});
    sdgan::add_measured_convolution(row);
  });
  m.def("explain_convolution", [](bool transposed, int64_t batch, int64_t x_channels, int64_t y_channels,
                                  int64_t groups, Sizes vertical, Sizes horizontal, int dtype, bool cuda,
                                  bool channels_last, int stage, bool both_gradients, bool residual_or_scale) {
    const sdgan::ConvGeometry geometry{axis(vertical), axis(horizontal), batch, x_channels, y_channels, groups};
    sdgan::ConvProblem problem{geometry, transposed, static_cast<sdgan::DType>(dtype), cuda, channels_last};
    problem.reduced_precision = sdgan::reduced_precision(problem);
    problem.residual_or_scale = stage == 0 && residual_or_scale;
    const sdgan::Pass passes[] = {problem.forward(), problem.input_gradient(), sdgan::Pass::wgrad};
    const auto out = sdgan::explain_convolution({problem, passes[stage], both_gradients});
    return py::make_tuple(out.backend, out.reason, out.speedup, out.multiplications);
  });
  m.def("offer_weight", &sdgan::offer_weight);
  m.def("forget_filters", &sdgan::forget_filters);
  m.def("limit_kept_filters", &sdgan::limit_kept_filters);
  m.def("kept_filters_limit", &sdgan::kept_filters_limit);
  m.def("kept_filters", [] {  // (bytes, filters, calls that took one)
    const sdgan::KeptFilters kept = sdgan::kept_filters();
    return py::make_tuple(kept.bytes, kept.filters, kept.uses);
  });
  // Called from any thread: when a float32 convolution runs on CUDA, and when one of 3x3 and stride 1 does on the CPU.
  m.def("ask_tf32", [](py::function question) { sdgan::ask_tf32(asked_of_python(std::move(question))); });
  m.def("ask_reduced_precision",
        [](py::function question) { sdgan::ask_reduced_precision(asked_of_python(std::move(question))); });
}
