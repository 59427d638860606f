"""sample, reconstruct, interpolate: the pictures that they write, and what they refuse."""

import numpy as np
import pytest
import torch
from command_line import TINY, refused, weights
from PIL import Image

from sdgan_ext.cli import main
from sdgan_ext.models import VAEGAN


def test_sample(run, tmp_path, capsys):
    assert main(["sample", str(run), "--seeds", "0-2,7"]) == 0
    assert main(["sample", str(run / "model"), "--seeds", "7", "--out", str(tmp_path / "o")]) == 0
    made = sorted(path.name for path in (run / "generated").iterdir())
    assert made == ["grid.png", "seed0000.png", "seed0001.png", "seed0002.png", "seed0007.png"]
    alone = (tmp_path / "o" / "seed0007.png").read_bytes()
    assert alone == (run / "generated" / "seed0007.png").read_bytes()
    with Image.open(tmp_path / "o" / "seed0007.png") as picture:
        assert (picture.size, picture.mode) == ((10, 8), "RGB")
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    image = VAEGAN.from_pretrained(run / "model").sample(1, seed=7)[0]
    assert (image.add(1).mul(127.5).round() - pixels).abs().max() <= 1


def test_reconstruct(run, data, capsys):
    assert main(["reconstruct", str(run), "--data", data, "--count", "5"]) == 0
    out = capsys.readouterr().out
    assert "5 images above their reconstructions, PSNR" in out
    assert "the training images are taken, from which" in out
    with Image.open(run / "generated" / "reconstructions.png") as picture:
        assert picture.size == (4 * 12 - 2, 4 * 10 - 2)


def test_interpolate(run):
    assert main(["interpolate", str(run), "--seeds", "3,1,5", "--steps", "4"]) == 0
    with Image.open(run / "generated" / "interpolation.png") as picture:
        assert picture.size == (4 * 12 - 2, 2 * 10 - 2)
    with Image.open(run / "generated" / "interpolation.gif") as picture:
        assert picture.n_frames == 12  # 7 images there, and back


def test_a_conditional_model(tmp_path, capsys):
    path = tmp_path / "two.npz"
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 10, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(16) % 2)
    assert main(["train", "--data", str(path), "--out", str(tmp_path), *TINY, "--classes", "2"]) == 0
    run = tmp_path / "00000-vaegan-two.npz"
    assert main(["sample", str(run), "--seeds", "7,7,7"]) == 0  # of classes 0, 1, 0
    assert main(["sample", str(run), "--seeds", "7", "--labels", "1", "--out", str(tmp_path / "one")]) == 0
    image = VAEGAN.from_pretrained(run / "model").sample(1, labels=1, seed=7)[0]
    with Image.open(tmp_path / "one" / "seed0007.png") as picture:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert (image.add(1).mul(127.5).round() - pixels).abs().max() <= 1
    assert main(["reconstruct", str(run), "--data", str(path), "--count", "3"]) == 0
    assert main(["interpolate", str(run), "--seeds", "1,2,3", "--labels", "0-1", "--steps", "3"]) == 0
    assert "--labels has 5; this model's are 0 to 1" in refused(capsys, "sample", run, "--labels", "5")
    assert "--labels is 'x'; it must be like" in refused(capsys, "sample", run, "--labels", "x")
    bare = tmp_path / "bare.npz"
    np.savez(bare, images)
    assert "the model needs its labels, 0 to 1" in refused(capsys, "reconstruct", run, "--data", bare)
    assert "bare.npz has no labels" in refused(capsys, "train", "--data", bare, *TINY, "--classes", "2")


@pytest.mark.parametrize(
    "command, words",
    [
        ("sample --seeds 5-2", "--seeds is '5-2'; it must be like 0-31 or 1,5,7"),
        ("sample --seeds a", "--seeds is 'a'"),
        ("interpolate --seeds 4", "a walk needs two seeds or more"),
        ("interpolate --steps 1", "--steps is 1; it must be at least 2"),
        ("reconstruct --data digits --count 0", "--count is 0; it must be at least 1"),
        ("reconstruct --data nowhere", "'nowhere' is neither a name"),
        ("sample --out /dev/null/x", "Not a directory"),
    ],
)
def test_mistakes_about_a_good_run(run, command, words, capsys):
    name, *flags = command.split()
    assert words in refused(capsys, name, run, *flags)


def test_a_gan_cannot_reconstruct(data, tmp_path, capsys):
    assert main(["train", "--data", data, "--out", str(tmp_path), *TINY, "--mode", "gan"]) == 0
    words = refused(capsys, "reconstruct", tmp_path / "00000-gan-dots.npz", "--data", data)
    assert "has no encoder" in words


def test_damaged_models_are_sentences(run, tmp_path, capsys):
    copy = tmp_path / "model"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes((run / "model" / name).read_bytes())
    (copy / "model.safetensors").write_bytes(weights(run)[:-9])
    assert "model.safetensors is damaged" in refused(capsys, "sample", copy)
    (copy / "config.json").write_text("{")
    assert "config.json is damaged" in refused(capsys, "sample", copy)
