"""What the commands say and refuse about data: --data, --channels, --background, splits, labels."""

import numpy as np
import pytest
import yaml
from command_line import TINY, refused, weights
from PIL import Image

from sdgan_ext.cli import main

RNG = np.random.default_rng(0)


@pytest.fixture
def transparent(tmp_path):
    """Images of 8x10, half of them with alpha."""
    folder = tmp_path / "transparent"
    folder.mkdir()
    for index in range(8):
        array = RNG.integers(0, 256, (10, 8, 3 + index % 2), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{index}.png")
    return str(folder)


@pytest.mark.parametrize("command", ["train", "tune", "reconstruct", "evaluate"])
@pytest.mark.parametrize(
    ("name", "words"), [("", "data is empty"), ("~nobody-of-that-name", "stands for a home folder, and there is none")]
)
def test_names_that_are_no_data(command, name, words, run, capsys):
    given = {"tune": ["--out", "study"], "train": []}.get(command, [run])
    assert words in refused(capsys, command, *given, "--data", name)


@pytest.mark.parametrize("name", ["", "~nobody-of-that-name"])
def test_names_that_are_no_data_of_a_run(run, name, capsys):
    assert "data is " in refused(capsys, "train", "--resume", run, "--data", name)


def test_what_is_decided_is_said(transparent, capsys):
    assert main(["train", "--data", transparent, *TINY, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "4 channels for 1.png has them, 4 have fewer; --channels" in said.err and "channels: 4" in said.out
    assert main(["train", "--data", transparent, *TINY, "--dry-run", "--channels", "3"]) == 0
    said = capsys.readouterr()
    assert "of 4 images (1.png) alpha is put over white; --background" in said.err and "channels: 3" in said.out
    assert main(["train", "--data", transparent, *TINY, "--dry-run", "--channels", "3", "--background", "lime"]) == 0
    assert not capsys.readouterr().err


def test_a_background_is_the_run_s(transparent, tmp_path, capsys):
    def train(*flags):
        assert main(["train", "--data", transparent, "--out", str(tmp_path / "runs"), *TINY, *flags]) == 0
        return max((tmp_path / "runs").iterdir())

    white, black = train("--channels", "3"), train("--channels", "3", "--background", "#000000")
    assert weights(white) != weights(black)
    assert yaml.safe_load((black / "config.yaml").read_text())["train"]["background"] == "#000000"
    whole = train("--channels", "3", "--background", "black", "--steps", "6")
    assert main(["train", "--resume", str(black), "--steps", "6"]) == 0
    assert weights(black) == weights(whole)
    assert "--background is white, but the run has #000000" in refused(
        capsys, "train", "--resume", black, "--background", "white"
    )
    assert main(["reconstruct", str(black), "--data", transparent, "--background", "black"]) == 0


@pytest.mark.parametrize("command", ["train", "reconstruct", "evaluate"])
def test_a_background_that_is_no_colour(command, run, data, capsys):
    given = [] if command == "train" else [run]
    assert "background must be a colour" in refused(capsys, command, *given, "--data", data, "--background", "whitish")


def test_a_model_without_classes_does_without_labels_of_no_use(tmp_path, capsys):
    images = RNG.integers(0, 256, (8, 8, 10, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=RNG.random((8, 40)) < 0.5)
    flags = ["train", "--data", str(tmp_path / "a.npz"), "--out", str(tmp_path), *TINY]
    assert "[8, 40] must be one-hot" in refused(capsys, *flags, "--classes", "2")
    assert main(flags) == 0
    assert "[8, 40] must be one-hot" in (said := capsys.readouterr().err) and "the labels are left out" in said


@pytest.mark.parametrize("command", ["reconstruct", "evaluate"])
def test_a_damaged_test_split_is_not_replaced_by_the_training_images(command, run, tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.fromarray(RNG.integers(0, 256, (8, 10, 3), dtype=np.uint8)).save(tmp_path / split / "1.png")
    (tmp_path / "test" / "2.png").write_bytes(b"damaged")
    assert "test/2.png" in refused(capsys, command, run, "--data", tmp_path)
