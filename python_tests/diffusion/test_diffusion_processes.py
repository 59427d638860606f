"""Two processes take the steps that one would take, encode half of the images each, and share a file of latents."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tiny_latents import make_autoencoder, make_images, make_model, make_train

from sdgan_ext.training.diffusion_trainer import DiffusionTrainer

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")

OPTIONS = dict(steps=8, batch_size=8, condition_dropout=0.3, augment=("flip",), accumulate=2)

HARNESS = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from sdgan_ext.training import latents
from sdgan_ext.training.distributed import Processes
from test_diffusion_processes import train

out = Path(sys.argv[1])
with Processes() as processes:
    encode, counts = latents.encode_all, []
    latents.encode_all = lambda *a, **o: counts.append(1) or encode(*a, **o)
    train(out / "together", processes)
    assert counts == [1]
    file = next((out / "together").glob("*/latents.safetensors"))
    train(out / "again", processes, latents=str(file))  # which rank 0 alone reads
    assert counts == [1]
"""


def train(out, processes=None, **options):
    data, config = make_images(21), make_train(**OPTIONS, **options)
    seed = 0 if processes is None else processes.rank  # other weights, which rank 0's must replace
    model = make_model(make_autoencoder(), data, config, seed=seed)
    return DiffusionTrainer(model, config, out=out, progress=False, processes=processes).fit(data)


def test_two_processes_follow_one(tmp_path):
    harness = tmp_path / "harness.py"
    harness.write_text(HARNESS)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", harness, tmp_path],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone = train(tmp_path / "alone").folder
    folders = [next((tmp_path / name).iterdir()) for name in ("together", "again")]
    one, *others = (load_file(folder / "model" / "model.safetensors") for folder in (alone, *folders))
    for weights in others:
        for name, weight in one.items():
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=2e-4, msg=name)
    assert all(torch.equal(others[0][name], others[1][name]) for name in one)
    latents = [load_file(folder / "latents.safetensors") for folder in (alone, folders[0])]
    for name, value in latents[0].items():
        torch.testing.assert_close(latents[1][name], value, rtol=1e-4, atol=1e-5)
