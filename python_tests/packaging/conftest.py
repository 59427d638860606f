"""A copy of the sources to build in, and pip as a user runs it, with nvcc out of sight."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.packaging)


def without(program: str) -> str:
    """PATH without the folders that hold ``program``."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if not Path(folder, program).exists())


def programs(folder: Path, **scripts) -> str:
    """A PATH that holds only the given shell scripts, name -> body; `_` in a name stands for `-`."""
    folder.mkdir()
    for name, body in scripts.items():
        program = folder / name.replace("_", "-")
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    return str(folder)


def run(*command, cwd, timeout=900, **environment):
    """Runs the command; stdout and stderr come back as one text."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SDGAN_", "CUDA"))}
    env |= {"PATH": without("nvcc"), "PIP_CONSTRAINT": str(ROOT / "build" / "constraints.txt")} | environment
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        timeout=timeout,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="session", autouse=True)
def constraints():
    """Isolated builds take the torch that is here, so that nothing else is downloaded."""
    import torch

    file = ROOT / "build" / "constraints.txt"
    file.write_text(f"torch=={torch.__version__.split('+')[0]}\n")


@pytest.fixture(scope="session")
def sdist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    build = "from setuptools import build_meta; import sys; build_meta.build_sdist(sys.argv[1])"
    made = run(sys.executable, "-c", build, folder, cwd=ROOT)
    assert made.returncode == 0, made.stdout
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def unpacked(sdist) -> Path:
    """The sources as the sdist holds them; the build folder in them is shared by the session's tests."""
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent)
    return sdist.parent / sdist.name.removesuffix(".tar.gz")


@pytest.fixture
def fresh(unpacked, tmp_path) -> Path:
    """The sources without a build folder."""
    return shutil.copytree(unpacked, tmp_path / "sources", ignore=shutil.ignore_patterns("build"))
