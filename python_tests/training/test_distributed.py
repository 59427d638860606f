"""Two processes take the steps that one would take; one that is killed ends the other, and the run goes on."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tiny import make_config, make_dataset, make_model

from sdgan_ext._errors import ConfigError, PeerLostError
from sdgan_ext.models import VAEGAN
from sdgan_ext.nn.sync_batch_norm import SyncBatchNorm2d
from sdgan_ext.training.distributed import Processes
from sdgan_ext.training.runs import open_run
from sdgan_ext.training.state import list_checkpoints
from sdgan_ext.training.steps import noise_of_rows
from sdgan_ext.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")

STEPS = 50
#: name: mode, changes of the model's configuration, of the training's
CASES = {
    "vae-gan": (
        "vae-gan",
        {},
        {
            **{"r1_gamma": 1.0, "r1_every": 4, "n_critic": 2, "feature_weight": 1.0, "adaptive_weight": 0.5},
            "perceptual_weight": 0.2,
        },
    ),
    "relativistic": ("gan", {}, {"objective": "relativistic"}),
    "synchronised": (
        "vae-gan",
        {"encoder_norm": "batch", "discriminator_norm": "batch", "generator_norm": "batch"},
        {"sync_batch_norm": True},
    ),
    "conditional": (
        "vae-gan",
        {"classes": 3, "minibatch_stddev": 4, "learned_variance": True},
        {
            "diffaugment": ("color", "translation", "cutout"),
            "r2_gamma": 0.5,
            "clip_generator": 5.0,
            "disc_start": 4,
            "disc_warmup": 2,
        },
    ),
    "gradient penalty": ("gan", {}, {"objective": "wasserstein", "gp_weight": 10.0, "n_critic": 2}),
    "accumulating": ("vae", {}, {"accumulate": 2, "binarise": True}),
    "accumulating both terms": ("vae-gan", {}, {"accumulate": 2, "adaptive_weight": 0.5, "gamma": 0.5}),
}


def train(name, out, processes=None):
    """Batch norm only where it is synchronised: over halves of a batch it is another one."""
    mode, model_changes, changes = CASES[name]
    config = make_model(mode).config.replace(**{"generator_norm": "none", **model_changes}).for_mode(mode)
    torch.manual_seed(0 if processes is None else processes.rank)  # other weights, which rank 0's must replace
    config = make_config(mode=mode, steps=STEPS, batch_size=8, log_every=10, lr_encoder=1e-4, **changes), config
    trainer = Trainer(VAEGAN(config[1]), config[0], out=out, progress=False, processes=processes)
    return trainer.fit(make_dataset(classes=3))


#: Everything in one start of torchrun: what two processes train, the command line, and at last one that is killed.
HARNESS = """
import contextlib, os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from sdgan_ext.cli import main
from sdgan_ext.training import distributed
from sdgan_ext.training.trainer import Trainer
from test_distributed import CASES, COMMAND, train
from tiny import make_config, make_dataset, make_model

out = Path(sys.argv[1])


class Deadly(type(make_dataset())):
    calls = 0

    def batch(self, indices):
        self.calls += 1
        if os.environ["RANK"] == "1" and self.calls == 12:
            (out / "killed at").write_text(str(time.monotonic()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(indices)


try:
    with distributed.Processes() as processes:
        for name in CASES:
            run = train(name, out / name, processes)
            assert (run.folder is None) == (processes.rank == 1)
        distributed.Processes = lambda device: contextlib.nullcontext(processes)  # a group cannot be joined twice
        assert main(["train", *COMMAND, "--data", str(out / "dots.npz"), "--out", str(out / "cli")]) == 0
        dist.barrier()  # rank 0 has saved
        assert main(["train", "--resume", str(out / "cli/00000-vaegan-dots.npz"), "--steps", "3"]) == 0
        config = make_config(steps=40)
        data = Deadly(make_dataset().images, name="dots")
        Trainer(make_model(), config, out=out / "killed", progress=False, processes=processes).fit(data)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
COMMAND = (
    "--preset mnist-small --sync-batch-norm true --batch-size 4 --latent-dim 4 --feature-layer 0 --steps 2".split()
)
COMMAND += [f"--{name}-channels=4" for name in ("encoder", "generator", "discriminator")]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder of what two processes have done, what they said, and when they had ended."""
    out = tmp_path_factory.mktemp("together")
    np.savez(out / "dots.npz", make_dataset().images)
    harness = out / "harness.py"
    harness.write_text(HARNESS)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", harness, out],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    ended = time.monotonic()
    assert (out / "killed at").exists(), done.stderr[-3000:]
    return SimpleNamespace(out=out, done=done, ended=ended)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_follow_one(together, tmp_path, name):
    alone = train(name, tmp_path)
    (folder,) = (together.out / name).iterdir()
    got, want = (load_file(f / "model/model.safetensors") for f in (folder, alone.folder))
    for key, value in want.items():
        if name == "relativistic" and key == "discriminator.logit.bias":
            continue  # its gradient is 0 but for rounding, which Adam makes steps of
        error = (got[key] - value).double().norm() / value.double().norm().clamp_min(1e-3)
        assert error < 1e-4, (key, error)
    curves = [[json.loads(line) for line in (f / "log.jsonl").open()] for f in (folder, alone.folder)]
    assert len(curves[0]) == len(curves[1]) == STEPS // 10
    for got, want in zip(*curves, strict=True):
        phases = "discriminator/", "encoder_generator/"
        losses = [
            key for key in want if key.startswith(phases) and key not in ("discriminator/real", "discriminator/fake")
        ]
        assert [got[key] for key in losses] == pytest.approx([want[key] for key in losses], rel=1e-4)


def test_each_process_reads_its_own_rows():
    """What follows one process cannot have read the same rows twice; this says it of the slices."""
    processes = Processes.__new__(Processes)
    taken = []
    for processes.rank in range(4):
        processes.size = 4
        rows = processes.rows(32)
        taken += range(32)[rows]
    assert taken == list(range(32))
    with pytest.raises(ConfigError, match="batch_size is 30; it is that of all processes together and must be a mult"):
        processes.rows(30)


def test_rows_of_noise_are_those_of_the_whole():
    from sdgan_ext.training.steps import draw_noise

    model = make_model()
    noise = draw_noise(model, 8, make_config(), generator=torch.Generator().manual_seed(0))
    parts = [noise_of_rows(noise, slice(i, i + 4), 8, 4) for i in (0, 4)]
    mean = torch.zeros(8, 4)
    from sdgan_ext.ops import sample_gaussian

    assert torch.equal(torch.cat([part.eps for part in parts]), sample_gaussian(mean, mean, seed=noise.seed)[0])
    assert torch.equal(torch.cat([part.latents for part in parts]), noise.latents)


def test_a_killed_process_ends_the_other_and_the_run_goes_on(together):
    assert together.ended - float((together.out / "killed at").read_text()) < 30
    stderr = together.done.stderr
    assert together.done.returncode != 0
    assert "rank      : 1" in stderr and "Signal 9" in stderr, stderr[-2000:]
    (folder,) = (together.out / "killed").iterdir()
    run = Trainer.resume(folder, progress=False).fit(make_dataset())
    assert run.step == 40


def test_a_lost_peer_is_one_sentence(monkeypatch):
    processes = Processes.__new__(Processes)
    processes.rank, processes.size = 0, 2

    def closed(tensor):
        raise RuntimeError("[gloo] Connection closed by peer [10.0.0.1]:1234\nmore")

    monkeypatch.setattr(dist, "all_reduce", closed)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PeerLostError, match=r"^process 0 of 2 has lost another one \(\[gloo\] Conn.*resume"):
        processes.average({"a/b": torch.ones(())}, False)


def test_a_peer_that_is_lost_in_batch_norm_is_one_sentence(monkeypatch):
    def closed(tensor):
        raise RuntimeError("[gloo] Timed out waiting 8000ms for recv operation to complete")

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", closed)
    with pytest.raises(PeerLostError, match=r"has lost another one \(\[gloo\] Timed out .*resume"):
        SyncBatchNorm2d(2)(torch.randn(4, 2, 3, 3))


def test_all_stop_with_the_step_in_which_one_was_asked_to(monkeypatch):
    processes = Processes.__new__(Processes)
    processes.rank, processes.size = 0, 2
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.add_(torch.tensor([1.5, 1.0])))  # the other's share
    losses, stopping = processes.average({"a/b": torch.tensor(1.0)}, False)
    assert losses["a/b"] == 2.0 and stopping


def test_the_command_line(together):
    assert together.done.stdout.count("2 steps taken") == 1
    assert together.done.stdout.count("3 steps taken") == 1
    run = open_run(together.out / "cli/00000-vaegan-dots.npz")
    assert [path.name for path in list_checkpoints(run.checkpoints)] == ["step-00000002.pt", "step-00000003.pt"]
