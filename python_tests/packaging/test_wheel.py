"""sdist -> wheel -> a clean environment that imports and trains; what is in each, and what is not."""

import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import run


def pip_wheel(sources, target, *options, **environment) -> tuple[Path, str]:
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "-w", target, *options, sources]
    made = run(*command, cwd=target.parent, SDGAN_CUDA="OFF", **environment)
    assert made.returncode == 0, made.stdout[-6000:]
    return max(target.glob("*.whl"), key=lambda file: file.stat().st_mtime_ns), made.stdout


def content(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory) -> Path:
    return pip_wheel(unpacked, tmp_path_factory.mktemp("wheel") / "dist", "--no-build-isolation")[0]


def test_sdist_holds_the_sources_and_no_product(sdist):
    with tarfile.open(sdist) as archive:
        files = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    for needed in ("CMakeLists.txt", "setup.py", "csrc/module.cpp", "csrc/kernels/scalar.h", "csrc/tests/main.cpp"):
        assert needed in files
    assert "sdgan_ext/evaluation/nets/lenet.safetensors" in files
    assert "sdgan_ext/ops/reference/functions.py" in files and "LICENSE" in files
    assert not [name for name in files if name.startswith("build") or name.endswith((".so", ".pyc"))]


def test_wheel_holds_the_package_alone(wheel):
    files = content(wheel)
    assert {name.split("/")[0].split("-")[0] for name in files} == {"sdgan_ext"} and "sdgan_ext/py.typed" in files
    assert len([name for name in files if name.endswith(".so")]) == 1
    nets = {name for name in files if name.endswith(".safetensors")}
    assert nets == {f"sdgan_ext/evaluation/nets/{name}.safetensors" for name in ("lenet", "photos")}
    assert not [name for name in files if re.search(r"\.(cpp|h|o|a|cu)$|__pycache__|CMake", name)]


def test_library_leads_nowhere_on_the_building_machine(wheel, tmp_path):
    if not shutil.which("readelf"):
        pytest.skip("readelf (binutils) reads the library's header")
    library = next(name for name in content(wheel) if name.endswith(".so"))
    dynamic = subprocess.run(
        ["readelf", "-d", zipfile.ZipFile(wheel).extract(library, tmp_path)], capture_output=True, text=True
    )
    assert "libtorch_cpu" in dynamic.stdout
    assert not re.search("RPATH|RUNPATH|cuda", dynamic.stdout)


def test_library_asks_torch_for_its_stable_abi_alone(wheel, tmp_path):
    """C functions, no C++ of torch's: so one wheel serves every torch from 2.11 on."""
    if not shutil.which("nm"):
        pytest.skip("nm (binutils) reads the library's symbols")
    library = next(name for name in content(wheel) if name.endswith(".so"))
    command = ["nm", "--dynamic", "--undefined-only", "--demangle", zipfile.ZipFile(wheel).extract(library, tmp_path)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    symbols = [line[19:] for line in listing.splitlines()]
    assert "aoti_torch_get_numel" in symbols and "torch_call_dispatcher" in symbols
    assert not [symbol for symbol in symbols if re.search(r"\b(at|c10|torch|caffe2)::", symbol)]


def test_builds_are_incremental_and_leave_nothing_behind(wheel, unpacked, tmp_path):
    stray = unpacked / "sdgan_ext" / "stray.py"
    stray.write_text("")
    first, log = pip_wheel(unpacked, tmp_path / "first", "--no-build-isolation")
    stray.unlink()
    second, _ = pip_wheel(unpacked, tmp_path / "second", "--no-build-isolation")
    assert "ninja: no work to do" in log
    assert "sdgan_ext/stray.py" in content(first)
    assert "sdgan_ext/stray.py" not in content(second)


def test_isolated_build_in_a_used_tree(fresh, tmp_path):
    """The tree was configured for this environment's torch. Unoptimised: nothing of it is run."""
    quick = {"CMAKE_BUILD_TYPE": "Debug", "SDGAN_CUDA": "OFF"}
    configured = run(sys.executable, "setup.py", "dist_info", "-o", tmp_path, cwd=fresh, **quick)
    assert configured.returncode == 0, configured.stdout
    made, log = pip_wheel(fresh, tmp_path / "dist", CMAKE_BUILD_TYPE="Debug")
    assert any(name.endswith(".so") for name in content(made))
    assert "Building CXX object" in log


def test_clean_environment_imports_and_trains(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    here = tmp_path / "venv" / "bin"
    installed = run(here / "pip", "install", wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stdout[-3000:]
    smoke = run(here / "python", Path(__file__).with_name("smoke.py"), cwd=tmp_path)
    assert smoke.returncode == 0, smoke.stdout
    assert re.search(r"^sdgan_ext [\d.]+ works with torch .*; CUDA: SDGAN_CUDA=OFF$", smoke.stdout, re.MULTILINE)
    assert run(here / "sdgan-ext", "doctor", cwd=tmp_path).returncode == 0
