"""A run of 2N steps, and one of N steps, SIGKILL and a resume, end in the same bits: with workers and augmentation, in
every mode, with one thread and with two.

One process imports torch once and forks a trainer for every run; it does nothing in parallel itself, for OpenMP does
not survive a fork.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = """
import os, random, signal, sys, traceback
from pathlib import Path
import numpy as np
import torch
from tiny import make_config, make_dataset, make_model
from tensorboard.summary.writer import event_file_writer  # imported before the forks, like all the rest
from sdgan_ext.training.trainer import Trainer

STEPS, KILLED_AFTER = 10, 5  # by then the workers have read ahead, and the newest checkpoint is that of step 4


class Noisy(torch.utils.data.Dataset):
    "A user's own, whose items are transformed at random."

    name = "noisy"

    def __init__(self):
        self.images = make_dataset().images / 127.5 - 1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        by = 0.1 * torch.rand(()) + 0.1 * np.random.rand() + 0.1 * random.random()
        return self.images[index] * (1 - by.item())


class Deadly(Trainer):
    def _step(self, *arguments, step, **options):
        if step == KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._step(*arguments, step=step, **options)


def train(kind, mode, workers, out):
    settings = dict(mode=mode, steps=STEPS, workers=workers, augment=("flip", "shift", "rotate90"))
    if mode != "vae":
        settings |= dict(diffaugment=("translation",), r1_gamma=0.5, r1_every=2)
    kind(make_model(mode), make_config(**settings), out=out, progress=False).fit(data)


def forked(function, *arguments, ends=0):
    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(threads)
            function(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == ends


def resume(folder, workers):
    Trainer.resume(folder, workers=workers, progress=False).fit(data)


def compare(mode, out):
    forked(train, Trainer, mode, 0, out / "whole")
    forked(train, Deadly, mode, 2, out / "killed", ends=-signal.SIGKILL)
    (folder,) = (out / "killed").iterdir()
    assert max(path.stem for path in folder.glob("checkpoints/*")) == "step-00000004"
    forked(resume, folder, 1)
    whole, killed = (next((out / name).glob("*/model/model.safetensors")) for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes(), mode


for mode, data in (("gan", make_dataset()), ("vae", Noisy()), ("vae-gan", Noisy())):
    for threads in (1, 2):
        compare(mode, Path(sys.argv[1]) / f"{mode}-{threads}")
    print(mode)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_and_resumed_it_ends_in_the_same_bits(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.run(
        [sys.executable, "-c", HARNESS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.split() == ["gan", "vae", "vae-gan"]
