import numpy as np
import pytest
from command_line import TINY

from sdgan_ext.cli import main


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "dots.npz"
    np.savez(path, np.random.default_rng(0).integers(0, 256, (16, 8, 10, 3), dtype=np.uint8))
    return str(path)


@pytest.fixture(scope="session")
def run(tmp_path_factory, data):
    out = tmp_path_factory.mktemp("runs")
    assert main(["train", "--data", data, "--out", str(out), *TINY]) == 0
    return out / "00000-vaegan-dots.npz"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
