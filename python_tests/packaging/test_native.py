"""The compiled kernels: no function built for one instruction set can be linked in for another; the CUDA half."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run


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


def test_cuda_auto_without_nvcc_says_why(tmp_path):
    configured, _ = configure(ROOT, tmp_path / "build")
    assert "CUDA kernels: no (no nvcc on PATH" in configured.stdout


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc (the CUDA toolkit)")
class TestWithNvcc:
    nvcc = shutil.which("nvcc")

    def test_default_architectures(self, tmp_path):
        configured, _ = configure(ROOT, tmp_path / "build", CUDACXX=self.nvcc)
        assert configured.returncode == 0, configured.stdout
        chosen = re.search(r"CUDA kernels: yes \(nvcc .*\), for (.*)", configured.stdout)[1].split(";")
        assert "75-real" in chosen and "90-real" in chosen and "90a-real" in chosen
        assert [arch for arch in chosen if arch.endswith("virtual")] == [chosen[-1]]
        assert chosen[-1].replace("virtual", "real") == chosen[-2]

    def test_asked_architectures_compile(self, tmp_path):
        asked = {"CUDACXX": self.nvcc, "TORCH_CUDA_ARCH_LIST": "8.0 9.0a+PTX"}
        configured, cmake = configure(ROOT, tmp_path / "build", **asked)
        assert "for 80-real;90a-real;90a-virtual" in configured.stdout, configured.stdout
        one = "CMakeFiles/sdgan_kernels.dir/csrc/kernels/cuda/adversarial_loss.cu.o"
        built = run(cmake, "--build", tmp_path / "build", "--target", one, cwd=tmp_path)
        assert built.returncode == 0, built.stdout
        report = run(sys.executable, ROOT / "csrc/cuda_resources.py", tmp_path / "build", cwd=tmp_path)
        assert report.returncode == 0 and "each for sm_80, sm_90a" in report.stdout, report.stdout

    def test_torch_of_another_cuda(self, tmp_path):
        other = "-DSDGAN_TORCH_CUDA=9.2"
        configured, _ = configure(ROOT, tmp_path / "auto", other, CUDACXX=self.nvcc)
        assert re.search(r"CUDA kernels: no \(nvcc is [\d.]+, torch was built for CUDA 9.2\)", configured.stdout)
        configured, _ = configure(ROOT, tmp_path / "on", other, "-DSDGAN_CUDA=ON", CUDACXX=self.nvcc)
        assert configured.returncode != 0
        assert "torch was built for CUDA 9.2, and the first numbers must be the same; run `" in configured.stdout

    def test_wrong_architectures(self, tmp_path):
        asked = {"CUDACXX": self.nvcc, "TORCH_CUDA_ARCH_LIST": "Hopper"}
        configured, _ = configure(ROOT, tmp_path / "build", **asked)
        assert configured.returncode != 0
        assert "sdgan_ext: TORCH_CUDA_ARCH_LIST has 'Hopper'; write it like `TORCH_CUDA_ARCH_LIST=" in configured.stdout
