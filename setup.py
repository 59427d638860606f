"""Hands the native build to CMake: environment -> -D flags. Sources, flags and architectures are in CMakeLists.txt.

Read here: SDGAN_CUDA, SDGAN_WERROR, MAX_JOBS; by CMake: CXX, CUDACXX, CUDA_HOME, TORCH_CUDA_ARCH_LIST."""

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.dist_info import dist_info

ROOT = Path(__file__).parent.resolve()
BUILD = ROOT / "build" / f"native-{sys.implementation.cache_tag}"  # kept between calls, unlike pip's own folders


def stop(sentence):
    """A build that cannot succeed ends in one sentence that names what is missing and the command that helps."""
    raise SystemExit(f"sdgan_ext: {sentence}")


def older(version, floor):
    return [int(n) for n in re.findall(r"\d+", version)[:2]] < [int(n) for n in floor.split(".")]


def module(name, floor):
    """The module `name`, at least of version `floor` (as in pyproject.toml)."""
    fix = f"run `pip install -U '{name}>={floor}'`, then `pip install --no-build-isolation .`"
    try:
        found = import_module(name)
    except (ImportError, OSError) as error:
        stop(f"{name} is missing in the build environment ({error}); {fix}")
    if older(found.__version__, floor):
        stop(f"{name} {found.__version__} is too old, {floor} or newer is needed; {fix}")
    return found


def cmake_program(floor="3.28"):
    """pip's CMake, or else one on PATH that is new enough."""
    try:
        return str(Path(import_module("cmake").CMAKE_BIN_DIR, "cmake"))
    except ImportError:
        path = shutil.which("cmake") or stop(f"CMake is missing; run `pip install 'cmake>={floor}'`")
    version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    too_old = f"{version.splitlines()[0]} ({path}) is too old; run `pip install 'cmake>={floor}'`"
    return stop(too_old) if older(version, floor) else path


def configure(version):
    """Checks all that the build needs and runs CMake's first half; returns CMake."""
    torch = module("torch", "2.11")
    cpp_extension = import_module("torch.utils.cpp_extension")
    pybind11, cmake = module("pybind11", "2.12"), cmake_program()
    ninja = shutil.which("ninja", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    options = {
        "CMAKE_MAKE_PROGRAM": ninja or stop("ninja is missing; run `pip install ninja`"),
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "SDGAN_TORCH_INCLUDE": ";".join(cpp_extension.include_paths()),
        "SDGAN_TORCH_LIB": ";".join(cpp_extension.library_paths()),
        "SDGAN_TORCH_CUDA": torch.version.cuda or "",
        "SDGAN_VERSION": version,
        "SDGAN_CUDA": os.environ.get("SDGAN_CUDA", "AUTO"),
        "SDGAN_WERROR": os.environ.get("SDGAN_WERROR", "OFF"),
    }
    flags = [f"-D{name}={value}" for name, value in options.items()]
    ran = subprocess.run([cmake, "-S", ROOT, "-B", BUILD, "-G", "Ninja", *flags], capture_output=True, text=True)
    if ran.returncode and (sentence := re.search("^sdgan_ext: (.*)", ran.stderr, re.MULTILINE)):
        stop(sentence[1])
    print(ran.stdout + ran.stderr, flush=True)
    return stop("CMake could not configure the build, its lines above say why") if ran.returncode else cmake


class ConfigureFirst(dist_info):
    def run(self):  # pip's first step: a build that must fail does so before pip downloads the dependencies
        configure(self.distribution.get_version())
        super().run()


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        command = [configure(self.distribution.get_version()), "--build", BUILD, "--target", "_C"]
        if subprocess.run(command + ["-j", os.environ.get("MAX_JOBS") or str(os.cpu_count())]).returncode:
            stop("the C++ build failed, the compiler's lines above say why")
        target = Path(self.get_ext_fullpath(ext.name))
        self.mkpath(str(target.parent))
        self.copy_file(str(BUILD / target.name), str(target))


module("setuptools", "77")
shutil.rmtree(BUILD / "lib", ignore_errors=True)  # a file that was removed from the sources must not live on in a wheel
setup(
    ext_modules=[Extension("sdgan_ext._C", sources=[])],
    cmdclass={"dist_info": ConfigureFirst, "build_ext": CMakeBuild},
    options={"build": {"build_lib": str(BUILD / "lib")}},
)
