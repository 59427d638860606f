"""What a training run reports: a progress bar, log.jsonl, pictures, and all of it to the trackers."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from sdgan_ext._files import open_regular, replacing, to_json, write_errors_named
from sdgan_ext.pictures import save_png
from sdgan_ext.training.runs import Run
from sdgan_ext.training.steps import check_finite
from sdgan_ext.training.trackers import Trackers

__all__ = ["LossMeter", "Monitor"]

_LONGEST_LINE = 2**20  # bytes of log.jsonl


class LossMeter:
    """Means of the losses over a log interval.

    On a GPU the numbers are fetched only when asked for, so that no step waits for the device; the step at which one
    first was not finite is known all the same.
    """

    def __init__(self):
        self._pending: list[tuple[int, Mapping[str, Tensor]]] = []
        self._values: dict[str, list[float]] = {}

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """
        Raises:
            DivergedError: a loss on the CPU is NaN or infinite.
        """
        self._pending.append((step, losses))
        if all(loss.device.type == "cpu" for loss in losses.values()):
            self.check()

    def check(self) -> None:
        """
        Raises:
            DivergedError: a loss that came since the last call is NaN or infinite; phase, term and step are named.
        """
        pending, self._pending = self._pending, []
        for step, losses in pending:
            check_finite(losses, step)
            for name, loss in losses.items():
                self._values.setdefault(name, []).append(loss.item())

    def means(self) -> dict[str, float]:
        """The mean of every loss since the last call."""
        self.check()
        values, self._values = self._values, {}
        return {name: math.fsum(numbers) / len(numbers) for name, numbers in values.items()}


class Monitor:
    """Speaks for one run; a context manager. With ``run.folder`` None nothing is written.

    Args:
        run: the run; ``run.step`` steps and ``run.seconds`` of training are behind it.
        steps: how many it will have taken in the end.
        batch_size: images in a step.
        progress: show a bar on a terminal, or print a line per log interval where there is none.
        trackers: names of :data:`~sdgan_ext.training.trackers.TRACKERS`.
        config: for the trackers.
    """

    def __init__(
        self,
        run: Run,
        *,
        steps: int,
        batch_size: int,
        progress: bool = True,
        trackers: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ):
        self.run, self.steps, self.batch_size, self.progress = run, steps, batch_size, progress
        self._meter = LossMeter()
        self._logged = (run.step, run.seconds)
        self._since = time.perf_counter()
        self._tracked = (trackers, config or {})
        self._bar = self._trackers = self._log = None
        self._unreadable = 0

    def __enter__(self) -> Monitor:
        if self.run.folder is not None:
            self._log = open_log(self.run.log_file, self.run.step)
            names, config = self._tracked
            self._trackers = Trackers(names, self.run.folder, self.run.step, config)
        terminal = self.progress and sys.stderr.isatty()
        self._bar = tqdm(
            total=self.steps * self.batch_size,
            initial=self.run.step * self.batch_size,
            unit_scale=True,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar:12}| {n_fmt}/{total_fmt} images [{elapsed}<{remaining}{postfix}]",
            disable=not terminal,
        )
        self._since = time.perf_counter()
        return self

    def __exit__(self, kind, *exception) -> None:
        self._bar.close()
        if self._log is not None:
            with contextlib.suppress(OSError):  # every write was flushed, or its failure reported
                self._log.close()
        if self._trackers is not None:
            self._trackers.end("failed" if kind else "stopped" if self.run.stopped_by else "finished")

    def say(self, line: str) -> None:
        """A line for the user, above the bar."""
        if self.progress:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent here is not counted as training."""
        self._tick()
        try:
            yield
        finally:
            self._since = time.perf_counter()

    def step(self, losses: Mapping[str, Tensor]) -> None:
        """Takes the losses of step ``run.step``."""
        self._meter.add(self.run.step, losses)
        self._bar.update(self.batch_size)

    def check(self) -> None:
        """
        Raises:
            DivergedError: as in :meth:`LossMeter.check`.
        """
        self._meter.check()

    def log(self, more: Mapping[str, float] | None = None) -> dict[str, float]:
        """Ends a log interval: its record, with ``more``; also in ``run.metrics``, log.jsonl and the trackers."""
        more = more or {}
        losses = self._meter.means()
        self._tick()
        step, (last_step, last_seconds) = self.run.step, self._logged
        self._logged = (step, self.run.seconds)
        images = step * self.batch_size
        s_per_kimg = (self.run.seconds - last_seconds) / max(1, (step - last_step) * self.batch_size) * 1000
        times = {"seconds": round(self.run.seconds, 3), "s_per_kimg": round(s_per_kimg, 4)}
        self.run.metrics = {"step": step, "images": images} | times | losses | more
        words = f"{s_per_kimg:.3g} s/kimg {_words(losses)}"
        self._bar.set_postfix_str(words)
        if self._bar.disable:
            self.say(f"step {step}/{self.steps} {images:,} images {words}")
        self._record(self.run.metrics)
        if self._trackers is not None:
            self._trackers.scalars(step, {"timing/s_per_kimg": s_per_kimg} | losses | more)
        return self.run.metrics

    def evaluation(self, values: Mapping[str, float]) -> None:
        """A record of its own, also in ``run.metrics``, log.jsonl and the trackers, and a line for the user."""
        self.run.metrics = {**self.run.metrics, **values}
        words = ", ".join(f"{name.rpartition('/')[2]} {value:.5g}" for name, value in values.items())
        self.say(f"step {self.run.step}/{self.steps} held-out {words}")
        self._record({"step": self.run.step, **values})
        if self._trackers is not None:
            self._trackers.scalars(self.run.step, values)

    def unreadable(self, images: Mapping[int, str]) -> None:
        """A record in log.jsonl of each that is new: why it cannot be read; others stand in their places."""
        for index, reason in list(images.items())[self._unreadable :]:
            self._unreadable += 1
            self._record({"step": self.run.step, "image": index, "unreadable": reason})

    def picture(self, name: str, grid: Tensor) -> None:
        """Keeps a uint8 [C, H, W] grid as ``samples/<name>-<step>.png`` and in the trackers."""
        if self.run.folder is not None:
            save_png(self.run.samples / f"{name}-{self.run.step:08d}.png", grid)
        if self._trackers is not None:
            self._trackers.image(self.run.step, name, grid)

    def _record(self, values: Mapping[str, object]) -> None:
        """A line of log.jsonl."""
        if self._log is not None:
            with write_errors_named(self.run.log_file):
                self._log.write(to_json(values) + "\n")
                self._log.flush()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.run.seconds += now - self._since
        self._since = now


def _words(losses: Mapping[str, float]) -> str:
    """Losses in little space: the initials of the phase, its terms, their values."""
    phases: dict[str, list[str]] = {}
    for name, value in losses.items():
        phase, _, term = name.rpartition("/")
        initials = "".join(word[:1].upper() for word in phase.split("_"))
        phases.setdefault(initials, []).append(f"{term.replace('adversarial', 'adv')} {value:.3g}")
    return "  ".join(f"{initials}: {', '.join(terms)}" for initials, terms in phases.items())


def open_log(path: Path, step: int):
    """log.jsonl to append to, without what an interrupted process wrote after ``step``, its last checkpoint."""
    with contextlib.ExitStack() as stack, replacing(path) as file:
        if os.path.lexists(path):
            old = stack.enter_context(open_regular(path))
            lines = iter(lambda: old.readline(_LONGEST_LINE), b"")
            file.writelines(line for line in lines if (number := _step_of(line)) is not None and number <= step)
    with write_errors_named(path):
        return open(path, "a", encoding="utf-8")


def _step_of(line: bytes) -> int | None:
    try:
        step = json.loads(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None
