"""How the contestants of a cell are compared: interleaved, in one process, as rows of a table.

Of the baselines, "eager" is what a user gets who sets nothing; "eager channels_last" has
`torch.backends.cudnn.benchmark` too, as have ours; "compile" is torch.compile of the latter.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from sdgan_ext import ops
from sdgan_ext.bench.work import Work

from .machine import Machine
from .timer import GpuTimer, kernels_launched

BASELINE = "eager channels_last"
DTYPES = {"bf16": (torch.bfloat16, 2), "tf32": (torch.float32, 4), "float32": (torch.float32, 4)}


@dataclass
class Context:
    """``budget``: seconds for the samples of one comparison. ``notes``: what a reader must know of a missing number."""

    machine: Machine
    timer: GpuTimer
    rehearse: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def device(self) -> str:
        return self.machine.device

    @property
    def budget(self) -> float:
        return 0.02 if self.rehearse else 1.0

    def compiled(self, function: Callable, mode: str) -> Callable:
        how = {"backend": "aot_eager"} if self.rehearse else {"mode": mode}
        return torch.compile(function, dynamic=False, **how)


@dataclass(frozen=True)
class Cell:
    """``measure`` gives rows of ops.csv or step.csv, as ``table`` says."""

    key: str
    measure: Callable[[Context], list[dict]]
    table: str = "ops"


def compare(
    context: Context,
    labels: dict[str, object],
    contestants: dict[str, Callable[[], object]],
    work: Work | None,
    precision: str,
    baseline: str,
    taken: str = "",
    count: bool = True,
) -> list[dict]:
    """Rows of all contestants that run; one that raises is left out, with a note.

    ``taken``: the path that `auto` takes. ``count``: also count the kernels.
    """
    able = {}
    for name, closure in contestants.items():
        try:
            for _ in range(1 if context.rehearse else 3):
                closure()
            context.timer.synchronize()
            able[name] = closure
        except Exception as error:
            if "CUDA error" in str(error):  # nothing more can run in this process
                raise
            context.notes.append(f"{' '.join(map(str, labels.values()))}: {name} did not run: {first_line(error)}")
    busy = context.timer.busy(able, context.budget)
    call = context.timer.call(able, context.budget / 4)
    rows = []
    peaks = context.machine.peaks
    for name in able:
        median = statistics.median(busy[name])
        base = statistics.median(busy[baseline]) if baseline in able else None
        floor = work.seconds(peaks, precision) if work and peaks else None
        rows.append(
            labels
            | {
                "contestant": name,
                "busy_us": us(median),
                "busy_min_us": us(busy[name][0]),
                "busy_p80_us": us(busy[name][int(0.8 * (len(busy[name]) - 1))]),
                "call_us": us(statistics.median(call[name])),
                "samples": len(busy[name]),
                "launches": (kernels_launched(able[name], context.device) if count else None) or "",
                "tflops": f"{work.flop / median * 1e-12:.1f}" if work and work.flop else "",
                "gbps": f"{work.bytes / median * 1e-9:.0f}" if work else "",
                "floor_us": us(floor) if floor else "",
                "floor_share": f"{floor / median:.3f}" if floor else "",
                "speedup": f"{base / median:.3f}" if base else "",
                "baseline": baseline,
                "taken": taken if name == "sdgan_ext" else "",
            }
        )
    return rows


def us(seconds: float) -> str:
    return f"{seconds * 1e6:.2f}"


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def under(closure: Callable[[], object], *, search: bool, backend: str = "auto") -> Callable[[], object]:
    """``closure`` with cuDNN's search for the fastest algorithm on or off, on one backend."""

    def run() -> object:
        torch.backends.cudnn.benchmark = search
        with ops.conv_backend(backend):
            return closure()

    return run
