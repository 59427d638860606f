"""Times contestants against each other: interleaved, A B A B, on a machine that others may share.

A bench file lists cases and ends in ``test_speed, main = entry_points("bench_x", cases)``; then

    python benchmarks/bench_x.py [--quick] [--threads 1 2] [--compile]     prints ratios, writes results/bench_x.csv
    pytest benchmarks/bench_x.py                                           pytest-benchmark, one group per case

Around every sample a small matrix product is timed. Samples between slow probes were disturbed by somebody else and do
not count: those stay whose probes are within 20% of the fastest one. One thread is timed by its CPU clock, which stands
still while somebody else has the core; several threads by the wall clock.

A GPU is nobody else's: `GpuTimer`, which benchmarks/gpu_check.py uses, interleaves the same way and needs no probes.
"""

import argparse
import csv
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "eager"
#: Name and layout of what a row holds; the conditions follow in the file.
COLUMNS = {"op": "36", "shape": "46", "contestant": "40", "threads": ">8", "min_us": ">12", "median_us": ">12"}
COLUMNS |= {"p80_us": ">12", "samples": ">9", "speedup": ">9"}


@dataclass(frozen=True)
class Case:
    """One row group of a table.

    ``build()`` returns the contestants, name -> (function, inputs); the one named "eager" is what ratios refer to.
    Where an input requires a gradient, forward and backward are timed, otherwise the call alone.
    """

    op: str
    shape: str
    build: Callable[[], dict[str, tuple[Callable, tuple]]]
    budget: float = 20.0  # seconds for all samples of all contestants

    def closures(self, compile: bool = False) -> dict[str, Callable[[], object]]:
        contestants = self.build()
        if compile:
            function, inputs = contestants[BASELINE]
            contestants["compile"] = (torch.compile(function), inputs)
        return {name: _closure(*contestant) for name, contestant in contestants.items()}


def _closure(function: Callable, inputs: tuple) -> Callable[[], object]:
    leaves = [t for t in inputs if isinstance(t, torch.Tensor) and t.requires_grad]
    if not leaves:
        return lambda: function(*inputs)

    def forward() -> list[torch.Tensor]:
        outputs = function(*inputs)
        return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)

    grad_outputs = [torch.randn_like(output) for output in forward()]
    return lambda: torch.autograd.grad(forward(), leaves, grad_outputs)


def in_format(memory_format: torch.memory_format, tensors: Iterable[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Leaves that require a gradient; those of four dimensions in ``memory_format``."""
    copies = (t.clone(memory_format=memory_format) if t.dim() == 4 else t.clone() for t in tensors)
    return tuple(copy.requires_grad_() for copy in copies)


# ------------------------------------------------------------------------------------------------------ timing
def _seconds(closure: Callable[[], object], calls: int = 1) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(calls):
        closure()
    return clock() - start


def interleave(closures: dict[str, Callable[[], object]], budget: float, samples: int = 15) -> dict[str, list[float]]:
    """Sorted seconds a call of each contestant, undisturbed samples only.

    Goes on until every contestant has ``samples`` of them, for ``budget`` seconds at most.
    """
    a = torch.randn(384, 384)

    def probe() -> float:
        return _seconds(lambda: torch.mm(a, a), 2)

    calls = {}
    for name, closure in closures.items():
        _seconds(closure, 2)
        calls[name] = max(1, round(1e-3 / _seconds(closure)))
    probes = [probe() for _ in range(10)]
    timed: dict[str, list[tuple[float, float]]] = {name: [] for name in closures}
    end = time.perf_counter() + budget
    while time.perf_counter() < end:
        for name, closure in closures.items():
            before = probe()
            seconds = _seconds(closure, calls[name]) / calls[name]
            after = probe()
            timed[name].append((max(before, after), seconds))
            probes += [before, after]
        quiet = 1.2 * min(probes)
        if all(sum(disturbance <= quiet for disturbance, _ in pairs) >= samples for pairs in timed.values()):
            break
    return {name: _undisturbed(pairs, 1.2 * min(probes)) for name, pairs in timed.items()}


def _undisturbed(pairs: list[tuple[float, float]], quiet: float) -> list[float]:
    pairs = sorted(pairs)
    kept = [seconds for disturbance, seconds in pairs if disturbance <= quiet]
    return sorted(kept or [seconds for _, seconds in pairs[:3]])


# ------------------------------------------------------------------------------------------------------ on a GPU
class GpuTimer:
    """Times contestants on ``device``, interleaved; each is warm already. A rehearsal on the CPU has the wall clock.

    ``busy``: how long the GPU works on a call, by CUDA events. A kernel that only sleeps goes ahead, until the CPU has
    launched all of the call, so gaps between launches do not count; and the L2 cache has been filled with other data.
    ``call``: seconds a call takes in a loop, launches included, by the wall clock.
    """

    def __init__(self, device: str):
        self.cuda = device == "cuda"
        if self.cuda:
            cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 64 << 20
            self._other_data = torch.empty(2 * cache, dtype=torch.int8, device=device)
            self._cycles = self._cycles_per_second()

    def busy(self, closures: dict[str, Callable], budget: float, samples: int = 21) -> dict[str, list[float]]:
        """Sorted seconds of each contestant: ``samples`` of them, fewer where ``budget`` seconds do not suffice."""
        launching = {name: self._launch_seconds(closure) for name, closure in closures.items()}
        times: dict[str, list[float]] = {name: [] for name in closures}
        end = time.perf_counter() + budget
        for taken in range(samples):
            if taken >= 3 and time.perf_counter() > end:
                break
            for name, closure in closures.items():
                times[name].append(self._busy_once(closure, launching[name]))
        return {name: sorted(seconds) for name, seconds in times.items()}

    def call(self, closures: dict[str, Callable], budget: float, samples: int = 5) -> dict[str, list[float]]:
        """As :meth:`busy`; a sample is the mean of as many calls as fit in a share of the budget."""
        share = budget / (samples * len(closures))
        calls = {}
        for name, closure in closures.items():
            calls[name] = max(1, min(100, int(share / max(self._loop(closure, 1), 1e-6))))
        times: dict[str, list[float]] = {name: [] for name in closures}
        for _ in range(samples):
            for name, closure in closures.items():
                times[name].append(self._loop(closure, calls[name]) / calls[name])
        return {name: sorted(seconds) for name, seconds in times.items()}

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def _loop(self, closure: Callable, calls: int) -> float:
        self.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            closure()
        self.synchronize()
        return time.perf_counter() - start

    def _launch_seconds(self, closure: Callable) -> float:
        """What the CPU needs to launch a call."""
        self.synchronize()
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            closure()
            seconds.append(time.perf_counter() - start)
            self.synchronize()
        return min(5e-3, statistics.median(seconds))

    def _busy_once(self, closure: Callable, launching: float) -> float:
        if not self.cuda:
            return self._loop(closure, 1)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._other_data.zero_()
        torch.cuda._sleep(int(self._cycles * (2 * launching + 50e-6)))
        start.record()
        closure()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3

    @staticmethod
    def _cycles_per_second() -> float:
        cycles = 20_000_000
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(2):  # the first one wakes the card
            start.record()
            torch.cuda._sleep(cycles)
            end.record()
            end.synchronize()
        return cycles / (start.elapsed_time(end) * 1e-3)


def graphed(closure: Callable[[], object], device: str) -> Callable[[], object]:
    """``closure`` as a CUDA graph that replays it; on the CPU itself."""
    if device != "cuda":
        return closure
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            closure()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = closure()  # the graph writes here

    def replay() -> object:
        graph.replay()
        return held

    return replay


def kernels_launched(closure: Callable[[], object], device: str) -> int | None:
    """How many kernels a call launches; None where the profiler cannot tell."""
    if device != "cuda":
        return None
    try:
        from torch.profiler import ProfilerActivity, profile

        closure()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            closure()
            torch.cuda.synchronize()
        on_device = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        return sum(not e.name.startswith(("Memcpy", "Memset")) for e in on_device) or None
    except RuntimeError as error:
        if "CUDA error" in str(error):
            raise
        return None


# --------------------------------------------------------------------------------------------------- reporting
def conditions() -> dict[str, str]:
    """What a figure depends on and must be quoted with."""

    def git(*arguments: str) -> str:
        try:
            return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()
        except OSError:  # no git
            return ""

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "torch": torch.__version__,
        "cpu": f"{os.cpu_count()} x {models[0] if models else platform.processor() or platform.machine()}",
        "allocator": Path(os.environ.get("LD_PRELOAD", "libc")).name,
        "commit": git("rev-parse", "--short=12", "HEAD") or "unknown",
        "dirty": str(bool(git("status", "--porcelain", "--untracked-files=no"))),
    }


def table_line(row: dict[str, object]) -> str:
    return "".join(f"{row[name]:{layout}}" for name, layout in COLUMNS.items())


def rows_of(case: Case, seconds: dict[str, list[float]]) -> list[dict[str, object]]:
    base = statistics.median(seconds[BASELINE])
    rows = []
    for name, kept in seconds.items():
        median = statistics.median(kept)
        rows.append(
            {
                "op": case.op,
                "shape": case.shape,
                "contestant": name,
                "threads": torch.get_num_threads(),
                "min_us": f"{kept[0] * 1e6:.1f}",
                "median_us": f"{median * 1e6:.1f}",
                "p80_us": f"{kept[int(0.8 * (len(kept) - 1))] * 1e6:.1f}",
                "samples": len(kept),
                "speedup": f"{base / median:.2f}",
            }
        )
    return rows


def run(name: str, cases: Iterable[Case], argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=f"{name}: medians and ratios over {BASELINE}, interleaved")
    parser.add_argument("--quick", action="store_true", help="a second a case, nothing written")
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()], help="numbers of threads")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the baseline as a further contestant")
    options = parser.parse_args(argv)
    where = conditions()
    print("  ".join(f"{key} {value}" for key, value in where.items()))
    print(table_line({name: name for name in COLUMNS}))
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for case in cases:
            seconds = interleave(case.closures(options.compile), 1.0 if options.quick else case.budget)
            for row in rows_of(case, seconds):
                rows.append({**row, **where})
                print(table_line(row), flush=True)
    if not options.quick:
        path = ROOT / "benchmarks" / "results" / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"wrote {path.relative_to(ROOT)}")


def entry_points(name: str, cases: list[Case]) -> tuple[Callable, Callable[[], None]]:
    """A pytest-benchmark test over the cases, and the ``main`` that prints and writes their table."""

    @pytest.mark.parametrize("contestant", [BASELINE, "sdgan_ext"])
    @pytest.mark.parametrize("case", cases, ids=lambda case: f"{case.op}-{case.shape}")
    def test_speed(case, contestant, benchmark):
        benchmark.group = f"{case.op} {case.shape}"
        benchmark(case.closures()[contestant])

    return test_speed, lambda: run(name, cases)
