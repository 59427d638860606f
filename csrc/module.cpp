// `sdgan_ext._C`: loading it registers the operators of csrc/ops; it binds what is not an operator. No tensor crosses
// here, so pybind11 and LibTorch's stable ABI can live in one shared object.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "kernels/cpu/isa.h"
#include "ops/convolution_path.h"

namespace py = pybind11;

using Sizes = std::vector<int64_t>;

static py::object words(const char* text) { return py::str(text).attr("split")(); }

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
  m.def("convolution_path", [](bool transposed, Sizes input, Sizes weight, Sizes output, Sizes stride, Sizes sides,
                               Sizes dilation, int64_t groups, int dtype, bool cuda, bool channels_last, int pass,
                               bool need_input) {
    const auto path = sdgan::convolution_path({transposed, std::move(input), std::move(weight), std::move(output),
                                               std::move(stride), std::move(sides), std::move(dilation), groups,
                                               static_cast<sdgan::DType>(dtype), cuda, channels_last,
                                               static_cast<sdgan::ConvolutionPass>(pass), need_input});
    return py::make_tuple(path.name(), path.reason, path.speedup, path.multiplications);
  });
  m.def("ask_tf32", [](py::function question) {  // called from any thread, when a float32 convolution runs on CUDA
    sdgan::ask_tf32([question = std::move(question)] {
      const py::gil_scoped_acquire gil;
      return question().cast<bool>();
    });
  });
}
