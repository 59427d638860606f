"""``torchrun --max-restarts``: processes that are started again go on with the run of those before them."""

import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from safetensors.torch import load_file
from tiny import make_dataset

from sdgan_ext.cli import main
from sdgan_ext.training.distributed import Processes, _agree_on_start

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")

STEPS = 30
COMMAND = (
    f"train --data dots.npz --out runs --preset mnist-small --sync-batch-norm true --batch-size 4 --latent-dim 4 "
    f"--feature-layer 0 --steps {STEPS} --log-every 1 --checkpoint-every 5 --encoder-channels 4 --generator-channels 4 "
    "--discriminator-channels 4"
).split()

#: Rank 1 is killed in the first start, rank 0 in the second. After the first start rank 1 comes late: what rank 0 finds
#: until then was left by the dead.
KILLED = """
import os, signal, sys, time
import torch
from sdgan_ext.cli import main
from sdgan_ext.training import trainer

rank, start = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
torch.set_num_threads(1)
real_step, at = trainer.train_step, [int(word) for word in sys.argv[1].split(",")]


def train_step(*arguments, step, **options):
    if (start, rank) in ((0, 1), (1, 0)) and step == at[start]:
        os.kill(os.getpid(), signal.SIGKILL)
    return real_step(*arguments, step=step, **options)


trainer.train_step = train_step
if start > 0 and rank == 1:
    time.sleep(1)
sys.exit(main(sys.argv[2:]))
"""

#: In plain torch: what rank 1 leaves for the others before it is killed, and rank 0 finds in the next start.
CONTROL = """
import os, signal
import torch.distributed as dist

store, rank, _ = next(dist.rendezvous("env://"))
start = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
if start == 0 and rank == 1:
    store.set("address", "of the dead")
    os.kill(os.getpid(), signal.SIGKILL)
print(start, rank, store.get("address").decode(), flush=True)
"""


def torchrun(folder, script, restarts, *arguments):
    (folder / "script.py").write_text(script)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "--max-restarts", str(restarts), "script.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.usefixtures("one_thread")
def test_what_is_started_again_goes_on_with_the_same_run(tmp_path, monkeypatch):
    np.savez(tmp_path / "dots.npz", make_dataset().images)
    at = [random.randrange(2, 15), random.randrange(15, STEPS)]
    done = torchrun(tmp_path, KILLED, 3, f"{at[0]},{at[1]}", *COMMAND)
    assert done.returncode == 0, (at, done.stderr[-3000:])
    (run,) = (tmp_path / "runs").iterdir()
    for start, killed in enumerate(at):
        line = f"start {start + 2} by torchrun: {run.resolve()} goes on from step {killed // 5 * 5}\n"
        assert done.stdout.count(line) == 1, (at, done.stdout)
    assert done.stdout.count(f"{STEPS} steps taken") == 1
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").open()]
    assert steps == list(range(1, STEPS + 1)), at

    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, "--out", "alone"]) == 0
    got, want = (load_file(next(Path(out).iterdir()) / "model/model.safetensors") for out in ("runs", "alone"))
    for key, value in want.items():
        error = (got[key] - value).double().norm() / value.double().norm().clamp_min(1e-3)
        assert error < 1e-4, (at, key, error)


def test_plain_torch_gives_a_start_the_addresses_of_the_dead(tmp_path):
    """Control: why :class:`Processes` has keys of its own for each start. gloo's and nccl's addresses are such keys:
    whoever reads before the other has written connects to a dead process, or waits for one."""
    done = torchrun(tmp_path, CONTROL, 1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 0 of the dead" in done.stdout and "1 1 of the dead" in done.stdout


def test_a_run_is_noted_for_later_starts_alone(tmp_path):
    def start(number, rank=0):
        processes = Processes.__new__(Processes)
        processes.rank, processes.start, processes._store = rank, number, store
        processes._own = dist.PrefixStore(f"start {number}", store)
        return processes

    store = dist.HashStore()
    first = start(1)
    assert first.noted_run(tmp_path) is None and start(1, rank=1).noted_run(tmp_path) is None
    first.note_run(tmp_path / "00003-gan")
    second = start(2)
    for processes in (second, start(2, rank=1)):
        assert processes.noted_run(tmp_path) == tmp_path / "00003-gan"
        assert second.noted_run(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("late", [0, 1, 2])
def test_the_processes_of_a_start_agree_on_its_number_whatever_the_dead_have_said(late):
    """The first start loses rank 2 before it has heard its number; in each start one process comes later."""
    store = dist.HashStore()
    keys = dist.PrefixStore("sdgan_ext/starts", store)
    keys.set("word of 2", "of the dead")

    def start():
        def join(rank):
            time.sleep(0.2 * (rank == late))
            return _agree_on_start(store, rank, 3, 10)

        with ThreadPoolExecutor(3) as threads:
            return list(threads.map(join, range(3)))

    assert [start(), start(), start()] == [[1] * 3, [2] * 3, [3] * 3]
    with pytest.raises(RuntimeError, match="rank 1 has not come within 0.1 s"):
        _agree_on_start(store, 0, 3, 0.1)
    assert start() == [5] * 3
