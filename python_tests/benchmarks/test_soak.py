"""benchmarks/soak.py kills: twenty kills cost nothing; a checkpoint written in place and a resume that forgets do."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

#: Mistakes: what is done to the training before it is killed, and what the soak says of it.
IN_PLACE = """
import io
def save_checkpoint(folder, state, *, keep):
    buffer = io.BytesIO()
    torch.save({"format": 1, **state}, buffer)
    with open(folder / f"step-{state['step']:08d}.pt", "wb") as file:
        for start in range(0, len(buffer.getbuffer()), 500):
            file.write(buffer.getbuffer()[start : start + 500])
            file.flush()
            time.sleep(0.001)
soak.loop_module.save_checkpoint = save_checkpoint
"""
FORGETS = """
def load(self, state, path, real=soak.sd.Trainer._load):
    generator = self.generator.get_state()
    real(self, state, path)
    self.generator.set_state(generator)
soak.sd.Trainer._load = load
"""


def run(out, count, mistake=""):
    script = f"import time, torch, soak\n{mistake}\nsoak.main(['kills', '--count', '{count}', '--out', {str(out)!r}])"
    path = os.pathsep.join([str(BENCHMARKS), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_twenty_kills_cost_nothing(tmp_path):
    done = run(tmp_path, 20)
    assert done.returncode == 0, done.stderr[-3000:]
    rows, (total,) = (list(csv.DictReader((tmp_path / name).open())) for name in ("soak_kills.csv", "soak.csv"))
    assert [int(row["kill"]) for row in rows] == list(range(1, 21))
    assert all(row["same_bits"] == "True" and int(row["steps"]) >= 1 for row in rows)
    assert all(int(row["last_complete"]) <= int(row["goes_on_from"]) for row in rows)
    counted = [sum(row["while"] == kind for row in rows) for kind in ("stepping", "writing")]
    assert min(counted) > 0 and counted == [int(total["while_stepping"]), int(total["while_writing"])]
    assert (total["kills"], total["resumed"], total["same_bits"]) == ("20", "20", "20")


@pytest.mark.parametrize(
    ("mistake", "words"), [(IN_PLACE, "has left a damaged checkpoint"), (FORGETS, "has cost something")]
)
def test_a_mistake_is_found(mistake, words, tmp_path):
    done = run(tmp_path, 20, mistake)
    assert done.returncode == 1 and words in done.stderr, done.stderr[-3000:]
    assert not (tmp_path / "soak.csv").exists()
