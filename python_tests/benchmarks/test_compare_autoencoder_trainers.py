"""benchmarks/compare_autoencoder_trainers.py, with a script of our own in the place of diffusers'."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import compare_autoencoder_trainers  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 32
SCRIPT = """
import argparse
import accelerate, lpips, torch, torchvision
from datasets import load_dataset
from taming.modules.losses.vqperceptual import NLayerDiscriminator, hinge_d_loss, vanilla_d_loss, weights_init
from torch_vision import transforms
from diffusers import AutoencoderKL

parser = argparse.ArgumentParser()
for flag in ("pretrained_model_name_or_path", "train_data_dir", "output_dir"):
    parser.add_argument(f"--{flag}")
parser.add_argument("--resolution", type=int)
parser.add_argument("--max_train_steps", type=int)
args, others = parser.parse_known_args()
assert "--adam_weight_decay 0" in " ".join(others)
vae = AutoencoderKL.from_pretrained(args.pretrained_model_name_or_path)
D = NLayerDiscriminator(input_nc=3, n_layers=3, use_actnorm=False).apply(weights_init)
resize = transforms.Resize(args.resolution, interpolation=transforms.InterpolationMode.BILINEAR)
crop = transforms.CenterCrop(args.resolution)
picture = transforms.Compose([resize, crop, transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
data = load_dataset("imagefolder", data_files={"train": args.train_data_dir + "/**"}, cache_dir=None)["train"]
assert data.column_names == ["image"] and len(data) == 80
data = data.with_transform(lambda rows: {"pixel_values": [picture(image.convert("RGB")) for image in rows["image"]]})
x = torch.stack([data[i]["pixel_values"] for i in range(4)])
assert -1 <= x.min() < -0.5 and 0.5 < x.max() <= 1
assert lpips.LPIPS(net="vgg").eval()(x, x).shape == (4, 1, 1, 1)
for network in (vae, D):
    optimizer = torch.optim.AdamW(network.parameters())
    for _ in range(args.max_train_steps // 2 + EXTRA):
        hinge_d_loss(D(x), D(vae.decode(vae.encode(x).latent_dist.sample()).sample)).backward()
        optimizer.step()
vae.save_pretrained(args.output_dir)
""".replace("torch_vision", "torchvision")


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for i in range(80):
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(
                tmp_path / "data" / split / f"{i}.png"
            )
    config = {"block_out_channels": [8, 16], "down_block_types": ["DownEncoderBlock2D"] * 2}
    config |= {"up_block_types": ["UpDecoderBlock2D"] * 2, "norm_num_groups": 4, "layers_per_block": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path / "data"


def compared(monkeypatch, tmp_path, data, script):
    (tmp_path / "script.py").write_text(script)
    flags = {"script": tmp_path / "script.py", "data": data, "images": 16, "config": tmp_path / "config.json"}
    flags |= {"image-size": SIDE, "batch-size": 4, "out": tmp_path / "rows.csv", "threads": 1, "work": tmp_path / "w"}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["compare_autoencoder_trainers.py", *words])
    compare_autoencoder_trainers.main()
    with (tmp_path / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_both_sides_are_trained_and_judged(monkeypatch, tmp_path, data):
    rows = compared(monkeypatch, tmp_path, data, SCRIPT.replace("EXTRA", "0"))
    assert [row["trainer"] for row in rows] == ["sdgan_ext", "train_autoencoderkl.py"]
    for row in rows:
        assert (row["images"], row["batch_size"], row["disc_start"]) == ("16", "4", "2")
        assert float(row["seconds_per_step"]) > 0 and float(row["psnr"]) > 0 and float(row["photos-rfd"]) >= 0
    assert rows[0]["psnr"] != rows[1]["psnr"]
    start, ours, theirs = (
        diffusers.AutoencoderKL.from_pretrained(folder)
        for folder in (tmp_path / "w/start", next(tmp_path.glob("w/runs/*/model")), tmp_path / "w/theirs/model")
    )
    for trained in (ours, theirs):
        assert dict(trained.config)["block_out_channels"] == start.config["block_out_channels"]
        assert not trained.decoder.conv_out.weight.equal(start.decoder.conv_out.weight)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise ValueError('it broke')", "exit code 1: ValueError: it broke; all it said is in .*output.txt"),
        (SCRIPT.replace("EXTRA", "1"), "took 6 optimizer steps, 4 were asked for"),
    ],
)
def test_a_script_that_ends_otherwise_leaves_no_rows(monkeypatch, tmp_path, data, script, words):
    with pytest.raises(SystemExit, match=words):
        compared(monkeypatch, tmp_path, data, script)
    assert not (tmp_path / "rows.csv").exists()
