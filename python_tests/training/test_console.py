"""Console output that cannot be written ends no training, and is in the run's folder."""

import logging
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from tiny import make_config, make_dataset, make_model

from sdgan_ext import _console
from sdgan_ext.training import trainer as trainer_module
from sdgan_ext.training.trainer import Trainer


def closed(tmp_path):
    stream = open(tmp_path / "closed", "w")
    stream.close()
    return stream


def full(tmp_path):
    return open("/dev/full", "w")


def without_reader(tmp_path):
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


def hung_up(tmp_path):
    """A terminal that has gone: a progress bar begins, and fails with its first frame."""
    leader, follower = os.openpty()
    stream = os.fdopen(follower, "w")
    assert stream.isatty()
    os.close(leader)
    stream.isatty = lambda: True
    return stream


def never_there(tmp_path):
    return None


#: kind: the reason that the run's folder has
KINDS = {
    closed: "closed",
    never_there: "closed",
    full: "No space left on device",
    without_reader: "Broken pipe",
    hung_up: "Input/output error",
}


@pytest.fixture
def speaking(monkeypatch):
    """Every step warns, logs and prints, as a user's own networks may."""
    real_step = trainer_module.train_step
    logger = logging.Logger("speaking")

    def train_step(*arguments, step, **options):
        if not logger.handlers:
            logger.addHandler(logging.StreamHandler())
        logger.error("logged %d", step)
        warnings.warn(f"warned {step}", stacklevel=1)
        print("printed", step)
        return real_step(*arguments, step=step, **options)

    monkeypatch.setattr(trainer_module, "train_step", train_step)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)
        yield


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("speaking")
def test_a_training_goes_on_without_a_console(kind, tmp_path, monkeypatch):
    streams = {name: kind(tmp_path) for name in ("stdout", "stderr")}
    with monkeypatch.context() as patch:
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        run = Trainer(make_model(), make_config(), out=tmp_path / "runs").fit(make_dataset())
        assert (sys.stdout, sys.stderr) == tuple(streams.values())
    assert run.step == 6 and run.stopped_by is None
    kept = (run.folder / "console.log").read_text()
    for name in streams:
        assert kept.count(f"{name} cannot be written ({KINDS[kind]}); what it should have shown:\n") == 1
    for step in range(6):
        for word in ("warned", "logged", "printed"):
            assert kept.splitlines().count(f"{word} {step}") == 1
    shown = [line for line in kept.splitlines() if line.startswith("step ")]
    assert kind is hung_up or [line.split()[1] for line in shown] == ["2/6", "4/6", "6/6"]
    assert "%|" not in kept  # no frame of the bar
    for stream in streams.values():
        if stream is not None and not stream.closed:
            with pytest.raises(OSError):
                stream.close()


def test_a_console_that_works_gets_all_and_leaves_no_file(tmp_path, capsys):
    run = Trainer(make_model(), make_config(), out=tmp_path).fit(make_dataset())
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["2/6", "4/6", "6/6"]
    assert not (run.folder / "console.log").exists()


def test_letters_that_the_console_lacks_are_escaped(tmp_path, monkeypatch):
    with open(tmp_path / "ascii", "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with _console.guarded_console() as console:
            print("B\N{LATIN SMALL LETTER U WITH DIAERESIS}cher")
        assert not console.out.broken
    assert (tmp_path / "ascii").read_text() == "B\\xfccher\n"


COMMAND = (
    "train --data dots.npz --out runs --steps 4 --batch-size 4 --latent-dim 4 --log-every 2 --feature-layer 0 "
    "--encoder-channels 4 --generator-channels 4 --discriminator-channels 4"
)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("({} 2>/dev/full; echo $? >code) | true", 0),  # Python's own flush at the end would make 120 of it
        ("{} >&- 2>&-; echo $? >code", 0),
        ("{} --lr-encoder 1e30 >/dev/full 2>/dev/full; echo $? >code", 1),
        ("{} --dry-run >/dev/full; echo $? >code", 2),
    ],
)
def test_the_exit_code_is_that_of_the_training(line, code, tmp_path):
    np.savez(tmp_path / "dots.npz", make_dataset().images)
    done = subprocess.run(
        ["sh", "-c", line.format(f"{sys.executable} -m sdgan_ext {COMMAND}")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert int((tmp_path / "code").read_text()) == code, done.stderr
    if code == 2:  # nothing was trained, so what could not be printed is nowhere
        assert done.stderr == "sdgan-ext: stdout cannot be written: No space left on device\n"
        return
    assert done.stderr == ""
    (run,) = (tmp_path / "runs").iterdir()
    kept = (run / "console.log").read_text()
    assert ("4 steps taken. Pictures" in kept) == (code == 0) and ("training diverged" in kept) == (code == 1)
