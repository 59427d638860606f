"""A diffusion run that was killed and resumed, or stopped and resumed, ends with the bits of one that was not.

One process imports torch once and forks a trainer for every run; it does nothing in parallel itself, for OpenMP does
not survive a fork.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

HARNESS = """
import os, signal, sys, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)
from tensorboard.summary.writer import event_file_writer  # imported before the forks, like all the rest
import sdgan_ext as sd
from tiny_latents import make_autoencoder, make_images, make_model, make_train
from sdgan_ext.training.diffusion_trainer import DiffusionTrainer

STEPS, KILLED_AFTER = 11, 5  # in the second epoch; the newest checkpoint is that of step 4
OPTIONS = dict(augment=("flip",), condition_dropout=0.3, min_snr_gamma=5.0, accumulate=2, lr_warmup_steps=8)
data, out = make_images(20), Path(sys.argv[1])


class Deadly(DiffusionTrainer):
    def _step(self, *arguments, step, **options):
        if step == KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._step(*arguments, step=step, **options)


def train(kind, name, steps=STEPS):
    config = make_train(steps=steps, **OPTIONS)
    kind(make_model(make_autoencoder(), data, config), config, out=out / name, progress=False).fit(data)


def resume(name):
    (folder,) = (out / name).iterdir()
    DiffusionTrainer.resume(folder, steps=STEPS, progress=False).fit(data)


def forked(function, *arguments, ends=0):
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == ends


def files(name):
    (folder,) = (out / name).iterdir()
    parts = ("model/model.safetensors", "pipeline/unet/diffusion_pytorch_model.safetensors", "latents.safetensors")
    return [(folder / part).read_bytes() for part in parts]


forked(train, DiffusionTrainer, "whole")
forked(train, DiffusionTrainer, "stopped", 7)
forked(resume, "stopped")
for name in ("killed", "without latents"):
    forked(train, Deadly, name, ends=-signal.SIGKILL)
    (folder,) = (out / name).iterdir()
    assert max(path.stem for path in folder.glob("checkpoints/*")) == "step-00000004"
    if name == "without latents":
        (folder / "latents.safetensors").unlink()
    forked(resume, name)
for name in ("stopped", "killed", "without latents"):
    assert files(name) == files("whole"), name
print("all end in the same bits")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_resumed_runs_end_in_the_same_bits(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", HARNESS, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=400
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "all end in the same bits" in process.stdout
