"""Times contestants against each other: interleaved, A B A B, on a machine that others may share.

Around every sample a small matrix product is timed. Samples between slow probes were disturbed by somebody else and do
not count: those stay whose probes are within 20% of the fastest one. One thread is timed by its CPU clock, which stands
still while somebody else has the core; several threads by the wall clock. A sample of short calls lasts a millisecond;
by the wall clock it is their median, for one that waits 8 ms for its core would outweigh a hundred that do not.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["PASSES", "Timing", "closure_of", "interleave", "seconds_of"]

PASSES = ("forward", "forward + backward")


@dataclass(frozen=True)
class Timing:
    """Sorted seconds a call. ``disturbed``: few samples were quiet, and these are those of the quietest probes."""

    seconds: list[float]
    disturbed: bool = False

    @property
    def min(self) -> float:
        return self.seconds[0]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p80(self) -> float:
        return self.seconds[math.ceil(0.8 * len(self.seconds)) - 1]


def closure_of(function: Callable, inputs: tuple, passes: str = PASSES[1]) -> Callable[[], object]:
    """A call without arguments of the passes named: "forward", "backward", "forward + backward", or else all there is.

    The gradients are those of all inputs that require one; with "forward" none does. A loss is differentiated as
    ``loss.backward()`` does it, other outputs with random gradients.
    """
    if passes == "forward":
        inputs = tuple(t.detach() if isinstance(t, torch.Tensor) else t for t in inputs)
    leaves = [t for t in inputs if isinstance(t, torch.Tensor) and t.requires_grad]
    if not leaves:
        return lambda: function(*inputs)

    def forward() -> list[torch.Tensor]:
        outputs = function(*inputs)
        return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)

    if passes == "backward":
        held: list[list[torch.Tensor]] = []

        def backward() -> object:
            if not held:  # made by the first call, under the settings of its contestant
                outputs = forward()
                held.extend((outputs, [torch.randn_like(output) for output in outputs]))
            return torch.autograd.grad(held[0], leaves, held[1], retain_graph=True)

        return backward
    outputs = forward()
    alone = len(outputs) == 1 and outputs[0].dim() == 0
    grad_outputs = None if alone else [torch.randn_like(output) for output in outputs]
    del outputs
    return lambda: torch.autograd.grad(forward(), leaves, grad_outputs)


def seconds_of(closure: Callable[[], object], calls: int = 1) -> float:
    """Of ``calls`` calls in all: of CPU time with one thread, by the clock with several."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(calls):
        closure()
    return clock() - start


def interleave(
    closures: dict[str, Callable[[], object]],
    budget: float,
    samples: int = 15,
    *,
    warm: int | None = 2,
    seconds: Callable[[Callable[[], object], int], float] = seconds_of,
) -> dict[str, Timing]:
    """Undisturbed samples of each contestant.

    Goes on until every contestant has ``samples`` of them, for ``budget`` seconds at most, but for two rounds. Each is
    called ``warm`` times before it is timed; with None it has been, and takes a millisecond or more. ``seconds(closure,
    n)`` says what n calls take, also where another process makes them.
    """
    a = torch.randn(384, 384)

    def probe() -> float:
        torch.mm(a, a)  # the contestant's data may have taken its place in the cache, which is no disturbance
        return seconds_of(lambda: torch.mm(a, a), 2)

    calls = {}
    for name, closure in closures.items():
        took = 1e-3 if warm is None else min(seconds(closure, 1) for _ in range(warm + 1))
        calls[name] = max(1, round(1e-3 / max(took, 1e-7)))
    probes = [probe() for _ in range(10)]
    timed: dict[str, list[tuple[float, float]]] = {name: [] for name in closures}
    end = time.perf_counter() + budget
    rounds = 0
    while rounds < 2 or time.perf_counter() < end:
        for name, closure in closures.items():
            before = probe()
            took = _sample(closure, calls[name], seconds)
            after = probe()
            timed[name].append((max(before, after), took))
            probes += [before, after]
        rounds += 1
        quiet = 1.2 * min(probes)
        if all(sum(disturbance <= quiet for disturbance, _ in pairs) >= samples for pairs in timed.values()):
            break
    return {name: undisturbed(pairs, 1.2 * min(probes)) for name, pairs in timed.items()}


def _sample(closure: Callable[[], object], calls: int, seconds: Callable[[Callable[[], object], int], float]) -> float:
    if torch.get_num_threads() == 1:
        return seconds(closure, calls) / calls
    return statistics.median(seconds(closure, 1) for _ in range(calls))


def undisturbed(pairs: list[tuple[float, float]], quiet: float) -> Timing:
    """Of (disturbance, seconds) pairs, those disturbed ``quiet`` at most, or else the three least disturbed."""
    pairs = sorted(pairs)
    kept = [seconds for disturbance, seconds in pairs if disturbance <= quiet]
    disturbed = len(kept) < min(3, len(pairs))
    return Timing(sorted([seconds for _, seconds in pairs[:3]] if disturbed else kept), disturbed)
