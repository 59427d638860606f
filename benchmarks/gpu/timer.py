"""Times contestants on a GPU, which is nobody else's: interleaved as on the CPU, without probes of the machine."""

import statistics
import time
from collections.abc import Callable

import torch


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
    """How many kernels a call launches; None where the profiler has no answer."""
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
