"""Examples run as a user runs them: a program of their own, in a folder of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """The sources beside these tests come before an installed sdgan_ext; one thread is enough for tiny models."""
    before = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])]),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def run_example(tmp_path) -> Callable[..., str]:
    """Runs ``examples/NAME`` with the given flags in ``tmp_path`` and returns what it prints."""

    def run(name: str, *flags: str) -> str:
        command = [sys.executable, str(ROOT / "examples" / name), *flags]
        ran = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


@pytest.fixture
def example_environment(monkeypatch) -> None:
    """That environment for processes that this one starts itself."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
