"""What the commands say, do and refuse about images that are read lazily: --cache, --crop, --flip, --max-bad, pack."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from command_line import ROOT, TINY, refused, weights

from sdgan_ext.cli import main

sys.path.append(str(Path(__file__).parents[1] / "data"))
from kinds import as_kind, images_of, write_folder  # noqa: E402

LAZY = [*TINY, "--image-size", "8", "--cache", "none"]


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "photos")


def train(out, data, *flags):
    assert main(["train", "--data", str(data), "--out", str(out), *LAZY, *flags]) == 0
    return max(out.iterdir())


def test_a_run_goes_on_with_another_cache_and_number_of_workers(folder, tmp_path):
    flags = ["--crop", "random", "--resize", "9", "--flip"]
    whole = train(tmp_path / "whole", folder, *flags, "--cache", "memory", "--steps", "6")
    half = train(tmp_path / "half", folder, *flags, "--workers", "1")
    config = yaml.safe_load((half / "config.yaml").read_text())["train"]
    assert (config["crop"], config["resize"], config["augment"]) == ("random", 9, ["flip"])
    assert main(["train", "--resume", str(half), "--steps", "6", "--cache", "memory", "--max-bad", "1", "--flip"]) == 0
    assert weights(half) == weights(whole)


def test_what_a_resumed_run_keeps(folder, tmp_path, capsys):
    run = train(tmp_path / "runs", folder, "--crop", "random", "--resize", "9")
    assert "--crop is centre, but the run has random" in refused(capsys, "train", "--resume", run, "--crop", "centre")
    assert "--resize is 10, but the run has 9" in refused(capsys, "train", "--resume", run, "--resize", "10")
    assert "--augment is" in refused(capsys, "train", "--resume", run, "--flip")


def test_flip_beside_other_augmentations(folder, capsys):
    assert main(["train", "--data", str(folder), *LAZY, "--augment", "shift", "--flip", "--dry-run"]) == 0
    assert "augment: [flip, shift]" in capsys.readouterr().out


def test_a_crop_is_of_the_model_s_size(folder, capsys):
    flags = ["--preset", "dcgan-64", "--crop", "random", "--batch-size", "4", "--dry-run"]
    assert main(["train", "--data", str(folder), *flags]) == 0
    assert "image_size: [64, 64]" in capsys.readouterr().out


def test_a_shard_that_vanishes(folder, tmp_path, capsys):
    shards = as_kind("shards", folder)
    run = train(tmp_path / "runs", shards)
    gone = sorted(shards.iterdir())[1]
    gone.rename(tmp_path / gone.name)
    words = refused(capsys, "train", "--resume", run, "--steps", "8")
    assert words == f"sdgan-ext: the shard {gone} is missing: there are 2 of its 3"
    assert gone.name in refused(capsys, "train", "--data", shards, *LAZY)
    (tmp_path / gone.name).rename(gone)
    assert main(["train", "--resume", str(run), "--steps", "8"]) == 0


def test_an_archive_that_is_cut_short(folder, capsys):
    spec = as_kind("zip", folder)
    spec.write_bytes(spec.read_bytes()[:-300])
    assert f"{spec} is cut short" in refused(capsys, "train", "--data", spec, *LAZY)


@pytest.mark.parametrize("kind", ["zip", "tar", "shards"])
@pytest.mark.parametrize("command", ["reconstruct", "evaluate"])
def test_trained_models_take_archives(kind, command, folder, tmp_path, capsys):
    run = train(tmp_path / "runs", folder)
    assert "resize must be 0" in refused(capsys, command, run, "--data", folder, "--resize", "4")
    flags = ["--resize", "9"]
    flags += ["--metrics", "errors", "--n", "8"] if command == "evaluate" else ["--count", "8"]
    assert main([command, str(run), "--data", str(as_kind(kind, folder)), *flags]) == 0
    assert "the training images are taken" in capsys.readouterr().out


def test_too_many_bad_images_end_in_a_sentence(folder, tmp_path, capsys):
    for bad in images_of(folder)[3:6]:
        bad.write_bytes(bad.read_bytes()[:-60])
    flags = ["train", "--data", folder, "--out", tmp_path / "runs", *LAZY, "--steps", "9"]
    for workers in ("0", "2"):
        assert main([str(word) for word in (*flags, "--workers", workers, "--max-bad", "2")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert "images cannot be read, --max-bad (max_bad=) allows 2" in lines[-1] and "Traceback" not in str(lines)
    assert main([str(word) for word in (*flags, "--max-bad", "3")]) == 0
    log = max((tmp_path / "runs").iterdir()) / "log.jsonl"
    assert sum("unreadable" in json.loads(line) for line in log.read_text().splitlines()) == 3


def test_pack(folder, tmp_path, capsys):
    out = tmp_path / "shards"
    assert main(["pack", str(folder), "--out", str(out), "--images-per-shard", "4"]) == 0
    assert f"13 images in 4 shards: {out}" in capsys.readouterr().out
    runs = [train(tmp_path / name, data) for name, data in (("a", folder), ("b", out))]
    assert weights(runs[0]) == weights(runs[1])
    assert "holds shards already" in refused(capsys, "pack", folder, "--out", out)
    assert "--images-per-shard is 0" in refused(capsys, "pack", folder, "--out", "new", "--images-per-shard", "0")
    assert "--split is val" in refused(capsys, "pack", folder, "--out", "new", "--split", "val")
    assert "is neither a name" in refused(capsys, "pack", "absent", "--out", "new")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_no_worker_outlives_the_training(folder, tmp_path, number):
    words = ["train", "--data", folder, "--out", tmp_path / "runs", *LAZY, "--steps", "1000000", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sdgan_ext", *map(str, words)],
        env={**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith("step "):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) == (130 if number == signal.SIGINT else -9)
    process.stdout.close()
    end = time.monotonic() + 30  # they look every 5 seconds whether the trainer is there
    while left := [child for child in children if Path(f"/proc/{child}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.1)
