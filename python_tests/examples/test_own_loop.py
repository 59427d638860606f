"""examples/own_loop.py in its shortest form; its loop is the README's, line by line."""

import importlib.util
import re
from pathlib import Path

import pytest

from sdgan_ext.models import VAEGAN

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "own_loop.py"


def test_it_trains_and_saves(tmp_path):
    spec = importlib.util.spec_from_file_location("own_loop", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = module.main(["--steps", "2", "--batch-size", "4", "--out", str(tmp_path / "model")])
    assert VAEGAN.from_pretrained(folder).sample(2, seed=0).shape == (2, 1, 28, 28)


def test_the_loop_is_that_of_the_readme():
    (loop,) = re.findall(
        r"\n(    adam, average = .*?return average.module)\n", (ROOT / "README.md").read_text(), re.DOTALL
    )
    lines = FILE.read_text().splitlines()
    assert [line for line in loop.splitlines() if line not in lines] == []
