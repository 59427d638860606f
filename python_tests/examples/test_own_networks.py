"""examples/own_networks.py in its shortest form: it trains MNIST or digits, and its checkpoint resumes bit-exactly."""

import importlib.util
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("one_thread")

FILE = Path(__file__).parents[2] / "examples" / "own_networks.py"
MNIST = Path(os.environ.get("SDGAN_TEST_DATA", "none")) / "mnist"


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("own_networks", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_trains_and_resumes_bit_exactly(example, tmp_path):
    data = str(MNIST) if MNIST.is_dir() else "digits"
    common = ["--data", data, "--batch-size", "8"]
    whole = Path(example.main([*common, "--steps", "6", "--out", str(tmp_path / "whole")]))
    half = example.main([*common, "--steps", "3", "--out", str(tmp_path / "half")])
    resumed = Path(example.main(["--data", data, "--resume", half, "--steps", "6"]))
    assert str(resumed) == half
    ends = [(folder / "model" / "model.safetensors").read_bytes() for folder in (whole, resumed)]
    assert ends[0] == ends[1]
    assert (resumed / "samples" / "samples-00000006.png").exists()
    assert (resumed / "samples" / "reconstructions-00000006.png").exists()
