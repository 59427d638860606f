"""Measures the grid of cells.py; started by parts.py, again where a cell broke it.

python -m gpu.bench --group main|compile --journal FILE --results FOLDER --conditions FILE --seconds N [--rehearse]
"""

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path

import torch

from .cells import cells, compiled_cells, warm_up
from .machine import find_machine
from .measure import Context, first_line
from .supervise import Journal
from .tables import append_rows
from .timer import GpuTimer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group", choices=["main", "compile"], required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--conditions", type=Path, required=True, help="JSON: the columns that end every row")
    parser.add_argument("--seconds", type=float, required=True, help="after which no further cell is begun")
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    machine = find_machine(arguments.rehearse)
    journal = Journal(arguments.journal)
    known = journal.records()
    context = Context(machine, GpuTimer(machine.device), arguments.rehearse)
    where = json.loads(arguments.conditions.read_text())
    if arguments.group == "main" and "peaks" not in known:
        journal.write("peaks", "begin")
        journal.write("peaks", "passed", notes=[measured_peaks(context), fused_graph_of_cudnn()])
    warm_up(context)
    for cell in (cells if arguments.group == "main" else compiled_cells)(arguments.rehearse):
        if cell.key in known:
            continue
        if time.monotonic() > end:
            journal.write(cell.key, "skipped", message="the time was up")
            continue
        journal.write(cell.key, "begin")
        context.notes.clear()
        start = time.monotonic()
        try:
            rows = cell.measure(context)
        except Exception as error:
            journal.write(cell.key, "failed", message=first_line(error), notes=list(context.notes))
            if "CUDA error" in str(error):
                print(f"{cell.key}: {error}", flush=True)
                return 3
            continue
        append_rows(arguments.results / f"{machine.slug}-{cell.table}.csv", [row | where for row in rows])
        seconds = round(time.monotonic() - start, 2)
        journal.write(cell.key, "passed", seconds=seconds, notes=list(context.notes))
        print(f"{cell.key}: {', '.join(said(row) for row in rows)} ({seconds} s)", flush=True)
    return 0


def said(row: dict) -> str:
    time = row.get("busy_us") or row.get("step_us")
    return f"{row['contestant']} {time} us"


def measured_peaks(context: Context) -> str:
    """Of this very card, for the floors assume those of machine.py."""
    n, elements = (64, 2**10) if context.rehearse else (8192, 2**31)
    a = torch.randn(n, n, device=context.device).bfloat16()
    source = torch.empty(elements, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    closures = {"product": lambda: a @ a, "copy": lambda: target.copy_(source)}
    for closure in closures.values():
        closure()
    seconds = {name: times[len(times) // 2] for name, times in context.timer.busy(closures, 1.0, 7).items()}
    product = 2 * n**3 / seconds["product"] * 1e-12
    copy = 2 * elements / seconds["copy"] * 1e-12
    return f"measured here: {n}^3 product of bfloat16 {product:.0f} TFLOP/s, copy {copy:.2f} TB/s read and written"


def fused_graph_of_cudnn() -> str:
    if importlib.util.find_spec("cudnn") is None:
        return "cuDNN's fused graph (baseline d): not measured, the Python package `cudnn` is not installed"
    return (
        "cuDNN's fused graph (baseline d): the Python package `cudnn` is there, but no contestant of it is written yet"
    )


if __name__ == "__main__":
    sys.exit(main())
