"""A process for each contestant of bench_autoencoder.py.

So that each has its own memory, which can be read off, and its own thread pool, and so that one that crashes is a
sentence in the table. One process computes at a time, the others wait for a word.
"""

import contextlib
import multiprocessing
import os
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from _autoencoders import MODELS
from _contestants import Refused, prepare

from sdgan_ext._errors import sentence
from sdgan_ext.bench.machine import memory_of_call, resident_memory
from sdgan_ext.bench.timing import seconds_of

#: Forked with these imported: diffusers takes seconds. Each is left out in silence where it is missing.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["diffusers.models.autoencoders", "diffusers.models.unets.unet_2d", "_contestants"])


class Failed(Exception):
    """A contestant is out, and why: a sentence."""


@dataclass(frozen=True)
class Job:
    """What one process does. ``judge`` is a file with the result as it should be; the first process writes it."""

    contestant: str
    precision: str
    model: str
    pixels: int
    batch: int
    threads: int
    weights: Path | None
    judge: Path


@dataclass(frozen=True)
class First:
    """Of a contestant's first call: its seconds, and what is wrong with the result.

    ``error`` is the norm of the difference over that of the judge, ``bytes_off`` the largest difference of an image in
    steps of 8 bits; None where there is no image, or for the judge.
    """

    settings: str
    seconds: float
    error: float | None = None
    bytes_off: int | None = None


class Worker:
    """Starts a process, loads the contestant and calls it once.

    Args:
        limit: seconds that loading and the first call may take together, and any later call.

    Raises:
        Failed: it could not be done.
    """

    def __init__(self, job: Job, limit: float):
        self.job, self.limit, self.failed = job, limit, False
        self.memories: list[int | None] = []
        self.pipe, theirs = _FORKED.Pipe()
        self.process = _FORKED.Process(target=_serve, args=(theirs, job), daemon=True)
        self.process.start()
        theirs.close()
        try:
            self.first: First = self._answer()
        except BaseException:
            self.close()
            raise

    def seconds(self, calls: int) -> float:
        """What the calls take there."""
        with contextlib.suppress(OSError):  # it has ended, which the answer says
            self.pipe.send(calls)
        return self._answer()

    @property
    def memory(self) -> int | None:
        """Bytes that a call took at most above those after loading: the median, for a heap's fragments vary."""
        known = [memory for memory in self.memories if memory is not None]
        return round(statistics.median(known)) if known else None

    def close(self) -> None:
        self.pipe.close()  # at which it ends by itself, unless it hangs
        self.process.join(5)
        self.process.kill()
        self.process.join()

    def _answer(self):
        answer = Failed(f"{self.job.contestant} took more than {self.limit:g} s")
        try:
            if self.pipe.poll(self.limit):
                answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            answer = Failed(f"the process of {self.job.contestant} ended with exit code {self.process.exitcode}")
        if isinstance(answer, Failed):
            self.failed = True
            raise answer
        value, memory = answer
        self.memories.append(memory)
        return value


def _serve(pipe, job: Job) -> None:
    """The process: answers its first call, then each number of calls with their seconds, until nobody asks any more."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # the converters' progress
        os.dup2(silence, stream)
    try:
        task, inputs = _task(job)
        ready = prepare(job.contestant, task, inputs, job.precision, job.threads)
        before = resident_memory()
        kept: list[torch.Tensor] = []
        seconds, memory = memory_of_call(lambda: seconds_of(lambda: kept.append(ready.call())), before)
        pipe.send((_first(ready, kept.pop(), seconds, job, task.image), memory))
        while True:
            calls = pipe.recv()
            pipe.send(memory_of_call(lambda: seconds_of(ready.call, calls), before))  # noqa: B023
    except EOFError:
        return
    except Refused as error:
        pipe.send(Failed(str(error)))
    except Exception as error:
        pipe.send(Failed(sentence(f"{job.contestant} failed with {type(error).__name__}: {error}")))


def _task(job: Job):
    try:
        task = MODELS[job.model].build(job.weights)
        return task, task.inputs(job.batch, job.pixels)
    except (OSError, ValueError) as error:  # --weights, --pixels
        raise Refused(sentence(error)) from None


def _first(ready, output: torch.Tensor, seconds: float, job: Job, image: bool) -> First:
    result = ready.result(output).double()
    if not job.judge.exists():
        torch.save(result, job.judge)
        return First(ready.settings, seconds)
    right = torch.load(job.judge)
    if result.shape != right.shape:
        raise Refused(f"{job.contestant} gave {list(result.shape)} instead of {list(right.shape)}")
    error = ((result - right).norm() / right.norm()).item()
    bytes_off = (_bytes(result) - _bytes(right)).abs().max().item() if image else None
    return First(ready.settings, seconds, error, bytes_off)


def _bytes(image):
    return ((image / 2 + 0.5).clamp(0, 1) * 255).round().int()
