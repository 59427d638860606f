"""Hands the native build to CMake: environment -> -D flags. Sources, flags and architectures are in CMakeLists.txt."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
TORCH_FLOOR = (2, 11)


def stop(sentence):
    """A build that cannot succeed ends in one sentence that names what is missing and the command that helps."""
    raise SystemExit(f"sdgan_ext: {sentence}")


def torch_paths():
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError:
        stop(
            "PyTorch is missing in the build environment; run `pip install 'torch>=2.11'`, then "
            "`pip install --no-build-isolation .`"
        )
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < TORCH_FLOOR:
        stop(f"torch {torch.__version__} is too old, 2.11 or newer is needed; run `pip install -U 'torch>=2.11'`")
    return cpp_extension.include_paths(), cpp_extension.library_paths()


def tool(name, fix):
    """The program `name` that belongs to this Python, or the one on PATH."""
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    return path or stop(f"{name} is missing; run `{fix}`")


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        include, lib = torch_paths()
        cmake = tool("cmake", "pip install 'cmake>=3.28'")
        ninja = tool("ninja", "pip install ninja")
        if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
            stop("no C++ compiler was found; run `apt-get install g++` (or your system's equivalent)")
        try:
            import pybind11
        except ImportError:
            stop("pybind11 is missing in the build environment; run `pip install 'pybind11>=2.12'`")
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        configure = [
            cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DSDGAN_TORCH_INCLUDE={';'.join(include)}",
            f"-DSDGAN_TORCH_LIB={';'.join(lib)}",
            f"-DSDGAN_VERSION={self.distribution.get_version()}",
            f"-DSDGAN_CUDA={os.environ.get('SDGAN_CUDA', 'AUTO')}",
            f"-DSDGAN_WERROR={os.environ.get('SDGAN_WERROR', 'OFF')}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
        ]  # fmt: skip
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        for command in (configure, [cmake, "--build", str(build), "--target", "_C", "-j", jobs]):
            if subprocess.run(command).returncode:
                stop(f"the native build failed, see the lines above (`{' '.join(command[:3])} ...`)")


setup(ext_modules=[Extension("sdgan_ext._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
