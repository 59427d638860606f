"""train: what it does, config files, resuming, and how it ends."""

import builtins
import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from command_line import ROOT, TINY, refused, weights

from sdgan_ext import _files
from sdgan_ext._errors import DataError
from sdgan_ext.cli import _training as training
from sdgan_ext.cli import main
from sdgan_ext.cli import train as command
from sdgan_ext.models import VAEGAN
from sdgan_ext.training.state import list_checkpoints


def test_train_follows_the_data(run):
    config = json.loads((run / "model" / "config.json").read_text())
    assert (config["image_size"], config["channels"]) == ([8, 10], 3)
    assert (config["encoder_channels"], config["discriminator_channels"]) == ([4], [4])
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-00000002.pt", "step-00000004.pt"]


def test_train_fits_the_data_to_what_is_asked_for(data, capsys):
    assert main(["train", "--data", data, *TINY, "--image-size", "12x16", "--channels", "1", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "image_size: [12, 16]" in out and "channels: 1" in out


def test_dry_run_writes_nothing(data, capsys, tmp_path):
    assert main(["train", "--data", data, *TINY, "--mode", "gan", "--betas", "0.1,0.9", "--dry-run"]) == 0
    out = capsys.readouterr().out
    for words in ("mode: gan", "betas: [0.1, 0.9]", "encoder_channels: null", "generator: ", "total: ", data):
        assert words in out
    assert not list(tmp_path.iterdir())


def test_profile_writes_a_trace(data, tmp_path, capsys):
    assert main(["train", "--data", data, "--out", str(tmp_path), *TINY, "--steps", "16", "--profile"]) == 0
    (trace,) = (tmp_path / "00000-vaegan-dots.npz" / "profile").glob("*.pt.trace.json")
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert "sdgan/forward" in names


def test_the_same_command_makes_the_same_model(run, data, tmp_path):
    assert main(["train", "--data", data, "--out", str(tmp_path), *TINY]) == 0
    assert weights(tmp_path / run.name) == weights(run)


def test_resume_goes_on_to_the_same_bits(data, tmp_path, monkeypatch):
    out = str(tmp_path / "runs")
    monkeypatch.chdir(os.path.dirname(data))
    assert main(["train", "--data", "dots.npz", "--out", out, *TINY]) == 0
    monkeypatch.chdir(tmp_path)  # the data are found from another folder
    run = tmp_path / "runs" / "00000-vaegan-dots.npz"
    assert main(["train", "--resume", str(run), "--steps", "7", "--batch-size", "4", "--data", data]) == 0
    assert main(["train", "--data", data, "--out", out, *TINY, "--steps", "7"]) == 0
    assert weights(run) == weights(tmp_path / "runs" / "00001-vaegan-dots.npz")


def test_resume_goes_on_where_the_data_have_moved(data, tmp_path, capsys):
    old, new = tmp_path / "old" / "dots.npz", tmp_path / "new" / "dots.npz"
    for file in (old, new):
        file.parent.mkdir()
    old.write_bytes(open(data, "rb").read())
    assert main(["train", "--data", str(old), "--out", str(tmp_path), *TINY]) == 0
    run = tmp_path / "00000-vaegan-dots.npz"
    old.rename(new)
    words = refused(capsys, "train", "--resume", run, "--steps", "7")
    assert words.endswith(f"the data of the run {run}, {old}, are gone; --data says where they are now")
    assert main(["train", "--resume", str(run), "--data", str(new), "--steps", "7"]) == 0
    assert main(["train", "--resume", str(run), "--steps", "8"]) == 0  # it is known from now on
    assert main(["train", "--data", str(new), "--out", str(tmp_path), *TINY, "--steps", "8"]) == 0
    assert weights(run) == weights(tmp_path / "00001-vaegan-dots.npz")
    few = tmp_path / "few" / "dots.npz"
    few.parent.mkdir()
    np.savez(few, np.load(new)["arr_0"][:12])
    assert "data with images 16, now it is 12" in refused(capsys, "train", "--resume", run, "--data", few)


def test_a_training_flushes_denormals_and_what_follows_does_not(monkeypatch):
    def smallest():
        return (torch.tensor([1e-30]) * 1e-10).item()

    seen = []
    monkeypatch.setattr(command, "train", lambda arguments: seen.append(smallest()))
    assert main(["train", "--data", "digits"]) == 0
    assert seen == [0.0] and smallest() > 0


def test_auto_data_is_mnist_or_else_digits(monkeypatch, capsys):
    opened = training.open_dataset

    def offline(spec, **options):
        if spec == "mnist":
            raise DataError("no mirror answers")
        return opened(spec, **options)

    monkeypatch.setattr(training, "open_dataset", offline)
    assert main(["train", "--data", "auto", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "MNIST cannot be had (no mirror answers); rendered digits take its place" in out and "source: digits" in out


def test_a_config_file_says_what_flags_say(run, data, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        f"data: {data}\nout: {tmp_path}\nsteps: 4\nbatch-size: 4\nlatent_dim: 4\nencoder-channels: [4]\n"
        "generator-channels: [4]\ndiscriminator-channels: 4,\nfeature-layer: 0\ncheckpoint-every: 2\n"
    )
    assert main(["train", "--config", str(file)]) == 0
    assert weights(tmp_path / run.name) == weights(run)


def test_a_run_is_repeated_by_its_own_config(run, tmp_path):
    assert main(["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path)]) == 0
    assert weights(tmp_path / run.name) == weights(run)


def test_a_flag_decides_beside_a_config_file(data, tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(
        f"data: {{source: {data}}}\npreset: seed\nthreads: 1\nnegative_slope: 1e-1\n"
        "train:\n  lr-encoder: 1e-3\n  diffaugment: color,cutout\n  kl_weight: 2\n  batch-size: 4\n"
        "model:\n  discriminator_channels: [4, 4, 4, 4, 4]\n  image-size: 8x10\n"
    )
    flags = ["--mode", "vae", "--kl-weight", "3", "--discriminator-channels", "none"]
    assert main(["train", "--config", str(file), *flags, "--dry-run"]) == 0
    out = capsys.readouterr().out
    for words in ("lr_encoder: 0.001", "diffaugment: [color, cutout]", "kl_weight: 3.0", "negative_slope: 0.1",
                  "discriminator_channels: null", "kernel_size: 5"):  # fmt: skip
        assert words in out
    file.write_text(out)  # a dry run says what it would do as a file that does it
    assert main(["train", "--config", str(file), "--dry-run"]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr-encoderr: 1", "lr-encoderr is not a flag of sdgan-ext train, did you mean 'lr_encoder'?"),
        ("train: {latent_dim: 3}", "train.latent_dim is not a flag of sdgan-ext train"),
        ("resume: x", "resume is not a flag of sdgan-ext train"),
        ("train: 3", "train holds a int; it must be a mapping"),
        ("- 3", "holds a list; it must be a mapping of flags to values"),
        ("a: [", "is no YAML: "),
        ("train: {format_version: 99}", "format_version is 99, this sdgan_ext reads up to 1"),
        ("steps: many", "steps is 'many'; it must be an integer, at least 1"),
        ("threads: many", "threads is 'many'; it must be an integer"),
        ("data: 5", "data is 5; it must be text"),
        ("preset: [a]", "preset is ['a']; it must be text"),
    ],
)
def test_a_mistake_in_a_config_file_is_one_sentence(text, words, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(text + "\n")
    assert words in refused(capsys, "train", "--config", "c.yaml", "--data", "digits")


def test_a_config_file_that_is_not_there(capsys, run):
    assert "cannot read --config nowhere: No such file" in refused(capsys, "train", "--config", "nowhere")
    assert "--config cannot be given with --resume" in refused(capsys, "train", "--resume", run, "--config", "x")


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--batch-size 8", "--batch-size is 8, but the run has 4"),
        ("--latent-dim 5", "--latent-dim is 5, but the run has 4"),
        ("--data digits", "digits are square, image_size=(8, 10) came"),
        ("--preset seed", "--preset cannot be given with --resume"),
        ("--out x", "--out cannot be given with --resume"),
        ("--steps 3", "steps is 3, but 4 have been taken"),
    ],
)
def test_resume_refuses_what_contradicts_the_run(run, flags, words, capsys):
    assert words in refused(capsys, "train", "--resume", run, *flags.split())


def test_a_divergence_is_one_sentence_and_exit_code_1(data, capsys):
    flags = "--lr-encoder 1e30 --lr-generator 1e30 --steps 50".split()
    words = refused(capsys, "train", "--data", data, *TINY, *flags, code=1)
    assert "diverged at step" in words and "the last good checkpoint is" in words


def test_a_full_disk_while_saving_is_one_sentence_and_the_old_checkpoint_stays(data, tmp_path, monkeypatch, capsys):
    class Full:
        """Has no space for a checkpoint of step 4."""

        def __init__(self, path, mode):
            self.file = builtins.open(path, mode)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def write(self, content):
            if "step-00000004" in self.file.name:
                self.file.write(content[:100])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(content)

    monkeypatch.setattr(_files, "open", Full, raising=False)
    words = refused(capsys, "train", "--data", data, "--out", tmp_path, *TINY)
    checkpoints = tmp_path / "00000-vaegan-dots.npz" / "checkpoints"
    assert "step-00000004.pt: No space left on device; " in words and "step-00000002.pt" in words
    assert sorted(os.listdir(checkpoints)) == ["step-00000000.pt", "step-00000002.pt"]
    monkeypatch.undo()
    assert main(["train", "--resume", str(checkpoints.parent)]) == 0


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_saves_and_leaves_with_130(data, tmp_path):
    endless = "--steps 1000000 --checkpoint-every 100000".split()
    argv = ["train", "--data", data, "--out", str(tmp_path), *TINY, *endless]
    process = subprocess.Popen(
        [sys.executable, "-m", "sdgan_ext", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline().startswith("step 2/1000000")
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "Traceback" not in err and "finishing this step and saving" in err
    assert "steps taken" in out and "train --resume" in out
    folder = tmp_path / "00000-vaegan-dots.npz"
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"]
    assert list_checkpoints(folder / "checkpoints")[-1].name == f"step-{last:08d}.pt"
    assert VAEGAN.from_pretrained(folder / "model").config.latent_dim == 4


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_RANK"])
def test_what_torchrun_sets_must_be_numbers(name, monkeypatch, capsys):
    for each in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(each, "0")
    monkeypatch.setenv(name, "first")
    assert f"{name} is 'first'; it must be a number" in refused(capsys, "train", "--data", "digits")
