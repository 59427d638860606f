"""The cost model of csrc/kernels/conv/cost_model.cpp in Python: its reference in the tests, and what its constants are
fitted with. The formulas, what they mean and how far they are off: docs/cost-model.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

#: (taps, stride): products of a channel pair and a tile, planes that dgrad reads (by the parity of the padding: even,
#: odd), planes of x in fprop and wgrad; docs/winograd.md derives them.
SCHEMES = {(3, 1): (16, (16, 16), 16), (3, 2): (25, (16, 16), 9), (4, 2): (36, (9, 25), 9), (5, 2): (49, (36, 36), 16)}
CACHED = 2 << 20  # bytes of a filter that the caches keep from one call to the next


class Machine(NamedTuple):
    """What one thread of the machine does with one instruction set."""

    library_call: float  # us: a call of the library that computes nothing
    winograd_call: float  # us: the same of the Winograd kernels
    multiply: float  # GFLOP/s of either one's products, a multiplication and an addition being 2
    narrow: float  # of their time, what products 16 columns wide take longer than wide ones
    memory: float  # GB/s through images in their order
    reorder: float  # GB/s of what is copied to another layout, or written across its own
    filter: float  # GB/s of transformed filter that is made
    planes: float  # GB/s of transformed tiles that are made, and read


#: Where the fit begins: a core of 3 GHz and its caches.
START = Machine(50, 10, 100, 0.3, 10, 5, 5, 50)


class Problems(NamedTuple):
    """Square convolutions, as arrays of one length or as numbers; the sizes are those of conv2d's view."""

    passes: np.ndarray  # "fprop", "dgrad" or "wgrad"
    taps: np.ndarray
    stride: np.ndarray
    pad: np.ndarray
    batch: np.ndarray
    y: np.ndarray  # pixels each way
    x: np.ndarray
    y_channels: np.ndarray
    x_channels: np.ndarray
    channels_last: np.ndarray


def _up(value, step):
    return -(-np.asarray(value) // step) * step


def _by_scheme(p: Problems, of: Callable) -> np.ndarray:
    """``of(products, planes of dgrad, planes of x)`` of each problem's scheme."""
    schemes = [SCHEMES[key] for key in zip(np.atleast_1d(p.taps), np.atleast_1d(p.stride), strict=True)]
    parity = np.broadcast_to(np.asarray(p.pad) % 2, (len(schemes),))
    found = [of(products, planes[odd], of_x) for (products, planes, of_x), odd in zip(schemes, parity, strict=True)]
    return np.array(found, float)


def images(p: Problems) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of x and of y."""
    return 4.0 * p.batch * p.x**2 * p.x_channels, 4.0 * p.batch * p.y**2 * p.y_channels


def library_us(p: Problems, machine: Machine, lanes: int) -> np.ndarray:
    """Microseconds of the library's call; ``lanes`` floats are a vector."""
    dgrad, wgrad = p.passes == "dgrad", p.passes == "wgrad"
    written = np.where(dgrad, p.x_channels, p.y_channels)
    read = np.where(dgrad, p.y_channels, p.x_channels)
    multiplications = 1.0 * p.batch * p.y**2 * p.taps**2 * read * _up(written, lanes)
    x, y = images(p)
    weight = 4.0 * p.taps**2 * p.x_channels * p.y_channels
    reordered = weight * np.where(wgrad, 2, 1)
    reordered = reordered + np.where(dgrad & (p.stride > 1), x, 0) + np.where(p.channels_last, 0, x + y)
    return (
        machine.library_call
        + 2e-3 * multiplications / machine.multiply
        + 1e-3 * ((x + y) / machine.memory + reordered / machine.reorder)
    )


def winograd_us(p: Problems, machine: Machine) -> np.ndarray:
    """Microseconds of the Winograd call."""
    dgrad, wgrad = p.passes == "dgrad", p.passes == "wgrad"
    across = np.where(dgrad, _up(p.x, p.stride) // p.stride, p.y)  # positions each way that tiles of 2 cover
    tiles_across = (across + 1) // 2
    tiles = p.batch * tiles_across**2
    x_channels, y_channels = _up(p.x_channels, 16), _up(p.y_channels, 16)
    pairs = 1.0 * x_channels * y_channels
    products = _by_scheme(p, lambda products, planes, of_x: products)
    of_dgrad = _by_scheme(p, lambda products, planes, of_x: planes)
    of_x = _by_scheme(p, lambda products, planes, of_x: of_x)

    # A tile without a second position leaves out one product for each residue.
    multiplications = p.batch * (p.taps * tiles_across + p.stride * (across // 2)) ** 2 * pairs
    columns = np.where(dgrad, x_channels * products / of_dgrad, y_channels)
    planes_read = np.where(dgrad, of_dgrad * y_channels, of_x * (x_channels + np.where(wgrad, y_channels, 0)))
    planes_written = np.where(dgrad, products * x_channels, np.where(wgrad, 0, of_x * y_channels))
    x, y = images(p)
    return (
        machine.winograd_call
        + 2e-3 * multiplications * (1 + machine.narrow * 16 / columns) / machine.multiply
        + 1e-3 * ((x + y) / machine.memory + np.where(p.channels_last, 0, x + y) / machine.reorder)
        + 4e-3 * (products * pairs / machine.filter + tiles * (planes_read + planes_written) / machine.planes)
    )


def cold_us(p: Problems, machine: Machine) -> np.ndarray:
    """Microseconds that a filter larger than the caches costs in a network, and not in a benchmark's repeated calls."""
    products = _by_scheme(p, lambda products, planes, of_x: products)
    bytes_ = 4 * products * _up(p.x_channels, 16) * _up(p.y_channels, 16)
    weight = 4.0 * p.taps**2 * p.x_channels * p.y_channels
    whole = 1e-3 * (bytes_ / machine.memory + np.where(p.passes == "fprop", weight, 0) / machine.reorder)
    return np.where(p.passes == "wgrad", 0, whole * np.maximum(0, 1 - CACHED / bytes_))


def fit(p: Problems, library: np.ndarray, winograd: np.ndarray, lanes: int) -> Machine:
    """The constants, to three digits, with the least squares of the logarithms: of both times and of their ratio.

    Levenberg and Marquardt's steps on the logarithms of the constants.
    """
    measured = np.log([library, winograd, library / winograd])

    def residuals(logarithms: np.ndarray) -> np.ndarray:
        machine = Machine(*np.exp(logarithms))
        both = np.log([library_us(p, machine, lanes), winograd_us(p, machine)])
        return (np.array([*both, both[0] - both[1]]) - measured).ravel()

    at, damping = np.log(START), 1e-2
    here = residuals(at)
    for _ in range(200):
        jacobian = np.stack([(residuals(at + step) - here) / 1e-5 for step in 1e-5 * np.eye(len(at))], axis=1)
        squares = jacobian.T @ jacobian
        step = np.linalg.solve(squares + damping * np.diag(np.diag(squares)), -jacobian.T @ here)
        there = residuals(at + step)
        if there @ there <= here @ here:
            at, here, damping = at + step, there, damping / 3
            if np.abs(step).max() < 1e-9:
                break
        else:
            damping *= 4
    return Machine(*(float(f"{constant:.3g}") for constant in np.exp(at)))


# ----------------------------------------------------------------------------------------- between measured cells
def place(grid: Sequence[int], value: float) -> list[tuple[int, float]]:
    """The neighbours of a value on a grid, by index, with their weights in the logarithm; the ends go on."""
    value = min(max(value, grid[0]), grid[-1])
    below = max(i for i in range(len(grid) - 1) if grid[i] <= value)
    part = math.log(value / grid[below]) / math.log(grid[below + 1] / grid[below])
    return [(below, 1 - part), (below + 1, part)]


def interpolated(node: Callable[[int, int, int], float], *places: list[tuple[int, float]]) -> float:
    """Between the nodes (index of y's channels, of tiles, of x's channels)."""
    y, tiles, x = places
    return sum(
        y_part * tiles_part * x_part * node(i, j, k)
        for i, y_part in y
        for j, tiles_part in tiles
        for k, x_part in x
        if y_part * tiles_part * x_part
    )
