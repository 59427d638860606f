"""The grid of the GPU benchmarks: every cell is an op at a shape with its contestants, or a training step."""

import time
from collections.abc import Iterator

import torch

from sdgan_ext.bench.work import Conv

from .convolutions import DCGAN_64_G, DISCRIMINATORS, GENERATORS, SEED_G, compiled_conv_cell, conv_cell
from .elements import element_cells
from .measure import Cell, Context
from .steps import compiled_step_cell, step_cell
from .timer import kernels_launched


def cells(rehearse: bool) -> Iterator[Cell]:
    """In the order of their weight: time may end before the list does."""
    if rehearse:
        yield conv_cell(Conv(True, 64, 3, 4, 4, 2, 1, "tanh"), 2, "bf16")
        yield conv_cell(Conv(False, 16, 8, 6, 4, 2, 1, "leaky_relu"), 2, "tf32")
        yield from element_cells(True)
        yield step_cell("mnist-small", 4)
        return
    for precision in ("bf16", "tf32"):
        for conv in GENERATORS:
            yield conv_cell(conv, 128, precision)
    yield from element_cells(False)
    yield step_cell("seed", 128)
    yield step_cell("dcgan-64", 128)
    for batch in (512, 64):
        for precision in ("bf16", "tf32"):
            for conv in GENERATORS:
                yield conv_cell(conv, batch, precision)
    for precision in ("bf16", "tf32"):
        for conv in DISCRIMINATORS:
            yield conv_cell(conv, 128, precision)
    yield step_cell("seed", 64)
    yield step_cell("mnist-small", 64)


def compiled_cells(rehearse: bool) -> Iterator[Cell]:
    """Last of all, for torch.compile takes minutes to warm up."""
    if rehearse:
        yield compiled_step_cell("mnist-small", 4)
        yield compiled_conv_cell(Conv(True, 8, 8, 4, 4, 2, 1, "relu"), 2, "bf16")
        return
    yield compiled_step_cell("dcgan-64", 128)
    yield compiled_conv_cell(DCGAN_64_G[2], 128, "bf16")
    yield compiled_conv_cell(SEED_G[1], 128, "bf16")
    yield compiled_step_cell("seed", 128)
    for conv in (DCGAN_64_G[1], DCGAN_64_G[0], SEED_G[0], DCGAN_64_G[3], SEED_G[2]):
        yield compiled_conv_cell(conv, 128, "bf16")


def warm_up(context: Context) -> None:
    """Brings the clocks up, and the profiler: it must not come up after the first CUDA graph."""
    kernels_launched(lambda: torch.zeros(1, device=context.device), context.device)
    a = torch.randn(64, 64) if context.rehearse else torch.randn(4096, 4096, device=context.device)
    end = time.perf_counter() + (0 if context.rehearse else 0.5)
    while time.perf_counter() < end:
        a @ a
        context.timer.synchronize()
