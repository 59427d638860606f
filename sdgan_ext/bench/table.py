"""Measures a case and makes rows of it; prints them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .cases import BASELINES, COMPILE, OURS, Case
from .machine import measured_peaks, peak_memory
from .timing import Timing, closure_of, interleave

__all__ = ["FIGURES", "heading", "is_ours", "line", "measure", "times", "title"]

#: The figures of a row as they are printed: column, heading, layout.
FIGURES = {
    "min_us": ("min us", ">13"),
    "median_us": ("median us", ">13"),
    "p80_us": ("p80 us", ">13"),
    "samples": ("n", ">5"),
    "over_eager": ("over eager", ">12"),
    "over_channels_last": ("over ch.last", ">14"),
    "over_compile": ("over compile", ">14"),
    "gflops": ("GF/s", ">9"),
    "gbps": ("GB/s", ">8"),
    "of_peak": ("of peak", ">9"),
    "memory_mb": ("MB", ">9"),
}
_NAME = "<38"


def measure(
    case: Case, passes: str, budget: float, *, with_compile: bool = False
) -> tuple[dict[str, Timing], list[dict[str, object]]]:
    """The times of every contestant of one case, and its rows.

    ``over_x`` is the ratio of medians, how many times as fast as x; ``of_peak`` the share of the most that the
    machine's measured peaks allow. The FLOP are those of the direct algorithm, so fewer multiplications may take it
    above 1, and the bytes are memory's, so a cache may.
    """
    contestants = case.contestants(with_compile)
    closures: dict[str, Callable[[], object]] = {}
    memory: dict[str, int | None] = {}
    for name, (function, inputs) in contestants.items():
        closures[name], memory[name] = peak_memory(lambda: closure_of(function, inputs, passes))  # noqa: B023
        if name == COMPILE:
            memory[name] = None  # most of it is the compiler's
    timings = interleave(closures, budget, warm=1)
    kernels = case.kernels(contestants, passes)
    work = case.work(passes) if case.work else None
    peaks = measured_peaks(case.dtype) if work else None
    rows = []
    for name, timing in timings.items():
        median = timing.median
        taken = memory[name]
        rows.append(
            {
                "op": case.op,
                "shape": case.shape,
                "dtype": case.dtype,
                "passes": passes,
                "contestant": name,
                "kernel": kernels.get(name, ""),
                **times(name, timings),
                "gflops": f"{work.flop / median * 1e-9:.1f}" if work and work.flop else "",
                "gbps": f"{work.bytes / median * 1e-9:.2f}" if work else "",
                "of_peak": f"{work.seconds(peaks, case.dtype) / median:.3f}" if work else "",
                "memory_mb": "" if taken is None else f"{taken / 2**20:.1f}",
                "peak_gflops": f"{peaks[case.dtype] * 1e-9:.0f}" if work and work.flop else "",
                "peak_gbps": f"{peaks['bytes'] * 1e-9:.1f}" if work else "",
            }
        )
    return timings, rows


def times(name: str, timings: dict[str, Timing]) -> dict[str, object]:
    """The columns of one contestant's times, and of its ratios over the baselines among ``timings``."""
    timing = timings[name]
    return {
        "threads": torch.get_num_threads(),
        "min_us": f"{timing.min * 1e6:.1f}",
        "median_us": f"{timing.median * 1e6:.1f}",
        "p80_us": f"{timing.p80 * 1e6:.1f}",
        "samples": len(timing.seconds),
        "disturbed": timing.disturbed,
        **{
            f"over_{column}": f"{timings[base].median / timing.median:.3f}" if base in timings else ""
            for column, base in BASELINES.items()
        },
    }


def title(row: dict[str, object]) -> str:
    """What all contestants of a case have in common."""
    threads = f"{row['threads']} thread{'s' if int(row['threads']) != 1 else ''}"
    return f"{row['op']} {row['shape']}, {row['dtype']}, {row['passes']}, {threads}"


def heading() -> str:
    return f"{'':{_NAME}}" + "".join(f"{name:{layout}}" for name, layout in FIGURES.values())


def line(row: dict[str, object]) -> str:
    name = f"  {row['contestant']}" + (f" [{row['kernel']}]" if row["kernel"] else "")
    figures = "".join(f"{row[column]:{layout}}" for column, (_, layout) in FIGURES.items())
    return f"{name:{_NAME}}{figures}{'  disturbed' if row['disturbed'] else ''}"


def is_ours(row: dict[str, object]) -> bool:
    return str(row["contestant"]).startswith(OURS)
