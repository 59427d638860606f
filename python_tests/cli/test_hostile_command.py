"""Hostile files and surroundings at the command line: one printable sentence and exit code 2, or it works."""

import contextlib
import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ROOT, TINY, refused

from sdgan_ext.cli import main
from sdgan_ext.cli._common import integer


@pytest.fixture
def own_run(run, tmp_path):
    """The run, to be spoilt."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def sentence(capsys, *argv):
    line = refused(capsys, *argv)
    assert line.isprintable() and len(line) < 1000
    return line


# ------------------------------------------------------------------------------------------------------- numbers
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seed", "9" * 23], f"seed is {'9' * 23}; it must be at most 9223372036854775807"),
        (["--seed", "9" * 5000], "seed is inf; it must be an integer"),
        (["--steps", "1" + "0" * 30], "steps is 1000"),
        (["--lr-encoder", "1e999"], "lr_encoder is inf; it must be a number"),
        (["--latent-dim", "1" + "0" * 12], "parameters; it must be at most 1,073,741,824"),
        (
            ["--residual-blocks", "1000000000"],
            "residual_blocks is 1000000000; it must be an integer, at least 0 and at",
        ),
        (["--encoder-channels", ",".join(["4"] * 5000)], "encoder_channels is (4, 4"),
        (["--threads", "1000000"], "--threads is 1000000; it must be at least 1, and at most 1,024"),
        (["--threads", "9" * 30], "argument --threads: 999"),
        (["--init", "\x1b[2J\n"], r"--init is '\x1b[2J\n'; preset 'mnist-small' takes dcgan, glorot, torch"),
        (["--\x1b[2J"], r"--\x1b[2J is not a flag of sdgan-ext train"),
        (["\x1b[2J"], r"'\x1b[2J' is one argument too many"),
    ],
)
def test_numbers_and_words_that_are_out_of_all_bounds(capsys, data, flags, words):
    assert words in sentence(capsys, "train", "--data", data, *TINY, *flags)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("sample RUN --seeds 0-99999999999", "--seeds is '0-99999999999'; it must be 100,000 numbers at most"),
        ("sample RUN --seeds 0-99999,0-99999", "--seeds is '0-99999,0-99999'; it must be 100,000 numbers at most"),
        (f"sample RUN --seeds {'9' * 5000}", "it must be like 0-31 or 1,5,7, of 18 digits at most"),
        (
            "interpolate RUN --steps 1000000000000",
            "--steps is 1000000000000; it must be at least 2, and at most 10,000",
        ),
        (f"evaluate RUN --data DATA --seed {'9' * 23}", "argument --seed: 999"),
        (f"evaluate RUN --data DATA --n {'9' * 5000}", "argument --n: invalid int value: '999"),
        (f"tune --data DATA --trials {'9' * 23}", "argument --trials: 999"),
        (f"reconstruct RUN --data DATA --count {'9' * 23}", "argument --count: 999"),
    ],
)
def test_numbers_of_the_other_commands(capsys, run, data, argv, words):
    assert words in sentence(capsys, *(str({"RUN": run, "DATA": data}.get(word, word)) for word in argv.split()))


def test_the_largest_numbers_work(capsys, run, tmp_path):
    assert integer(str(2**63 - 1)) == 2**63 - 1
    assert main(["sample", str(run), "--seeds", "9" * 18, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / f"seed{'9' * 18}.png").is_file()


@pytest.mark.parametrize(
    ("allocate", "words"),
    [
        (lambda: torch.empty(2**50), "there is not enough memory, 4503599627370496 bytes were asked for at once; a"),
        (lambda: bytearray(2**60), "there is not enough memory; a smaller model, batch or image takes less"),
    ],
)
def test_too_little_memory(capsys, monkeypatch, run, allocate, words):
    monkeypatch.setattr("sdgan_ext.training.runs.load_model", lambda path: allocate())
    assert words in sentence(capsys, "sample", run)


def test_another_error_is_no_lack_of_memory(monkeypatch, run):
    monkeypatch.setattr("sdgan_ext.training.runs.load_model", lambda path: torch.empty(2) + torch.empty(3))
    with pytest.raises(RuntimeError, match="must match the size"):
        main(["sample", str(run)])


# --------------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize(
    ("text", "words"),
    {
        "date": ("data: 2024-99-99", "data '2024-99-99' is neither a name"),
        "digits": (f"seed: {'9' * 5000}", "is no YAML: Exceeds the limit"),
        "23 digits": (f"seed: {'9' * 23}", f"seed is {'9' * 23}; it must be at most"),
        "deep": ("seed: " + "[" * 20_000, "is no YAML: it is more than 20 levels deep"),
        "aliases": ("a: &a [1]\nbetas: [*a, *a]", "is no YAML: an alias, *a, is not read"),
        "boolean": ("seed: !!bool x", "is no YAML: 'x'"),
        "blocks": ("residual_blocks: 1000000000", "residual_blocks is 1000000000; it must be"),
        "large": ("# " + "x" * 2**20, "it has more than 65,536 bytes"),
        "key": ("? [1, 2]\n: 3", "is no YAML: while constructing a mapping"),
        "long key": (f"{'x' * 120}{'y' * 600}: 3", f"{'x' * 100} is not a flag"),
        "escaped key": ('"\\e[2J\\n": 3', r"\x1b[2J\n is not a flag of sdgan-ext train"),
        "zero byte": ('out: "a\\0b"\nlatent_dim: 4', r"a\x00b is no path: it holds a zero byte"),
        "threads": ("threads: 1000000", "--threads is 1000000"),
        "long path": (f"data: {'x' * 30_000}", "File name too long"),
        "list": ("seed: [[[1]]]", "seed is [[[1]]]; it must be an integer"),
        "mapping": ("betas: {a: 1}", "betas is {'a': 1}; it must be a sequence"),
    }.values(),
)
def test_a_hostile_config_file(capsys, data, tmp_path, text, words):
    (tmp_path / "config.yaml").write_text(text)
    given = [] if text.startswith("data") else ["--data", data]
    assert words in sentence(capsys, "train", *given, "--config", tmp_path / "config.yaml")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_config_file_that_is_none(capsys, data, tmp_path, make):
    make(tmp_path / "config.yaml")
    words = sentence(capsys, "train", "--data", data, "--config", tmp_path / "config.yaml")
    assert "cannot read --config" in words and "no regular file" in words


def test_numbers_in_lists_are_read_like_those_of_flags(capsys, data, tmp_path):
    (tmp_path / "config.yaml").write_text("betas: [5e-1, 999e-3]\nlr_encoder: 1e-3\n")
    assert main(["train", "--data", data, "--config", str(tmp_path / "config.yaml"), "--dry-run", *TINY]) == 0
    printed = capsys.readouterr().out
    assert "betas: [0.5, 0.999]" in printed and "lr_encoder: 0.001" in printed


@pytest.mark.parametrize(
    ("file", "spoil", "words"),
    [
        ("model/model.safetensors", lambda content: content[:-1] + b"\x55", "model.safetensors is damaged: its bytes"),
        ("model/config.json", lambda content: b"[" * 60_000, "config.json is damaged"),
        (
            "model/config.json",
            lambda content: json.dumps({**json.loads(content), "classes": 10**7}).encode(),
            "another",
        ),
    ],
)
@pytest.mark.parametrize("command", ["sample", "interpolate", "export", "evaluate", "reconstruct"])
def test_a_damaged_model(capsys, own_run, data, file, spoil, words, command):
    (own_run / file).write_bytes(spoil((own_run / file).read_bytes()))
    more = ["--data", data] if command in ("evaluate", "reconstruct") else []
    assert words in sentence(capsys, command, own_run / "model", *more)


def test_a_lock_that_is_a_link(capsys, own_run, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (own_run / ".lock").unlink(missing_ok=True)
    (own_run / ".lock").symlink_to(victim)
    assert ".lock: it is a symbolic link" in sentence(capsys, "train", "--resume", own_run, "--steps", 6)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("elsewhere", path), None])
def test_a_study_that_is_none(capsys, data, tmp_path, make):
    pytest.importorskip("optuna")
    (tmp_path / "study").mkdir()
    file = tmp_path / "study" / "study.db"
    file.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20) if make is None else make(file)
    flags = ["--data", data, "--mode", "vae", "--space", "batch_size=2:8", "--out", tmp_path / "study"]
    assert "study.db cannot be used as a study: " in sentence(capsys, "tune", *flags)
    assert not (tmp_path / "study" / "elsewhere").exists()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE trial_values SET value = 'x'",
        "UPDATE trial_params SET param_name = 'y'",
        "UPDATE trial_params SET distribution_json = '[]'",
        "UPDATE study_user_attributes SET value_json = '[1]'",
        "UPDATE study_user_attributes SET value_json = '{'",
        "DELETE FROM study_directions",
    ],
)
def test_a_study_of_another_content(capsys, tmp_path, change):
    pytest.importorskip("optuna")
    np.savez(tmp_path / "dots.npz", np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8))
    argv = ["tune", "--data", tmp_path / "dots.npz", "--mode", "vae", "--metric", "mse", "--steps", "1", "--n", "4"]
    argv += ["--trials", "1", "--space", "batch_size=2:4", "--out", tmp_path / "study"]
    assert main([str(word) for word in argv]) == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "study" / "study.db")) as database:
        database.execute(change)
        database.commit()
    assert re.search(r"study\.db (cannot be used as a study|is damaged): ", sentence(capsys, *argv))


def test_the_names_of_files_are_escaped(capsys, own_run, tmp_path):
    name = "out\x1b[2J\n"
    capsys.readouterr()
    assert main(["sample", str(own_run), "--seeds", "1", "--out", str(tmp_path / name)]) == 0
    streams = capsys.readouterr()
    assert r"out\x1b[2J\n" in streams.out and all(line.isprintable() for line in streams.out.splitlines())
    hostile = own_run.rename(tmp_path / name / "run\x1b]0;title\x07")
    (hostile / "checkpoints" / "step-00000009.pt").write_bytes(b"")
    assert main(["sample", str(hostile), "--seeds", "1"]) == 0  # warns of the checkpoint
    streams = capsys.readouterr()
    assert r"sdgan-ext: skipped: the checkpoint" in streams.err
    assert all(line.isprintable() for line in (streams.err + streams.out).splitlines())
    assert r"\x1b]0;title\x07" in sentence(capsys, "sample", hostile / "nowhere")


# -------------------------------------------------------------------------------------------------- surroundings
NO_HOME = """
import pwd
def unknown(*_): raise KeyError("no such user")
pwd.getpwuid = pwd.getpwnam = unknown
"""


def command_line(*argv, before="", descriptors=None, **environment):
    """Runs the command line in a process of its own, without HOME."""
    code = f"{before}\nimport sys\nfrom sdgan_ext.cli import main\nsys.exit(main())"
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME", "SDGAN_DATA")}
    limit = None
    if descriptors is not None:
        limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))  # noqa: E731
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)],
        env={**kept, "PYTHONPATH": ROOT, **environment},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_a_user_without_a_home_folder(data, tmp_path):
    trained = command_line("train", "--data", data, "--out", tmp_path / "runs", *TINY, before=NO_HOME)
    assert (trained.returncode, trained.stderr) == (0, "")
    for more in ({}, {"SDGAN_DATA": "~nobody/data"}):
        refused = command_line("train", "--data", "mnist", *TINY, before=NO_HOME, **more)
        assert refused.returncode == 2
        where = more.get("SDGAN_DATA", "~/.cache/sdgan_ext")
        fix = "there is no such home folder; set SDGAN_DATA to a folder"
        assert refused.stderr == f"sdgan-ext: datasets are kept in {where}, but {fix}\n"
    refused = command_line("sample", "~/runs", before=NO_HOME)
    assert refused.returncode == 2
    assert refused.stderr == "sdgan-ext: ~/runs: ~ stands for a home folder, and there is none; give a full path\n"


@pytest.mark.parametrize("descriptors", [6, 8])
def test_few_file_descriptors(run, tmp_path, descriptors):
    done = command_line("sample", run, "--seeds", "0-3", "--out", tmp_path / "out", descriptors=descriptors)
    assert done.returncode in ((0,) if descriptors == 8 else (0, 1, 2))
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 1
