"""Long runs against one promise each.

    python benchmarks/soak.py kills [--count 1000] [--seed 0] [--out FOLDER]

``kills``: SIGKILL ends a training COUNT times, at a random moment of a step and, every other time, of the writing of a
checkpoint. Each time the next process must go on from the newest checkpoint that was complete, or a later one, and that
must be, bit for bit, what a run that nobody killed had at that step: weights, averages, optimizers, random numbers.
Writes soak_kills.csv, a row a kill, and soak.csv with the sums to FOLDER, benchmarks/results unless given. A second or
two a kill on one core: one process imports torch and forks a trainer for each.
"""

import argparse
import csv
import hashlib
import os
import random
import select
import shutil
import signal
import tempfile
import time
import traceback
from pathlib import Path

import torch
from _harness import RESULTS, conditions, write_rows
from tensorboard.summary.writer import event_file_writer  # noqa: F401  imported before the forks, like all the rest

import sdgan_ext as sd
from sdgan_ext.data import ImageDataset
from sdgan_ext.training import loop as loop_module
from sdgan_ext.training import trainer as trainer_module
from sdgan_ext.training.state import load_newest

PATIENCE = 300.0  # seconds for a trainer to come to its first step
COLUMNS = ("kill", "while", "half_written", "steps", "last_complete", "goes_on_from", "same_bits")
STATE = ("step", "model", "ema", "optimizers", "generator", "torch_generator")
MODEL = sd.VAEGANConfig(
    image_size=16, latent_dim=8, encoder_channels=(16,), generator_channels=(16,), discriminator_channels=(16,)
)
TRAIN = sd.TrainConfig(
    steps=10**9, batch_size=8, log_every=50, sample_every=10**9, checkpoint_every=3, r1_gamma=0.5, r1_every=2
)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kills"])
    parser.add_argument("--count", type=int, default=1000, help="kills (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the CSV files")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # OpenMP does not survive a fork
    sd.Trainer(sd.VAEGAN(MODEL), TRAIN, out=None, progress=False)  # with the first optimizer torch imports a lot
    work = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        row = kills(args.count, random.Random(args.seed), work, args.out / "soak_kills.csv")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    write_rows(args.out / "soak.csv", [row | conditions()])
    print(row)


# ------------------------------------------------------------------------------------------------------- kills
def kills(count, moments, work, table):
    """The sums over ``count`` kills; their rows are in ``table`` as they come.

    Raises:
        SystemExit: one of them has cost something.
    """
    began, rows, saving, saved = time.perf_counter(), [], 0.02, 0
    reference = Reference(work / "reference")
    out = work / "killed"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for number in range(1, count + 1):
            aim, within = ("writing", 1.2 * saving) if number % 2 else ("stepping", 0.05)
            said = killed_trainer(out, aim, moments.randrange(4), moments.uniform(0.0, within))
            taken = [step for word, step, _ in said if word == "stepping"]
            if taken[0] != saved:
                raise SystemExit(f"kill {number}: the trainer went on from step {taken[0]} instead of {saved}")
            complete = [(step, float(seconds)) for word, step, seconds in said if word == "saved"]
            last, saving = complete[-1] if complete else (saved, saving)
            state = newest(out, number)
            saved = state["step"]
            row = {
                "kill": number,
                "while": "writing" if said[-1][0] == "writing" else "stepping",
                "half_written": len(list(out.rglob(".*.tmp"))),
                "steps": len(taken),
                "last_complete": last,
                "goes_on_from": saved,
                "same_bits": digest(state) == reference.at(saved),
            }
            rows.append(row)
            writer.writerow(row)
            file.flush()
            if saved < last or not row["same_bits"]:
                raise SystemExit(f"kill {number} has cost something: {row}")
    steps = saved + 2 * TRAIN.checkpoint_every
    pid, said = forked(lambda say: train(out, steps=steps))
    if list(said) or ended(pid) != 0 or list(out.rglob(".*.tmp")):
        raise SystemExit(f"kill {count}: the last trainer did not come to its end")
    if digest(newest(out, count)) != reference.at(steps):
        raise SystemExit(f"kill {count}: the last trainer has ended with other bits")
    reference.close()
    return {
        "soak": "kills",
        "kills": count,
        "while_stepping": sum(row["while"] == "stepping" for row in rows),
        "while_writing": sum(row["while"] == "writing" for row in rows),
        "half_written": sum(row["half_written"] for row in rows),
        "resumed": len(rows),  # the next trainer, or the last, has shown it
        "same_bits": sum(row["same_bits"] for row in rows),
        "steps": steps,
        "seconds": round(time.perf_counter() - began),
    }


def killed_trainer(out, aim, passed, delay):
    """What a trainer has said until it was killed: [(word, step, more)].

    Args:
        aim: "stepping" or, once it has begun its first step, "writing".
        passed: how often it may say so before.
        delay: seconds after it has said so again.
    """
    pid, stream = forked(lambda say: (announce(say), train(out)))
    said, stepped = [], False
    for message in stream:
        said.append(message)
        stepped = stepped or message[0] == "stepping"
        passed -= stepped and message[0] == aim
        if passed < 0:
            break
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    said += stream
    if (code := ended(pid)) != -signal.SIGKILL:
        raise SystemExit(f"a trainer has ended by itself, with exit code {code}")
    return said


def train(out, steps=None):
    """Goes on with the run in ``out``, or begins one."""
    if out.exists():
        (folder,) = out.iterdir()
        trainer = sd.Trainer.resume(folder, steps=steps, progress=False)
    else:
        torch.manual_seed(0)
        trainer = sd.Trainer(sd.VAEGAN(MODEL), TRAIN, out=out, progress=False)
    generator = torch.Generator().manual_seed(0)
    trainer.fit(ImageDataset(torch.randint(0, 256, (64, 1, 16, 16), generator=generator).byte(), name="noise"))


def announce(say):
    """From now on a step says "stepping STEP", a checkpoint "writing STEP" and then "saved STEP SECONDS"."""
    train_step, save_checkpoint = trainer_module.train_step, loop_module.save_checkpoint

    def announced_step(*arguments, step, **options):
        say("stepping", step)
        return train_step(*arguments, step=step, **options)

    def announced_save(folder, state, **options):
        say("writing", state["step"])
        began = time.perf_counter()
        save_checkpoint(folder, state, **options)
        say("saved", state["step"], time.perf_counter() - began)

    trainer_module.train_step, loop_module.save_checkpoint = announced_step, announced_save


class Reference:
    """A run that nobody kills; it waits, its pipe full, until its digests are asked for."""

    def __init__(self, out):
        self._pid, self._said = forked(lambda say: (self._announce(say), train(out)))
        self._digests = {}

    @staticmethod
    def _announce(say):
        loop_module.save_checkpoint = lambda folder, state, **_: say("saved", state["step"], digest(state))

    def at(self, step):
        """The digest of what it had after ``step`` steps."""
        while step not in self._digests:
            _, known, self._digests[known] = next(self._said)
            if known > step:
                raise SystemExit(f"step {step} is not one at which a checkpoint is due")
        return self._digests[step]

    def close(self):
        os.kill(self._pid, signal.SIGKILL)
        ended(self._pid)


# ----------------------------------------------------------------------------------------------------- processes
def forked(work):
    """A process that does ``work(say)``: its id, and what it says, (word, step, more) each."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            work(lambda word, step, more="-": os.write(write, f"{word} {step} {more}\n".encode()))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write)
    return pid, heard(read)


def heard(descriptor):
    rest = b""
    while True:
        if not select.select([descriptor], [], [], PATIENCE)[0]:
            raise SystemExit(f"a trainer has said nothing for {PATIENCE:.0f} seconds")
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            os.close(descriptor)
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            word, step, more = line.decode().split()
            yield word, int(step), more


def ended(pid):
    """The exit code of a process, once it has ended; that of a signal is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def newest(out, number):
    """The newest checkpoint of the run in ``out``: all that the next trainer needs."""
    (folder,) = out.iterdir()

    def damaged(line):
        raise SystemExit(f"kill {number} has left a damaged checkpoint: {line}")

    return load_newest(folder / "checkpoints", damaged)[1]


def digest(state):
    """Of everything in a checkpoint that a training goes on from."""
    total = hashlib.sha256()

    def add(value):
        if isinstance(value, torch.Tensor):
            total.update(f"{value.dtype}{tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key, entry in value.items():
                total.update(str(key).encode())
                add(entry)
        elif isinstance(value, (list, tuple)):
            for entry in value:
                add(entry)
        else:
            total.update(repr(value).encode())

    add({key: state[key] for key in STATE})
    return total.hexdigest()


if __name__ == "__main__":
    main()
