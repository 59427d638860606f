"""What the bench files have in common: a list of cases becomes a table, a CSV and a pytest-benchmark comparison.

A bench file has ``CASES`` and ends in ``test_speed, main = entry_points("bench_x", CASES)``; then

    python benchmarks/bench_x.py [--quick] [--threads 1 2] [--compile] [--only TEXT] [--out FOLDER]
    pytest benchmarks/bench_x.py [the same]          and pytest-benchmark's tables, one group per op and shape

How contestants are timed, interleaved and probed, is `sdgan_ext/bench/timing.py`, which `sdgan-ext bench` has too.
Under pytest each comparison is measured once, for all its contestants; pytest-benchmark is then given the samples, by a
clock that replays them. So its tables, the printed ones and the CSV say the same.

benchmarks/gpu has a timer of its own for GPUs.
"""

import argparse
import csv
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from sdgan_ext.bench import machine, table
from sdgan_ext.bench.cases import Case
from sdgan_ext.bench.timing import Timing

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
QUICK_SECONDS = 0.5  # for a comparison
QUICK_END = 210.0  # after which --quick begins no further one: on a busy machine they take their time


# --------------------------------------------------------------------------------------------------- reporting
def conditions() -> dict[str, str]:
    """What a figure depends on and must be quoted with. Results do not make a tree dirty: a run writes them."""

    def git(*arguments: str) -> str:
        try:
            return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()
        except OSError:  # no git
            return ""

    commit = git("rev-parse", "--short=12", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return machine.conditions() | {"commit": commit or "unknown", "dirty": str(bool(changes)) if commit else ""}


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def add_options(add: Callable) -> None:
    """Those of a bench file and of pytest; ``add`` is argparse's or pytest's way to add one."""
    add("--quick", action="store_true", help="the most important cases, half a second each; nothing is written")
    add("--threads", type=int, nargs="+", help="numbers of threads; torch's choice unless given")
    add("--compile", action="store_true", help="torch.compile of the baseline as a further contestant")
    add("--only", default="", help="the cases whose op and shape contain this; nothing is written")
    add("--out", type=Path, help="the folder for the CSV; benchmarks/results unless given, or none is written")


class Session:
    """Measures comparisons, prints and keeps their rows, and writes those of a bench file that was run as a whole."""

    def __init__(self, options, write: Callable[[str], None] = print):
        self.quick, self.compile, self.only = options.quick, options.compile, options.only
        self.threads = options.threads or [torch.get_num_threads()]
        self.out = options.out or (None if options.quick or options.only else RESULTS)
        self.write = write
        self.where = conditions()
        self.rows: dict[str, list[dict]] = {}
        self._latest: tuple = (None, None)
        self._end = time.monotonic() + QUICK_END if self.quick else float("inf")

    def begin(self) -> None:
        self.write("  ".join(f"{key} {value}" for key, value in self.where.items()))
        self.write(table.heading())

    def comparisons(self, cases: Iterable[Case]) -> list[tuple[int, Case, str]]:
        """(threads, case, passes) of what is to be measured."""
        chosen = [case for case in cases if self.only in f"{case.op} {case.shape}" and (case.quick or not self.quick)]
        return [(threads, case, passes) for threads in self.threads for case in chosen for passes in case.passes]

    def measure(self, name: str, threads: int, case: Case, passes: str) -> tuple[dict[str, Timing], list[dict]] | None:
        """Times and row of every contestant; None when the time of --quick is up. The latest one is remembered."""
        key = (name, threads, case.op, case.shape, case.dtype, passes)
        if self._latest[0] != key:
            if time.monotonic() > self._end:
                return None
            torch.set_num_threads(threads)
            budget = QUICK_SECONDS if self.quick else case.budget
            timings, rows = table.measure(case, passes, budget, with_compile=self.compile)
            self._latest = key, (timings, rows)
            self.rows.setdefault(name, []).extend(row | self.where for row in rows)
            self.write(table.title(rows[0]))
            for row in rows:
                self.write(table.line(row))
        return self._latest[1]

    def finish(self, name: str) -> None:
        if self.out is not None and self.rows.get(name):
            write_rows(self.out / f"{name}.csv", self.rows[name])
            self.write(f"wrote {self.out / name}.csv")


def run(name: str, cases: list[Case], argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=f"{name}: medians and their ratios, interleaved")
    add_options(parser.add_argument)
    session = Session(parser.parse_args(argv), lambda line: print(line, flush=True))
    session.begin()
    for comparison in session.comparisons(cases):
        if session.measure(name, *comparison) is None:
            session.write("the time of --quick is up")
            return
    session.finish(name)


class Replay:
    """A clock that goes on by the next sample whenever ``tick`` is called."""

    def __init__(self, seconds: list[float]):
        self.seconds, self.now = iter(seconds), 0.0

    def tick(self) -> None:
        self.now += next(self.seconds, 0.0)

    def __call__(self) -> float:
        return self.now


def entry_points(name: str, cases: list[Case]) -> tuple[Callable, Callable[[], None]]:
    """A pytest-benchmark test over the cases, parametrised by conftest.py, and the ``main`` of the file."""

    def test_speed(comparison, contestant, session, benchmark):
        measured = session.measure(name, *comparison)
        if measured is None:
            pytest.skip("the time of --quick is up")
        timings, rows = measured
        clock = Replay(timings[contestant].seconds)
        benchmark._timer = clock  # a marker would have to know it before anything is measured
        benchmark.group, benchmark.name = table.title(rows[0]), contestant
        benchmark.extra_info |= next(row for row in rows if row["contestant"] == contestant)
        benchmark.pedantic(clock.tick, rounds=len(timings[contestant].seconds))

    test_speed.bench_file = name, cases
    return test_speed, lambda: run(name, cases)
