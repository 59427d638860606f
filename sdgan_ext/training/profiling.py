"""A trace of some steps of a run, for Chrome, Perfetto or TensorBoard."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from .._files import write_errors_named
from .runs import Run

__all__ = ["STEPS", "WARM_UP", "StepProfiler"]

WARM_UP = 5
"""Steps before the trace: memory is allocated, and a CUDA graph captured, in them."""
STEPS = 10
"""Steps in the trace."""


class StepProfiler:
    """A context manager around the steps of a run, and :meth:`step` to call after each.

    The trace is written after its last step, or with the steps there are when the context is left before; where that
    is in the warm-up there is none, and a line says so.

    Args:
        run: with a folder; the trace is ``profile/steps-<first>-<last>.pt.trace.json`` in it.
        device: of the training; on CUDA the kernels are in the trace.
        say: takes a line for the user.
    """

    def __init__(self, run: Run, device: torch.device, say: Callable[[str], None]):
        self._run, self._say = run, say
        self._first = run.step + WARM_UP + 1
        self._written = False
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])],
            schedule=schedule(wait=0, warmup=WARM_UP, active=STEPS, repeat=1),
            on_trace_ready=self._write,
        )

    def __enter__(self) -> StepProfiler:
        self._profile.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._profile.__exit__(*exception)
        if not self._written:
            self._say(f"no trace is written: the first {WARM_UP} steps of a run warm up, and there were no more")

    def step(self) -> None:
        """Ends a step."""
        self._profile.step()

    def _write(self, trace: profile) -> None:
        path = self._run.folder / "profile" / f"steps-{self._first:08d}-{self._run.step:08d}.pt.trace.json"
        with write_errors_named(path):
            path.parent.mkdir(exist_ok=True)
            trace.export_chrome_trace(str(path))
        self._written = True
        self._say(f"a trace of steps {self._first} to {self._run.step} is in {path}")
