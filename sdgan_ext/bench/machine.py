"""What a figure depends on and is measured against: the machine's name, its peaks, the memory that a call takes."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from .._native import build_info
from .timing import seconds_of

__all__ = ["conditions", "measured_peaks", "memory_of_call", "peak_memory", "resident_memory"]


def conditions() -> dict[str, str]:
    """What a figure depends on and must be quoted with."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "torch": torch.__version__,
        "cpu": f"{os.cpu_count()} x {models[0] if models else platform.processor() or platform.machine()}",
        "isa": build_info()["cpu_isa"],
        "allocator": Path(os.environ.get("LD_PRELOAD", "libc")).name,
    }


def measured_peaks(dtype: str) -> dict[str, float]:
    """FLOP/s of ``dtype`` and bytes/s of this machine with the present number of threads, measured once.

    The first is the best of some square matrix products, the second that of a = b + 2 c on vectors of 256 MiB, 12 bytes
    an element, as STREAM counts (McCalpin 1995). What lies in a cache is faster than that.
    """
    threads = torch.get_num_threads()
    return {dtype: _product_peak(threads, dtype), "bytes": _triad_peak(threads)}


@functools.lru_cache
def _product_peak(threads: int, dtype: str) -> float:
    best, took = 0.0, 0.0
    for n in (256, 1024, 2048):
        if 64 * took > 2:  # a CPU without instructions for the dtype, where the larger product takes minutes
            break
        a = torch.randn(n, n).to(getattr(torch, dtype))
        out = torch.mm(a, a)
        took = min(seconds_of(lambda: torch.mm(a, a, out=out)) for _ in range(8))  # noqa: B023
        best = max(best, 2 * n**3 / took)
    return best


@functools.lru_cache
def _triad_peak(threads: int) -> float:
    a, b, c = (torch.ones(64 << 20) for _ in range(3))
    return 12 * len(a) / min(seconds_of(lambda: torch.add(b, c, alpha=2, out=a)) for _ in range(10))


def peak_memory(make: Callable[[], Callable[[], object]]) -> tuple[Callable[[], object], int | None]:
    """What ``make()`` gives, called twice, and the bytes of memory that this took at most, its inputs not counted.

    It is the high-water mark of the process's resident pages during the second call, above those before ``make()``: so
    what a library takes without asking torch's allocator counts, and what it keeps for the next call too, unless it had
    kept it from earlier ones. None where the system has no such mark (it is Linux's) to be reset.
    """
    _warm_up()
    try:
        _release_unused()
        before = _resident("VmRSS")
        closure = make()
        closure()
        _release_unused()
        _reset_mark()
    except (OSError, AttributeError):
        closure = make()
        closure()
        return closure, None
    closure()
    return closure, max(0, _resident("VmHWM") - before)


def resident_memory() -> int | None:
    """Bytes of the pages that the process uses, the others given back; None where :func:`peak_memory` has None."""
    try:
        _release_unused()
        _reset_mark()
        return _resident("VmRSS")
    except (OSError, AttributeError):
        return None


def memory_of_call(call: Callable[[], object], before: int | None) -> tuple[object, int | None]:
    """What one call gives, and the bytes resident in it at most above :func:`resident_memory` of ``before``."""
    if before is None:
        return call(), None
    _reset_mark()
    result = call()
    return result, max(0, _resident("VmHWM") - before)


@functools.lru_cache
def _warm_up() -> None:
    """What torch takes once in a process is nobody's."""
    x, weight = (torch.ones(16, 16, 16, 16, requires_grad=True) for _ in range(2))
    y = torch.nn.functional.conv2d(x, weight).relu()
    torch.autograd.grad([y], [x, weight], [torch.ones_like(y)])  # this form of it imports a lot


def _reset_mark() -> None:
    """The high-water mark falls to what is resident."""
    Path("/proc/self/clear_refs").write_text("5")


def _release_unused() -> None:
    ctypes.CDLL(None).malloc_trim(0)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(field)
