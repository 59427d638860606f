"""The rules that hold the three layers apart (docs/design.md), read from the sources."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NATIVE = {".h", ".cpp", ".cu", ".cuh"}
PYTHON_FOLDERS = ("sdgan_ext", "python_tests", "benchmarks")

#: Where a family of ops has a file of its name.
FILES = ("sdgan_ext/ops/{}.py", "python_tests/ops/test_{}.py", "benchmarks/bench_{}.py")
KERNEL_FILES = (
    "csrc/kernels/{}.h",
    "csrc/kernels/cpu/{}.cpp",
    "csrc/kernels/cuda/{}.cu",
    "csrc/tests/test_{}.cpp",
)
#: All are one linear map or its transpose: their kernels are backends, which have a folder in kernels and in ops.
CONVOLUTIONS = ("conv2d", "conv_transpose2d", "upsample_conv2d")
BACKENDS = ("small_channel", "winograd", "implicit_gemm", "library")


def binding_of(family: str) -> str:
    return f"csrc/ops/{'conv/' if family in CONVOLUTIONS else ''}{family}.cpp"


def cuda_files() -> list[Path]:
    return [path for path in native_files("csrc/kernels") if path.suffix in (".cu", ".cuh")]


def native_files(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in NATIVE)


def python_files() -> list[Path]:
    return [ROOT / "setup.py", *(path for folder in PYTHON_FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(), re.MULTILINE)


def operators() -> list[str]:
    names = re.findall(r'"(\w+)\(', (ROOT / "csrc/ops/library.cpp").read_text())
    assert "adversarial_loss" in names
    return names


def families() -> list[str]:
    return sorted({name.removesuffix("_backward").removesuffix("_out") for name in operators()})


@pytest.mark.parametrize("path", native_files("csrc/kernels") + native_files("csrc/tests"), ids=relative)
def test_kernels_know_no_torch(path):
    assert not [name for name in includes(path) if re.match("torch/|ATen/|c10/|pybind11/|Python.h|ops/", name)]


@pytest.mark.parametrize("path", native_files("csrc"), ids=relative)
def test_nobody_includes_the_unstable_headers(path):
    """torch/csrc/stable and torch/headeronly alone: one binary for every torch from 2.11 on."""
    torch = [name for name in includes(path) if re.match("torch/|ATen/|c10/", name)]
    assert not [
        name for name in torch if not re.match("torch/(csrc/stable|csrc/inductor/aoti_torch/c|headeronly)/", name)
    ]


def test_module_binds_no_tensor():
    """pybind11 and the stable ABI live in one library as long as they never meet, headers of headers included."""
    seen, ahead = set(), {ROOT / "csrc/module.cpp"}
    while ahead:
        path = ahead.pop()
        seen.add(path)
        ahead |= {ROOT / "csrc" / name for name in includes(path) if (ROOT / "csrc" / name).exists()} - seen
    assert len(seen) > 2
    assert not [name for path in seen for name in includes(path) if re.match("torch/|ATen/|c10/", name)]


@pytest.mark.parametrize("family", families())
def test_one_op_has_one_name_in_every_layer(family):
    files = [file.format(family) for file in (FILES if family in CONVOLUTIONS else FILES + KERNEL_FILES)]
    files.append(binding_of(family))
    assert not [file for file in files if not (ROOT / file).exists()]


@pytest.mark.parametrize("operator", operators())
def test_an_operator_is_implemented_in_the_file_of_its_family(operator):
    file = binding_of(operator.removesuffix("_backward").removesuffix("_out"))
    assert f'm.impl("{operator}"' in (ROOT / file).read_text()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_is_one_file_of_the_binding_and_knows_no_other(backend):
    text = (ROOT / f"csrc/ops/conv/{backend}.cpp").read_text()
    name = "".join(word.capitalize() for word in backend.split("_"))
    assert f'const Backend k{name}Backend{{"{backend}"' in text
    others = [other for other in BACKENDS if other not in (backend, "library")]
    assert not [other for other in others if f"kernels/conv/{other}" in text]


def test_the_choice_of_a_backend_knows_no_tensor():
    """What sd.explain asks without tensors, the dispatcher asks with the same structs."""
    for path in native_files("csrc/kernels/conv"):
        assert not [name for name in includes(path) if name.startswith("ops/")]
    for header in ("dispatch.h", "benchmark.h"):
        assert not [name for name in includes(ROOT / "csrc/ops/conv" / header) if "torch" in name or "common.h" in name]


def test_one_geometry():
    """The relation between the two sides of a convolution is defined in geometry.h alone."""
    for path in native_files("csrc"):
        if path.name != "geometry.h":
            text = path.read_text()
            assert not re.search(r"(enum class|struct) \w*(Pass|Residue|Axis)\b(?!.*: )", text), relative(path)


def test_every_kernel_is_in_the_build():
    listed = (ROOT / "CMakeLists.txt").read_text()
    for path in native_files("csrc/kernels") + native_files("csrc/ops"):
        if path.suffix in (".cpp", ".cu"):
            assert relative(path) in listed
    for path in sorted((ROOT / "csrc/tests").glob("test_*.cpp")):
        assert f"\n  {path.stem.removeprefix('test_')}\n" in listed


def test_cuda_kernels_keep_to_the_dialect():
    """What the C++ compiler can run too (docs/cuda.md): one door to CUDA, PTX in its wrappers, no float atomics."""
    doors = {"portable.cuh", "ptx.cuh", "sm90.cuh", "elements.cuh"}
    for path in cuda_files():
        if path.name not in doors:
            code = re.sub(r"//.*", "", path.read_text())
            assert not re.search(r"<<<|atomicAdd|\basm\b|#include <(cuda|mma|cooperative)", code), relative(path)


def test_every_cuda_kernel_is_in_the_table_of_the_documents():
    table = (ROOT / "docs/cuda.md").read_text()
    kernels = {
        name for path in cuda_files() for name in re.findall(r"__global__[^;{]*?\b(\w+_kernel)\(", path.read_text())
    }
    assert len(kernels) > 20
    assert not [name for name in kernels if f"`{name}<" not in table and f"`{name}`" not in table]


def test_environment_variables_are_named_in_one_file():
    """Those of the build are read in setup.py; the native code may read one that Python has checked."""
    env = (ROOT / "sdgan_ext/_env.py").read_text()
    known = set(re.findall(r'"(SDGAN_\w+)"', env))
    assert known and known == set(re.findall(r"(SDGAN_\w+):", env)), "each has its line of explanation"
    for path in (ROOT / "sdgan_ext").rglob("*.py"):
        if path.name != "_env.py":
            assert not re.search(r"(environ[.\[]|getenv\().*SDGAN_", path.read_text()), relative(path)
    for path in native_files("csrc/kernels") + native_files("csrc/ops"):
        assert set(re.findall(r'getenv\("(\w+)"', path.read_text())) <= known, relative(path)


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_torchvision_is_never_imported(path):
    assert not re.search(
        r"^\s*(import|from)\s+(torchvision|lpips|timm|torch_fidelity)\b", path.read_text(), re.MULTILINE
    )


def test_importing_the_package_imports_no_torchvision():
    code = "import sys, sdgan_ext.evaluation; print([name for name in sys.modules if name.startswith('torchvision')])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stderr


def test_setup_is_short_and_names_no_source():
    text = (ROOT / "setup.py").read_text()
    assert len(text.splitlines()) <= 100
    assert not re.search(r"\.(cpp|cu)\b|-O[0-3]|-std=", text)


def test_no_flag_breaks_nan_or_portability():
    assert not re.search(r"[^\w](-ffast-math|--use_fast_math|-march=native)\b", strip_comments("CMakeLists.txt"))


def strip_comments(name: str) -> str:
    return re.sub(r"#.*", "", (ROOT / name).read_text())
