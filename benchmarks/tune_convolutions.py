"""Measures where the Winograd kernels beat the library, writes csrc/kernels/conv/cost_table.h, which `auto` follows.

    python benchmarks/tune_convolutions.py                  measures, writes the CSV and the table: 12 minutes
    python benchmarks/tune_convolutions.py --isa avx2       measures that instruction set, keeps the other's rows
    python benchmarks/tune_convolutions.py --quick [--threads 2]      a few cells, nothing written
    python benchmarks/tune_convolutions.py --from-csv       writes the table from the CSV

A cell is a pass with one kernel size and stride, in the names of csrc/kernels/conv/geometry.h: x is conv2d's input, y
its output. fprop is measured as conv2d, dgrad as conv_transpose2d, wgrad as the weight gradient of conv2d, each with
the transform of the filter; no bias, no activation, y of 8 x 8 pixels, which tiles cover; with as many channels in x as
in y also y of 4 x 4 and 7 x 7. The table has the ratios, and the constants of the cost model as fitted to all cells;
benchmarks/cost_errors.py shows how far it is off them.

Library and Winograd take turns. A pair whose probes are slow was disturbed and does not count; of the others' ratios,
the median does. One thread by its CPU clock; the instruction set is the same for oneDNN. A cell that would take long
(`measured`) has the value of the next smaller number of tiles: its planes and images are far from small already.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import _cost_model as cost_model
import numpy as np
import torch
from _harness import ROOT, conditions

from sdgan_ext import _C

CSV = ROOT / "benchmarks" / "results" / "tune_convolutions.csv"
TABLE = ROOT / "csrc" / "kernels" / "conv" / "cost_table.h"
COLUMNS = (
    "isa",
    "layout",
    "pass",
    "taps",
    "stride",
    "y_channels",
    "x_channels",
    "tiles",
    "side",
    "library_us",
    "speedup",
    "pairs",
)

ISAS = ("avx2", "avx512")
LANES = {"avx2": 8, "avx512": 16}  # floats of a vector
LAYOUTS = ("nchw", "channels_last")
PASSES = ("dgrad", "fprop", "wgrad")
SCHEMES = tuple(cost_model.SCHEMES)  # taps, stride
CHANNELS = (16, 32, 64, 128, 256, 512)
TILES = (8, 64, 512, 4096)
SIDES = (4, 7)  # of y: small images, and images whose tiles go across the edge; the others' is side_of(tiles)

_BUDGET = 0.04  # seconds a cell, for as many pairs as that allows
_PAIRS = 3  # at least


def side_of(tiles: int) -> int:
    return 4 if tiles < 16 else 8


def tiles_of_small(channels: int) -> int:
    return 512 if channels <= 128 else 64


PAIRS = 8192  # of channels: with more of them, 4096 tiles are not measured


def measured(y_channels: int, x_channels: int, tiles: int) -> bool:
    return tiles <= 512 or y_channels * x_channels <= PAIRS


def pad_of(taps: int, stride: int) -> int:
    return taps // 2 if stride == 1 or taps == 5 else 1


# ------------------------------------------------------------------------------------------------------ measuring
BACKENDS = ("library", "winograd")


class Bench:
    def __init__(self):
        self._pool = torch.randn(1 << 20)
        self._probe = torch.randn(256, 256)
        self._fastest = min(self._seconds(lambda: torch.mm(self._probe, self._probe)) for _ in range(50))

    def tensor(self, n: int, channels: int, height: int, width: int, channels_last: bool) -> torch.Tensor:
        count = n * channels * height * width
        if count > self._pool.numel():
            self._pool = torch.randn(count)
        flat = self._pool[:count].clone()
        if channels_last:
            return flat.view(n, height, width, channels).permute(0, 3, 1, 2)
        return flat.view(n, channels, height, width)

    def closure(
        self, layout: str, name: str, taps: int, stride: int, y_channels: int, x_channels: int, tiles: int, side: int
    ):
        """A call of the pass ``name``."""
        last = layout == "channels_last"
        n = tiles // ((side + 1) // 2) ** 2
        pad = pad_of(taps, stride)
        y = self.tensor(n, y_channels, side, side, last) if name != "fprop" else None
        x = self.tensor(n, x_channels, stride * side, stride * side, last) if name != "dgrad" else None
        w = self.tensor(y_channels, x_channels, taps, taps, last) * 0.05
        end = (side - 1) * stride + taps - pad - stride * side  # of the crop: x has stride * side pixels each way
        same = ([1, 1], 1, 0, 0.0)
        transposed, plain = ([stride] * 2, [pad, end] * 2, *same), ([stride] * 2, [pad] * 4, *same)
        ops = torch.ops.sdgan_ext
        if name == "dgrad":
            return lambda: ops.conv_transpose2d(y, w, None, *transposed)
        if name == "fprop":
            return lambda: ops.conv2d(x, w, None, *plain)
        nothing = torch.empty(0)
        return lambda: ops.conv2d_backward(y, x, w, nothing, *plain, False, True, False)

    def pairs(self, closure, budget: float) -> tuple[float, float, int]:
        """Median seconds of the library, median ratio of library to Winograd, number of pairs that count."""
        calls = {}
        for backend in BACKENDS:
            self._by(backend, closure, 1)
            calls[backend] = max(1, round(5e-4 / self._by(backend, closure, 1)))
        pairs, before = [], self._disturbance()
        end = time.perf_counter() + budget
        while len(pairs) < _PAIRS or (time.perf_counter() < end and len(pairs) < 50):
            library, winograd = (self._by(backend, closure, calls[backend]) for backend in BACKENDS)
            after = self._disturbance()
            pairs.append((max(before, after), library, library / winograd))
            before = after
        pairs.sort()
        kept = [pair for pair in pairs if pair[0] <= 1.2 * self._fastest]
        kept = kept if len(kept) >= _PAIRS else pairs[:_PAIRS]
        return statistics.median(p[1] for p in kept), statistics.median(p[2] for p in kept), len(kept)

    def _by(self, backend: str, closure, calls: int) -> float:
        _C.set_conv_backend([backend])
        return self._seconds(closure, calls)

    def _disturbance(self) -> float:
        seconds = min(self._seconds(lambda: torch.mm(self._probe, self._probe)) for _ in range(2))  # the first is cold
        self._fastest = min(self._fastest, seconds)
        return seconds

    @staticmethod
    def _seconds(closure, calls: int = 1) -> float:
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        start = clock()
        for _ in range(calls):
            closure()
        return (clock() - start) / calls


def cells(quick: bool):
    channels = (32, 128) if quick else CHANNELS
    for layout in LAYOUTS:
        for name in PASSES:
            for taps, stride in SCHEMES:
                for y_channels in channels:
                    for x_channels in channels:
                        for tiles in (64, 512) if quick else TILES:
                            if measured(y_channels, x_channels, tiles):
                                yield layout, name, taps, stride, y_channels, x_channels, tiles, side_of(tiles)
                for both in () if quick else CHANNELS:
                    for side in SIDES:
                        yield layout, name, taps, stride, both, both, tiles_of_small(both), side


def measure(isa: str, quick: bool, threads: int) -> None:
    """Rows of one instruction set to standard output, as CSV."""
    import sdgan_ext.ops  # noqa: F401  registers torch.ops.sdgan_ext

    torch.set_num_threads(threads)
    bench = Bench()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for cell in cells(quick):
        library, speedup, pairs = bench.pairs(bench.closure(*cell), 0.2 if quick else _BUDGET)
        writer.writerow((isa, *cell, f"{library * 1e6:.4g}", f"{speedup:.2f}", pairs))
        sys.stdout.flush()


def rows_of(isa: str, quick: bool, threads: int) -> list[dict[str, str]]:
    environment = os.environ | {"SDGAN_CPU_ISA": isa, "ONEDNN_MAX_CPU_ISA": _ONEDNN[isa]}
    command = [sys.executable, __file__, "--measure", isa, "--threads", str(threads), *(["--quick"] if quick else [])]
    rows = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            rows.append(dict(zip(COLUMNS, line.strip().split(","), strict=True)))
            if quick or len(rows) % 100 == 0:
                print(line.strip(), flush=True)
    if process.returncode:
        sys.exit(f"measuring {isa} failed")
    return rows


#: float32: what AMX and bfloat16 add does not matter.
_ONEDNN = {"avx2": "AVX2", "avx512": "AVX512_CORE"}


# ---------------------------------------------------------------------------------------------------- the two files
def read_csv(path: Path = CSV) -> tuple[list[str], list[dict[str, str]]]:
    """The lines that say where the figures are from, one an instruction set, and the rows."""
    lines = path.read_text().splitlines()
    notes = [line[2:] for line in lines if line.startswith("# ")]
    return notes, list(csv.DictReader(line for line in lines if not line.startswith("#")))


def write_csv(notes: list[str], rows: list[dict[str, str]], path: Path = CSV) -> None:
    with path.open("w", newline="") as file:
        file.writelines(f"# {note}\n" for note in notes)
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def percent(rows: list[dict[str, str]]) -> dict[tuple, int]:
    """Library time / Winograd time in percent, by (isa, layout, pass, taps, stride, y and x channels, tiles, side)."""
    known = {}
    for row in rows:
        numbers = (int(row[name]) for name in ("taps", "stride", "y_channels", "x_channels", "tiles", "side"))
        known[(row["isa"], row["layout"], row["pass"], *numbers)] = min(999, round(100 * float(row["speedup"])))
    return known


def problems(rows: list[dict[str, str]]) -> cost_model.Problems:
    """What was measured, for the cost model."""

    def column(name: str) -> np.ndarray:
        return np.array([int(row[name]) for row in rows])

    taps, stride, side = column("taps"), column("stride"), column("side")
    return cost_model.Problems(
        passes=np.array([row["pass"] for row in rows]),
        taps=taps,
        stride=stride,
        pad=np.array([pad_of(*scheme) for scheme in zip(taps, stride, strict=True)]),
        batch=column("tiles") // ((side + 1) // 2) ** 2,
        y=side,
        x=stride * side,
        y_channels=column("y_channels"),
        x_channels=column("x_channels"),
        channels_last=np.array([row["layout"] == "channels_last" for row in rows]),
    )


def fitted(rows: list[dict[str, str]], isa: str) -> cost_model.Machine:
    rows = [row for row in rows if row["isa"] == isa]
    library = np.array([float(row["library_us"]) for row in rows])
    winograd = library / np.array([float(row["speedup"]) for row in rows])
    return cost_model.fit(problems(rows), library, winograd, LANES[isa])


def machines(rows: list[dict[str, str]]) -> Iterator[str]:
    """The lines of kMachine."""
    for isa in ISAS:
        yield f"    // {isa}"
        yield f"    {{{', '.join(f'{constant:g}' for constant in fitted(rows, isa))}}},"


def table(notes: list[str], rows: list[dict[str, str]]) -> str:
    """The text of csrc/kernels/conv/cost_table.h."""
    known = percent(rows)

    def list_of(values) -> str:
        return ", ".join(map(str, values))

    def braced(groups: list[list[int]]) -> str:
        return "{" + ",".join("{" + ",".join(f"{value:3}" for value in group) + "}" for group in groups) + "},"

    def line(*place) -> str:
        *scheme, y_channels = place
        groups = []
        for tiles in TILES:
            group = []
            for x_channels in CHANNELS:
                there = max(t for t in TILES if t <= tiles and measured(y_channels, x_channels, t))
                group.append(known[(*scheme, y_channels, x_channels, there, side_of(there))])
            groups.append(group)
        return braced(groups)

    out = [
        "// Written by benchmarks/tune_convolutions.py from benchmarks/results/tune_convolutions.csv.",
        "// Library time / Winograd time of a pass, in percent; how measured: the script.",
        *(f"// {note}" for note in notes),
        "#pragma once",
        "",
        "#include <cstdint>",
        "",
        "namespace sdgan {",
        "",
        f"constexpr int kTableChannels[{len(CHANNELS)}] = {{{list_of(CHANNELS)}}};",
        f"constexpr int kTableTiles[{len(TILES)}] = {{{list_of(TILES)}}};",
        f"constexpr int kTablePairs = {PAIRS};  // of channels: with more, the figures of 4096 tiles are those of 512",
        "",
        "// The constants of the cost model, fitted to all cells; docs/cost-model.md.",
        "struct Machine {",
        "  // us",
        "  double library_call, winograd_call;",
        "  // GFLOP/s",
        "  double multiply;",
        "  // of the time of products that are 16 columns wide",
        "  double narrow;",
        "  // GB/s",
        "  double memory, reorder, filter, planes;",
        "};",
        f"constexpr Machine kMachine[{len(ISAS)}] = {{",
        *machines(rows),
        "};",
        "",
        "// A line: some number of y's channels; a group in it: of tiles; a figure: of x's channels.",
        f"// [{list_of(ISAS)}] [{list_of(LAYOUTS)}] [{list_of(PASSES)}]",
        f"// [{list_of(f'{taps}x{taps} s{stride}' for taps, stride in SCHEMES)}] [y] [tiles] [x]",
        "// clang-format off",
        f"constexpr uint16_t kWinogradPercent[{len(ISAS)}][{len(LAYOUTS)}][{len(PASSES)}][{len(SCHEMES)}]"
        f"[{len(CHANNELS)}][{len(TILES)}][{len(CHANNELS)}] = {{",
    ]
    out.extend(nested(lambda *place: ["{", *(line(*place, y_channels) for y_channels in CHANNELS), "},"]))
    out += [
        "};",
        "",
        f"// The same of images of {list_of(SIDES)} pixels of y each way over that of 8, with equal channels of x and",
        "// y and equal tiles, whose number follows. [isa] [layout] [pass] [scheme] [side] [channels]",
        f"constexpr int kTableSides[{len(SIDES)}] = {{{list_of(SIDES)}}};",
        f"constexpr int kImageTiles[{len(CHANNELS)}] = {{{list_of(map(tiles_of_small, CHANNELS))}}};",
        f"constexpr uint16_t kImagePercent[{len(ISAS)}][{len(LAYOUTS)}][{len(PASSES)}][{len(SCHEMES)}]"
        f"[{len(SIDES)}][{len(CHANNELS)}] = {{",
    ]

    def image_line(*place) -> str:
        groups = []
        for side in SIDES:
            group = []
            for channels in CHANNELS:
                tiles = tiles_of_small(channels)
                here, there = (known[(*place, channels, channels, tiles, s)] for s in (side, side_of(tiles)))
                group.append(round(100 * here / there))
            groups.append(group)
        return braced(groups)

    out.extend(nested(lambda *place: [image_line(*place)]))
    return "\n".join([*out, "};", "// clang-format on", "", "}  // namespace sdgan", ""])


def nested(lines_of):
    """The braces around the lines of each (isa, layout, pass, taps, stride), the first of them with a comment."""
    for isa in ISAS:
        yield "{"
        for layout in LAYOUTS:
            yield "{"
            for name in PASSES:
                yield "{"
                for taps, stride in SCHEMES:
                    first, *others = lines_of(isa, layout, name, taps, stride)
                    yield f"{first}  // {isa}, {layout}, {name}, {taps}x{taps} s{stride}"
                    yield from others
                yield "},"
            yield "},"
        yield "},"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--isa", choices=ISAS, nargs="+", default=ISAS, help="instruction sets to measure")
    parser.add_argument("--quick", action="store_true", help="a few cells, nothing written")
    parser.add_argument("--threads", type=int, default=1, help="more than one, by the wall clock, only with --quick")
    parser.add_argument("--from-csv", action="store_true", help="measure nothing, write the table from the CSV")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads != 1 and not options.quick:
        parser.error("--threads is for --quick: the table is measured with one thread")
    if options.measure:
        measure(options.measure, options.quick, options.threads)
        return
    notes, rows = read_csv() if CSV.exists() else ([], [])
    if not options.from_csv:
        where = conditions()
        for isa in options.isa:
            new = rows_of(isa, options.quick, options.threads)
            note = f"{isa}: {where['cpu']}, torch {where['torch']}, commit {where['commit']}, one thread"
            rows = sorted([r for r in rows if r["isa"] != isa] + new, key=lambda r: ISAS.index(r["isa"]))
            notes = sorted([n for n in notes if not n.startswith(f"{isa}:")] + [note])
        if options.quick:
            return
        write_csv(notes, rows)
    TABLE.write_text(table(notes, rows))
    print(f"wrote {TABLE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
