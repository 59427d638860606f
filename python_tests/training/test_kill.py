"""SIGKILL at random moments: the newest complete checkpoint always loads, and training goes on from it.

One process imports torch once and forks a trainer for every kill. SDGAN_TEST_KILLS=200 asks for more of them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("SDGAN_TEST_KILLS", 8))

HARNESS = f"""
import os, random, signal, sys, time, warnings
import torch
torch.set_num_threads(1)
from pathlib import Path
from tiny import make_config, make_dataset, make_model
from tensorboard.summary.writer import event_file_writer  # imported before the forks, like all the rest
from sdgan_ext.training.runs import open_run
from sdgan_ext.training.state import load_newest
from sdgan_ext.training.trainer import Trainer

FOREVER = 1_000_000
out, moments = Path(sys.argv[1]), random.Random(0)
folder = out / "killed" / "00000-vaegan-dots"


def start(steps, where):
    return Trainer(make_model(), make_config(steps=steps, checkpoint_every=1), out=out / where, progress=False)


def newest():
    return max((int(path.stem[5:]) for path in folder.glob("checkpoints/step-*.pt")), default=-1)


def child(resume):
    trainer = Trainer.resume(folder, progress=False) if resume else start(FOREVER, "killed")
    trainer.fit(make_dataset())


warnings.simplefilter("error")  # a checkpoint passed over would be a damaged one: renaming makes that impossible
steps = []
for kill in range({KILLS}):
    before = newest()
    pid = os.fork()
    if pid == 0:
        child(resume=before >= 0)
        os._exit(1)
    while kill % 2 == 0 and newest() <= before:  # every other one is killed anywhere, starting included
        time.sleep(0.005)
    time.sleep(moments.uniform(0.0, 0.3))
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, "the trainer ended by itself"
    steps.append(load_newest(folder / "checkpoints", print)[1]["step"])
    assert len(list((folder / "checkpoints").glob("step-*.pt"))) <= 3, "old checkpoints pile up"
assert steps == sorted(steps) and steps[-1] >= {KILLS} // 2 - 1, steps

total = steps[-1] + 2
killed = Trainer.resume(folder, steps=total, progress=False).fit(make_dataset())
whole = start(total, "whole").fit(make_dataset())
same = [(run.model / "model.safetensors").read_bytes() for run in (killed, whole)]
assert same[0] == same[1], "the killed run ends elsewhere"
assert not list(folder.rglob(".*.tmp")), "half-written files are left"
assert len(killed.log_file.read_text().splitlines()) == total // 2 + total % 2
print("killed after steps", steps)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", HARNESS, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300 + 5 * KILLS,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "killed after steps" in process.stdout
