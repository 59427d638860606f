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
    assert "sdgan_ext/ops/reference.py" in files and "LICENSE" in files
    assert not [name for name in files if name.startswith("build") or name.endswith((".so", ".pyc"))]


def test_wheel_holds_the_package_alone(wheel):
    files = content(wheel)
    assert {name.split("/")[0].split("-")[0] for name in files} == {"sdgan_ext"}
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


def test_builds_are_incremental_and_leave_nothing_behind(wheel, unpacked, tmp_path):
    stray = unpacked / "sdgan_ext" / "stray.py"
    stray.write_text("")
    first, log = pip_wheel(unpacked, tmp_path / "first", "--no-build-isolation")
    stray.unlink()
    second, _ = pip_wheel(unpacked, tmp_path / "second", "--no-build-isolation")
    assert "ninja: no work to do" in log
    assert "sdgan_ext/stray.py" in content(first)
    assert "sdgan_ext/stray.py" not in content(second)


def test_isolated_build_in_a_used_tree(unpacked, tmp_path):
    made, _ = pip_wheel(unpacked, tmp_path / "dist")
    assert any(name.endswith(".so") for name in content(made))


def test_clean_environment_imports_and_trains(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    here = tmp_path / "venv" / "bin"
    installed = run(here / "pip", "install", wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stdout[-3000:]
    show = "import sdgan_ext as sd; info = sd.build_info(); assert not info['cuda']; print(info['cuda_reason'])"
    imported = run(here / "python", "-c", show, cwd=tmp_path)
    assert imported.stdout.strip() == "SDGAN_CUDA=OFF", imported.stdout
    train = "train --preset mnist-small --data digits --steps 2 --out runs".split()
    trained = run(here / "sdgan-ext", *train, cwd=tmp_path)
    assert trained.returncode == 0, trained.stdout
    assert list(tmp_path.glob("runs/*/model/model.safetensors"))
    assert run(here / "sdgan-ext", "doctor", cwd=tmp_path).returncode == 0
