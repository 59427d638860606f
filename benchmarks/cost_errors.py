"""How far the cost model of the Winograd kernels is off the measured cells: the figures of docs/cost-model.md.

    python benchmarks/cost_errors.py [--isa avx512]

Measures nothing: it reads benchmarks/results/tune_convolutions.csv. :class:`Estimates` is also what the tests hold
csrc/kernels/conv/cost_model.cpp against.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import _cost_model as cost_model
import numpy as np
import tune_convolutions as tune


class Cell(NamedTuple):
    """A row of the CSV, of one instruction set."""

    layout: str
    name: str  # of the pass
    taps: int
    stride: int
    y_channels: int
    x_channels: int
    tiles: int
    side: int


class Shape(NamedTuple):
    """A pass of a square convolution; ``y`` and ``x`` are pixels each way."""

    layout: str
    name: str
    taps: int
    stride: int
    pad: int
    batch: int
    y: int
    x: int
    y_channels: int
    x_channels: int

    @property
    def tiles(self) -> int:
        positions = -(-self.x // self.stride) if self.name == "dgrad" else self.y
        return self.batch * ((positions + 1) // 2) ** 2


def least(name: str, y_channels: int, x_channels: int, tiles: int, side: int) -> float:
    """The estimate that `auto` asks for."""
    asked = 1.15 if min(y_channels, x_channels) <= 32 else 1.05
    if tiles < tune.TILES[0] or side < min(tune.SIDES):
        asked = 1.5
    if name == "wgrad":
        return 2 * asked if y_channels <= 32 and x_channels <= 16 else asked
    few = min(1.0, max(0.0, 1 - math.log(tiles / 64, 8)))
    return max(asked, 1.05 + 0.2 * few)


class Estimates:
    """The estimates of one instruction set."""

    def __init__(self, rows: list[dict[str, str]], isa: str):
        rows = [row for row in rows if row["isa"] == isa]
        self.isa = isa
        self.lanes = tune.LANES[isa]
        self.machine = tune.fitted(rows, isa)
        self.measured = {Cell(*key[1:]): percent / 100 for key, percent in tune.percent(rows).items()}
        problems = tune.problems(rows)
        self.library_us = np.array([float(row["library_us"]) for row in rows])
        self.winograd_us = self.library_us / np.array([float(row["speedup"]) for row in rows])
        self.modelled_library_us = cost_model.library_us(problems, self.machine, self.lanes)
        self.modelled_winograd_us = cost_model.winograd_us(problems, self.machine)
        modelled = self.modelled_library_us / self.modelled_winograd_us
        self.modelled = dict(zip(self.measured, modelled.tolist(), strict=True))

    def error(self, cell: Cell) -> float:
        """The logarithm of measured over modelled speed-up."""
        return math.log(self.measured[cell] / self.modelled[cell])

    def speedup(self, shape: Shape) -> float:
        """What `auto` expects."""
        problem = self._problem(shape)
        library = cost_model.library_us(problem, self.machine, self.lanes)
        modelled = library / cost_model.winograd_us(problem, self.machine)
        warm = math.exp(math.log(modelled.item()) + self._interpolated_error(shape))
        return 1 / (1 / warm + (cost_model.cold_us(problem, self.machine) / library).item())

    @staticmethod
    def _problem(s: Shape) -> cost_model.Problems:
        last = np.array([s.layout == "channels_last"])
        numbers = (np.array([n]) for n in (s.taps, s.stride, s.pad, s.batch, s.y, s.x, s.y_channels, s.x_channels))
        return cost_model.Problems(np.array([s.name]), *numbers, last)

    def _interpolated_error(self, shape: Shape) -> float:
        y_channels, x_channels = (-(-n // 16) * 16 for n in (shape.y_channels, shape.x_channels))
        scheme = shape[:4]

        def node(y: int, tiles: int, x: int) -> float:
            channels = tune.CHANNELS[y], tune.CHANNELS[x]
            known = max(t for t in tune.TILES[: tiles + 1] if tune.measured(*channels, t))
            return self.error(Cell(*scheme, *channels, known, tune.side_of(known)))

        def small_image(channels: int) -> float:
            tiles = tune.tiles_of_small(channels)
            both = [Cell(*scheme, channels, channels, tiles, side) for side in (4, 8)]
            # The table has the ratio of the two, in percent.
            measured = round(100 * self.measured[both[0]] / self.measured[both[1]]) / 100
            return math.log(measured / (self.modelled[both[0]] / self.modelled[both[1]]))

        tiles = cost_model.place(tune.TILES, shape.tiles)
        error = cost_model.interpolated(
            node, cost_model.place(tune.CHANNELS, y_channels), tiles, cost_model.place(tune.CHANNELS, x_channels)
        )
        smallness = min(1.0, max(0.0, math.log2(8 / shape.y))) * (1 - sum(part for i, part in tiles if i == 0))
        both = cost_model.place(tune.CHANNELS, math.sqrt(y_channels * x_channels))
        return error + smallness * sum(part * small_image(tune.CHANNELS[i]) for i, part in both)


# ------------------------------------------------------------------------------------------------------ the figures
def line(what: str, errors: Iterable[float]) -> str:
    """A row of a table: median, 80th percentile and largest of the errors, which are logarithms, and their number."""
    sizes = np.abs(np.array(list(errors)))
    figures = (np.median(sizes), np.quantile(sizes, 0.8), sizes.max())
    return f"| {what} | {' | '.join(f'{math.expm1(figure):.0%}' for figure in figures)} | {len(sizes)} |"


def held_out(e: Estimates, channels: Sequence[int], tiles: Sequence[int]) -> Iterator[tuple[float, float, float]]:
    """Errors at the cells that are not in the grid of ``channels`` and ``tiles``, by what is known of those that are.

    By interpolated ratios, without a model; by the model alone; by the model with interpolated errors.
    """

    def between(of: Callable[[Cell], float], cell: Cell) -> float:
        def node(y: int, t: int, x: int) -> float:
            grid = dict(y_channels=channels[y], x_channels=channels[x], tiles=tiles[t], side=tune.side_of(tiles[t]))
            return of(cell._replace(**grid))

        return cost_model.interpolated(
            node,
            cost_model.place(channels, cell.y_channels),
            cost_model.place(tiles, cell.tiles),
            cost_model.place(channels, cell.x_channels),
        )

    for cell, speedup in e.measured.items():
        in_grid = {cell.y_channels, cell.x_channels} <= set(channels) and cell.tiles in tiles
        if in_grid or cell.tiles > max(tiles) or cell.side != tune.side_of(cell.tiles):
            continue
        ratio, error = between(e.measured.__getitem__, cell), between(e.error, cell)
        modelled = math.log(e.modelled[cell] / speedup)
        yield math.log(ratio / speedup), modelled, modelled + error


def carried(e: Estimates, cells: Iterable[Cell], **fields: int) -> Iterator[tuple[float, float]]:
    """Errors at ``cells`` by the measured ratio of a neighbour, which differs in ``fields``.

    By the ratio as it is, and times what the model makes of the difference.
    """
    for cell in cells:
        near = cell._replace(**fields)
        same = math.log(e.measured[near] / e.measured[cell])
        yield same, same + math.log(e.modelled[cell] / e.modelled[near])


def decisions(e: Estimates) -> str:
    """How often the model alone would choose as the measured ratios do, and what the others cost."""
    lost, same = [], 0
    for cell, speedup in e.measured.items():
        asked = least(cell.name, cell.y_channels, cell.x_channels, cell.tiles, cell.side)
        if (speedup >= asked) == (e.modelled[cell] >= asked):
            same += 1
        else:  # time over that of the measured choice
            lost.append(1 / speedup - 1 if e.modelled[cell] >= asked else speedup - 1)
    lost = np.array(lost)
    return (
        f"The model alone agrees at {same / len(e.measured):.0%} of {len(e.measured)} cells; at the others its choice "
        f"takes {lost.mean():.0%} more time on average, {lost.max():.0%} at worst."
    )


def report(e: Estimates) -> Iterator[str]:
    cells = e.measured
    yield f"### {e.isa}"
    yield ", ".join(f"{name} {constant:g}" for name, constant in e.machine._asdict().items())
    yield "| | median | 80% | worst | cells |\n|---|---|---|---|---|"
    library, winograd = np.log(e.modelled_library_us / e.library_us), np.log(e.modelled_winograd_us / e.winograd_us)
    yield line("library, time", library)
    yield line("Winograd, time", winograd)
    yield line("speed-up", library - winograd)
    yield decisions(e)
    ways = ("ratios interpolated", "model alone", "model, errors interpolated")
    for title, channels, tiles in (
        ("every second number of channels", (16, 64, 256, 512), (8, 64, 512)),
        ("64 tiles", tune.CHANNELS, (8, 512)),
        ("both", (16, 64, 256, 512), (8, 512)),
    ):
        for way, errors in zip(ways, zip(*held_out(e, channels, tiles), strict=True), strict=True):
            yield line(f"held out: {title}; {way}", errors)
    for title, chosen, fields in (
        ("y of 7 x 7, from 8 x 8", [c for c in cells if c.side == 7], dict(side=8)),
        ("y of 4 x 4, from 8 x 8", [c for c in cells if c.side == 4 and c.tiles > 8], dict(side=8)),
        ("4096 tiles, from 512", [c for c in cells if c.tiles == 4096], dict(tiles=512)),
        ("8 tiles, from 64", [c for c in cells if c.tiles == 8], dict(tiles=64, side=8)),
    ):
        as_it_is, with_model = zip(*carried(e, chosen, **fields), strict=True)
        yield line(f"{title}; as it is", as_it_is)
        yield line(f"{title}; times the model", with_model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--isa", choices=tune.ISAS, nargs="+", default=tune.ISAS, help="instruction sets to report")
    rows = tune.read_csv()[1]
    for isa in parser.parse_args().isa:
        print("\n".join(report(Estimates(rows, isa))))


if __name__ == "__main__":
    main()
