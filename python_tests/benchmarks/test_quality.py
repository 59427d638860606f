"""benchmarks/quality.py: every experiment can be trained; a tiny one is, goes on where it was stopped, and is kept."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

import sdgan_ext as sd
from sdgan_ext.evaluation.evaluate import METRICS
from sdgan_ext.training.runs import make_model

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import quality  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", quality.EXPERIMENTS)
def test_every_experiment_can_be_trained(name):
    experiment = quality.EXPERIMENTS[name]
    assert set(experiment.metrics) <= METRICS.keys()
    model, config = experiment.made(seed=3)
    assert config.seed == 3
    sd.Trainer(make_model(model), config, out=None)  # refuses what contradicts itself


def test_a_row_and_a_picture(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        sd.data.write_idx(tmp_path / "data" / name, rng.integers(0, 256, (120, 28, 28), dtype=np.uint8))
    tiny = quality.Experiment(
        "mnist-small",
        ("errors", "fd"),
        model=dict(encoder_channels=(4,), generator_channels=(4,), discriminator_channels=(4,)),
        train=dict(steps=2, batch_size=8, feature_layer=-1),
    )
    monkeypatch.setattr(quality, "EXPERIMENTS", {"tiny": tiny})
    monkeypatch.setattr(quality, "RESULTS", tmp_path / "results")
    arguments = ["quality.py", "tiny", "--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]

    def rows(*more):
        monkeypatch.setattr(sys, "argv", [*arguments, *more])
        quality.main()
        return list(csv.DictReader((tmp_path / "results" / "quality.csv").open(newline="")))

    monkeypatch.setattr(sys, "argv", [*arguments, "--steps", "1"])
    quality.main()
    assert not (tmp_path / "results").exists()
    (row,) = rows()
    assert (row["name"], row["seed"], row["steps"], row["images"]) == ("tiny", "0", "2", "16")
    assert float(row["psnr"]) > 0 and float(row["lenet-fd"]) > 0
    assert (tmp_path / "results" / "quality" / "tiny.png").stat().st_size > 1000
    assert [row["seed"] for row in rows("--seed", "1")] == ["0", "1"]
    assert [row["seed"] for row in rows()] == ["1", "0"]
    assert len(list((tmp_path / "runs" / "tiny-0").iterdir())) == 1
