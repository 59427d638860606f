"""`--data NAME:OPTIONS`: trained on, resumed from another folder with the same bits, not with other options."""

import pytest
import torch

from sdgan_ext.cli import main
from sdgan_ext.data import write_idx
from sdgan_ext.training.runs import load_model

FLAGS = "--preset mnist-small --mode vae --image-size 16 --encoder-channels 4 --generator-channels 4 --batch-size 4"


def train(*words):
    return main(["train", *words])


def test_resumed_in_the_middle_of_an_epoch(tmp_path, monkeypatch, capsys):
    (tmp_path / "digits").mkdir()
    images = (torch.arange(200)[:, None, None] + torch.zeros(28, 28)).to(torch.uint8).numpy()
    write_idx(tmp_path / "digits" / "train-images-idx3-ubyte", images)
    write_idx(tmp_path / "digits" / "train-labels-idx1-ubyte", (torch.arange(200) // 2 % 10).to(torch.uint8).numpy())
    monkeypatch.chdir(tmp_path)
    spec = "digits-scenes:objects=2,languages=en+zh,digits=digits"
    flags = ["--data", spec, *FLAGS.split(), "--out", str(tmp_path)]
    assert train(*flags, "--steps", "4") == 0
    assert train(*flags, "--steps", "2") == 0
    whole, parts = sorted(tmp_path.glob("0*"))
    assert parts.name == "00001-vae-digits-scenes-objects-2-languages-en-zh-digits-digits"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train("--resume", str(parts), "--steps", "4") == 0
    one, other = (load_model(run).state_dict() for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    capsys.readouterr()
    assert train("--resume", str(parts), "--steps", "6", "--data", "digits-scenes:objects=2") == 2
    assert "'digits-scenes objects=2 languages=en+zh digits=digits', now it is 'digits-scenes objects=2'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data digits-scenes:size=8", "size is '8', it must be an integer from 16 to 512"),
        ("--data digits-scenes --image-size 16 --classes 10", "has no labels, the model is conditioned on 10 classes"),
        ("--data digits-scenes:size=32 --image-size 16", "size is 32, but the images are to have 16"),
    ],
)
def test_refused_in_a_sentence(words, message, capsys, tmp_path):
    assert train(*words.split(), "--out", str(tmp_path), "--dry-run") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_mirrored_digits_are_warned_of(tmp_path, capsys):
    words = f"--data digits-scenes:objects=2 {FLAGS} --flip --steps 1 --out {tmp_path}"
    assert train(*words.split()) == 0
    assert "augment has 'flip', but digits-scenes objects=2 is digits" in capsys.readouterr().err
