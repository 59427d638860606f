"""The compiled kernels: no function built for one instruction set can be linked in for another; the CUDA half."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, programs, run, without


def test_instruction_sets_share_no_function(tmp_path):
    """A weak function outside sdgan::<isa> is kept once by the linker, maybe the one that this CPU cannot run."""
    library = ROOT / "build" / f"native-{sys.implementation.cache_tag}" / "libsdgan_kernels.a"
    if not shutil.which("nm") or not library.exists():
        pytest.skip("nm (binutils) reads libsdgan_kernels.a, which the editable build leaves behind")
    listing = subprocess.run(["nm", "-A", "-C", "--defined-only", library], capture_output=True, text=True, check=True)
    lines = [line for line in listing.stdout.splitlines() if ".cu.o:" not in line]  # those know one instruction set
    assert any("sdgan::avx512::" in line for line in lines) or "generic" in listing.stdout
    weak = {match[1] for line in lines if (match := re.search(r":\w{16} [Wu] (.*)", line))}
    shared = {name for name in weak if not re.search(r"sdgan::(generic|avx2|avx512)::", name)}
    assert not shared


def configure(sources: Path, build: Path, *options, **environment):
    cmake = shutil.which("cmake", path=Path(sys.executable).parent)
    ninja = shutil.which("ninja", path=Path(sys.executable).parent)
    command = [cmake, "-S", sources, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", *options]
    return run(*command, cwd=build.parent, **environment), cmake


def chosen(log: str) -> tuple[str, list[str]]:
    """Who named the architectures, and the architectures."""
    line = re.search(r"CUDA kernels: yes \(nvcc .*\), for (.*): (.*)", log)
    assert line, log
    return line[1], line[2].split(";")


def test_cuda_auto_without_nvcc_says_why(tmp_path):
    configured, _ = configure(ROOT, tmp_path / "build", "-DSDGAN_TORCH_CUDA=13.0")
    assert "CUDA kernels: no (no nvcc on PATH" in configured.stdout


@pytest.fixture(scope="module")
def torch_cuda() -> str:
    """As if torch had been built for nvcc's CUDA."""
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
    return f"-DSDGAN_TORCH_CUDA={re.search(r'release ([0-9.]+)', said)[1]}"


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc (the CUDA toolkit)")
class TestWithNvcc:
    nvcc = shutil.which("nvcc")

    def configure(self, build: Path, *options, **environment):
        environment = {"CUDACXX": self.nvcc, "TORCH_CUDA_ARCH_LIST": ""} | environment
        return configure(ROOT, build, *options, **environment)

    def test_auto_leaves_cuda_out_for_a_torch_without_it(self, tmp_path):
        configured, _ = self.configure(tmp_path / "build", "-DSDGAN_TORCH_CUDA=")
        assert configured.returncode == 0, configured.stdout
        assert "CUDA kernels: no (no torch with CUDA to build against)" in configured.stdout

    def test_on_builds_every_architecture_for_any_torch(self, tmp_path):
        path = os.pathsep.join([programs(tmp_path / "bin", nvidia_smi="echo 8.6"), without("nvcc")])
        configured, _ = self.configure(tmp_path / "build", "-DSDGAN_CUDA=ON", "-DSDGAN_TORCH_CUDA=", PATH=path)
        source, architectures = chosen(configured.stdout)
        assert source == "every architecture"
        assert "75-real" in architectures and "90-real" in architectures and "90a-real" in architectures
        assert [arch for arch in architectures if arch.endswith("virtual")] == [architectures[-1]]
        assert architectures[-1].replace("virtual", "real") == architectures[-2]

    @pytest.mark.parametrize(
        ("cards", "source", "architectures"),
        [
            ("echo 9.0; echo 8.6; echo 9.0", "the visible cards", ["90a-real", "86-real"]),
            ("echo 99.0; echo 8.6", "every architecture", None),  # one that this nvcc does not know
            ("echo NVIDIA-SMI has failed; exit 9", "every architecture", None),
        ],
    )
    def test_auto_builds_for_the_visible_cards(self, tmp_path, torch_cuda, cards, source, architectures):
        path = os.pathsep.join([programs(tmp_path / "bin", nvidia_smi=cards), without("nvcc")])
        configured, _ = self.configure(tmp_path / "build", torch_cuda, PATH=path)
        found = chosen(configured.stdout)
        assert found[0] == source
        assert found[1] == architectures if architectures else len(found[1]) > 5

    def test_asked_architectures_compile(self, tmp_path, torch_cuda):
        path = os.pathsep.join([programs(tmp_path / "bin", nvidia_smi="echo 8.6"), without("nvcc")])
        asked = {"TORCH_CUDA_ARCH_LIST": "8.0 9.0a+PTX", "PATH": path}
        configured, cmake = self.configure(tmp_path / "build", torch_cuda, **asked)
        assert chosen(configured.stdout) == ("TORCH_CUDA_ARCH_LIST", ["80-real", "90a-real", "90a-virtual"])
        one = "CMakeFiles/sdgan_kernels.dir/csrc/kernels/cuda/adversarial_loss.cu.o"
        built = run(cmake, "--build", tmp_path / "build", "--target", one, cwd=tmp_path)
        assert built.returncode == 0, built.stdout
        report = run(sys.executable, ROOT / "csrc/cuda_resources.py", tmp_path / "build", cwd=tmp_path)
        assert report.returncode == 0 and "each for sm_80, sm_90a" in report.stdout, report.stdout

    def test_torch_of_another_cuda(self, tmp_path):
        other = "-DSDGAN_TORCH_CUDA=9.2"
        configured, _ = self.configure(tmp_path / "auto", other)
        assert re.search(r"CUDA kernels: no \(nvcc is [\d.]+, torch was built for CUDA 9.2\)", configured.stdout)
        configured, _ = self.configure(tmp_path / "on", other, "-DSDGAN_CUDA=ON")
        assert configured.returncode != 0
        assert "torch was built for CUDA 9.2, and the first numbers must be the same; run `" in configured.stdout

    def test_wrong_architectures(self, tmp_path, torch_cuda):
        configured, _ = self.configure(tmp_path / "build", torch_cuda, TORCH_CUDA_ARCH_LIST="Hopper")
        assert configured.returncode != 0
        assert "sdgan_ext: TORCH_CUDA_ARCH_LIST has 'Hopper'; write it like `TORCH_CUDA_ARCH_LIST=" in configured.stdout
