"""What is missing at build time ends in one sentence with the command that helps, and in no traceback."""

import os
import sys
import venv
from pathlib import Path

import pytest
from conftest import programs, run, without


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """An interpreter with this one's packages, but with no program such as ninja beside it."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    (packages / "here.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return python


def refusal(python, sources, hidden=None, **environment) -> str:
    """The sentence that ``pip wheel`` ends in. ``hidden``: Python modules to replace, name -> source."""
    fakes = sources.parent / "fakes"
    fakes.mkdir()
    for name, source in (hidden or {}).items():
        (fakes / f"{name}.py").write_text(source)
    command = [python, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "."]
    failed = run(*command, cwd=sources, PYTHONPATH=str(fakes), **environment)
    assert failed.returncode != 0
    assert "Traceback" not in failed.stdout, failed.stdout
    said = [line.strip() for line in failed.stdout.splitlines() if "sdgan_ext: " in line]
    assert len(said) == 1, failed.stdout
    assert "`" in said[0] and "\n" not in said[0], "no command that helps"
    return said[0]


MISSING = "raise ImportError('No module named ' + repr(__name__))"


@pytest.mark.parametrize(
    ("hidden", "sentence"),
    [
        ({"torch": MISSING}, "torch is missing in the build environment (No module named 'torch'); run `pip install"),
        ({"torch": "raise OSError('libcudart.so: cannot open')"}, "torch is missing in the build environment (libcuda"),
        ({"torch": "__version__ = '2.10.1+cu126'"}, "torch 2.10.1+cu126 is too old, 2.11 or newer is needed; run `pip"),
        ({"pybind11": MISSING}, "pybind11 is missing in the build environment"),
        ({"pybind11": "__version__ = '2.9.0'"}, "pybind11 2.9.0 is too old, 2.12 or newer is needed"),
        ({"sitecustomize": "import setuptools; setuptools.__version__ = '65.5.0'"}, "setuptools 65.5.0 is too old"),
    ],
)
def test_python_packages(fresh, hidden, sentence):
    assert f"sdgan_ext: {sentence}" in refusal(sys.executable, fresh, hidden)


def test_no_cmake(bare_python, fresh, tmp_path):
    said = refusal(bare_python, fresh, {"cmake": MISSING}, PATH=programs(tmp_path / "bin"))
    assert said == "sdgan_ext: CMake is missing; run `pip install 'cmake>=3.28'`"


def test_old_cmake(bare_python, fresh, tmp_path):
    path = programs(tmp_path / "bin", cmake="echo cmake version 3.25.1")
    said = refusal(bare_python, fresh, {"cmake": MISSING}, PATH=path)
    assert "cmake version 3.25.1" in said and "too old; run `pip install 'cmake>=3.28'`" in said


def test_an_old_cmake_on_the_path_does_not_hide_the_new_one_of_pip(bare_python, fresh, tmp_path):
    path = programs(tmp_path / "bin", cmake="echo cmake version 3.25.1")
    assert "ninja is missing" in refusal(bare_python, fresh, PATH=path)


def test_no_ninja(bare_python, fresh, tmp_path):
    said = refusal(bare_python, fresh, PATH=programs(tmp_path / "bin"))
    assert said == "sdgan_ext: ninja is missing; run `pip install ninja`"


@pytest.mark.parametrize("compiler", [{}, {"CXX": "no-such-compiler"}])
def test_no_compiler(fresh, tmp_path, compiler):
    said = refusal(sys.executable, fresh, PATH=programs(tmp_path / "bin"), **compiler)
    assert "no C++ compiler" in said and "run `apt-get install g++`" in said


def test_a_compiler_installed_after_the_refusal_is_found(fresh, tmp_path):
    refusal(sys.executable, fresh, PATH=programs(tmp_path / "bin"))
    configure = [sys.executable, "setup.py", "dist_info", "-o", tmp_path]
    configured = run(*configure, cwd=fresh)
    assert configured.returncode == 0, configured.stdout


def test_cuda_without_nvcc(fresh):
    said = refusal(sys.executable, fresh, SDGAN_CUDA="ON", CUDA_HOME="")
    assert said.startswith("sdgan_ext: SDGAN_CUDA=ON needs nvcc") and "`SDGAN_CUDA=OFF pip install .`" in said


def test_cuda_typo(fresh):
    said = refusal(sys.executable, fresh, SDGAN_CUDA="yes")
    assert said.startswith("sdgan_ext: SDGAN_CUDA is 'yes', allowed are AUTO, ON and OFF; run `SDGAN_CUDA=AUTO pip")


def test_make_refuses_a_wrong_python(tmp_path):
    makefile = Path(__file__).parents[2] / "Makefile"
    path = os.pathsep.join([programs(tmp_path / "bin", python9="exit 1"), without("nvcc")])
    (tmp_path / "pyproject.toml").write_text("")
    refused = run("make", "-f", makefile, "PYTHON=python9", ".venv/torch", cwd=tmp_path, PATH=path)
    assert refused.returncode != 0
    assert "sdgan_ext: Python 3.10 or newer is needed, 'python9' is not; run `make PYTHON=python3.12`" in refused.stdout


def test_make_takes_a_python_above_the_tested_ones(tmp_path):
    """It says so and goes on, here to a venv module that fails."""
    makefile = Path(__file__).parents[2] / "Makefile"
    python = 'case "$*" in *"3, 14"*|"-m venv"*) exit 1;; esac'
    path = os.pathsep.join([programs(tmp_path / "bin", python9=python), without("nvcc")])
    (tmp_path / "pyproject.toml").write_text("")
    made = run("make", "-f", makefile, "PYTHON=python9", ".venv/torch", cwd=tmp_path, PATH=path)
    assert "sdgan_ext: 'python9' is newer than Python 3.10 to 3.13, which are tested" in made.stdout
    assert "is needed" not in made.stdout and "python9 -m venv .venv" in made.stdout
