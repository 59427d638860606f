"""Stable Diffusion's autoencoder on the CPU: stock PyTorch, what else there is, and ``sd.accelerate``.

    python benchmarks/bench_autoencoder.py [--models sd15-decoder ...] [--pixels 256 512] [--batch 1] [--threads N]
        [--precision highest high bfloat16] [--contestants eager sdgan_ext ...] [--weights FOLDER] [--rounds 3]
        [--csv FILE]
    python benchmarks/bench_autoencoder.py --docs      measures nothing: the CSV's table into docs/stable-diffusion.md

Needs `pip install diffusers`; others compete where they are installed: `pip install openvino onnxruntime onnx
onnxscript ncnn pnnx`. Each has a process of its own and the settings that its documentation advises, which are printed.
They take turns, at all precisions of a model in one run, with probes (`sdgan_ext/bench/timing.py`).

    memory_mb         the high-water mark of the process's resident pages in a call above those after loading, a median
    relative_error    of the output or, of a training step, of all gradients, against stock in float64
    max_bytes         the largest difference of a pixel from that, in steps of an 8-bit image
    over_best_other   the ratio over the fastest of the others at this precision or a stricter one
    note              why a contestant has no figures

`make bench` leaves this file alone.
"""

import argparse
import csv
import importlib.util
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from _autoencoders import MODELS, kind_in
from _contestants import CONTESTANTS, PRECISIONS, RUNTIMES, STRICTER
from _harness import RESULTS, ROOT, conditions, write_rows
from _workers import Failed, Job, Worker

from sdgan_ext.bench import table
from sdgan_ext.bench.cases import CHANNELS_LAST, COMPILE, EAGER, OURS
from sdgan_ext.bench.timing import Timing, interleave

CSV = RESULTS / "bench_autoencoder.csv"
PAGE = ROOT / "docs" / "stable-diffusion.md"
BEGIN, END = "<!-- made by benchmarks/bench_autoencoder.py --docs -->", "<!-- end -->"
#: Who competes at a precision unless others are asked for: who computes float32 in one way alone does so once.
DEFAULTS = {
    "highest": (EAGER, CHANNELS_LAST, COMPILE, *RUNTIMES, OURS),
    "high": (CHANNELS_LAST, OURS),
    "bfloat16": (CHANNELS_LAST, *RUNTIMES, OURS),
}
TIMES = ("threads", "min_us", "median_us", "p80_us", "samples", "disturbed")
RATIOS = ("over_eager", "over_channels_last", "over_compile", "over_best_other")


@dataclass(frozen=True)
class Comparison:
    """Contestants that take turns: ``entries`` are (contestant, precision)."""

    model: str
    pixels: int
    batch: int
    entries: tuple[tuple[str, str], ...]
    op = "autoencoder"

    @property
    def shape(self) -> str:
        return f"{self.model} {self.pixels} px, batch {self.batch}"

    @property
    def passes(self) -> str:
        return MODELS[self.model].passes


def comparisons(models, pixels=None, batch=None, precisions=None, contestants=None) -> list[Comparison]:
    """What is asked for; None is each model's default."""
    can = torch.cpu.get_capabilities()
    if not precisions:  # where the CPU has no instructions for bfloat16, stock takes six times as long as in float32
        half = can.get("avx512_bf16") or can.get("amx_bf16")
        precisions = [p for p in PRECISIONS if half or p != "bfloat16"]

    def entries(model, size):
        out = (*model.left_out.get(size, ()), *(RUNTIMES if model.task.trains else ()))
        return tuple(
            (contestant, precision)
            for precision in precisions
            for contestant in contestants or DEFAULTS[precision]
            if contestants or contestant not in out
        )

    return [
        Comparison(name, size, count, entries(MODELS[name], size))
        for name in models
        for size in pixels or MODELS[name].pixels
        for count in batch or MODELS[name].batches
    ]


# ------------------------------------------------------------------------------------------------------ measuring
def measure(comparison: Comparison, rounds: int, limit: float, threads: int, weights: Path | None) -> list[dict]:
    """A row for each entry, in their order.

    Raises:
        Failed: even stock in float64, the judge, cannot be had.
    """
    notes: dict[tuple[str, str], str] = {}
    workers: dict[tuple[str, str], Worker] = {}
    with tempfile.TemporaryDirectory() as folder:
        shape = comparison.model, comparison.pixels, comparison.batch, threads, weights, Path(folder) / "judge.pt"
        Worker(Job(EAGER, "float64", *shape), limit).close()
        try:
            for contestant, precision in comparison.entries:
                entry = contestant, precision
                package = RUNTIMES.get(contestant)
                try:
                    if package and importlib.util.find_spec(package) is None:
                        raise Failed(f"{package} is not installed")
                    workers[entry] = Worker(Job(contestant, precision, *shape), limit)
                except Failed as failed:
                    notes[entry] = str(failed)
            timings = _timings(workers, notes, rounds)
        finally:
            for worker in workers.values():
                worker.close()
    return [_row(comparison, entry, timings, workers.get(entry), notes.get(entry, "")) for entry in comparison.entries]


def _timings(workers: dict, notes: dict, rounds: int) -> dict[tuple[str, str], Timing]:
    """Of those that last to the end; who fails in between is noted, and the others begin anew."""
    while running := {entry: worker for entry, worker in workers.items() if entry not in notes}:
        budget = 1.5 * rounds * sum(worker.first.seconds for worker in running.values())
        calls = {entry: worker.seconds for entry, worker in running.items()}
        try:
            return interleave(calls, budget, rounds, warm=None, seconds=lambda call, count: call(count))
        except Failed as failed:
            entry = next(entry for entry, worker in running.items() if worker.failed)
            notes[entry] = str(failed)
    return {}


def _row(comparison: Comparison, entry: tuple[str, str], timings: dict, worker: Worker | None, note: str) -> dict:
    contestant, precision = entry
    row = {"op": comparison.op, "shape": comparison.shape, "dtype": PRECISIONS[precision], "passes": comparison.passes}
    row |= {"contestant": contestant, "kernel": ""} | dict.fromkeys((*TIMES, *RATIOS), "")
    row |= {"threads": torch.get_num_threads()}
    row |= dict.fromkeys(("memory_mb", "relative_error", "max_bytes", "settings"), "") | {"note": note}
    if entry not in timings:
        return row
    same = comparable(timings, precision)
    others = [timing.median for name, timing in same.items() if name != OURS]
    row |= table.times(contestant, same)
    row["over_best_other"] = f"{min(others) / same[contestant].median:.3f}" if others else ""
    row["memory_mb"] = "" if worker.memory is None else f"{worker.memory / 2**20:.0f}"
    row["relative_error"] = f"{worker.first.error:.2e}"
    row["max_bytes"] = "" if worker.first.bytes_off is None else worker.first.bytes_off
    return row | {"settings": worker.first.settings}


def comparable(timings: dict[tuple[str, str], Timing], precision: str) -> dict[str, Timing]:
    """By contestant, at this precision or else the nearest stricter one: who allows "high" may have "highest"."""
    found: dict[str, Timing] = {}
    for allowed in STRICTER[precision]:
        for (contestant, at), timing in timings.items():
            if at == allowed:
                found.setdefault(contestant, timing)
    return found


# ------------------------------------------------------------------------------------------------------ reporting
COLUMNS = {
    "median": (">10", lambda row: f"{float(row['median_us']) / 1e6:.3f} s"),
    "n": (">4", lambda row: f"{row['samples']}"),
    "over stock": (">12", lambda row: row["over_channels_last"]),
    "over best": (">11", lambda row: row["over_best_other"]),
    "error": (">10", lambda row: row["relative_error"]),
    "bytes": (">7", lambda row: f"{row['max_bytes']}"),
    "MB": (">8", lambda row: row["memory_mb"]),
}


def lines(rows: list[dict]) -> list[str]:
    """A comparison's rows as they are printed, with the settings below."""
    head = "".join(f"{name:{width}}" for name, (width, _) in COLUMNS.items())
    said = [f"{rows[0]['op']} {rows[0]['shape']}, {rows[0]['passes']}, {rows[0]['threads']} threads", f"{'':38}{head}"]
    for row in rows:
        name = f"  {row['contestant']}, {row['dtype']}"
        figures = "".join(f"{made(row):{width}}" for width, made in COLUMNS.values()) if row["median_us"] else ""
        disturbed = "  disturbed" if row["disturbed"] in (True, "True") else ""
        said.append(f"{name:<38}{figures}{disturbed}" if figures else f"{name:<38}  {row['note']}")
    return said + [f"    {row['contestant']}, {row['dtype']}: {row['settings']}" for row in rows if row["settings"]]


def docs_table(rows: list[dict]) -> str:
    """The rows of a CSV for docs/stable-diffusion.md."""
    where = {
        name: ", ".join(sorted({row[name] for row in rows})) for name in ("cpu", "isa", "threads", "torch", "commit")
    }
    disturbed = sum(row["disturbed"] == "True" for row in rows)
    said = (
        f"{where['cpu']}, {where['isa']}, {where['threads']} threads, torch {where['torch']}, commit {where['commit']}."
    )
    if disturbed:
        said += f" Others disturbed the machine: {disturbed} of {len(rows)} rows, marked ~, are not to be quoted."
    head = ["", "precision", "contestant", "seconds", "over stock", "over the best other", "error", "8-bit steps", "MB"]
    made = [said, "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    before = None
    for row in rows:
        shape = "" if row["shape"] == before else row["shape"]
        before = row["shape"]
        if row["median_us"]:
            seconds = f"{float(row['median_us']) / 1e6:.3g}" + "~" * (row["disturbed"] == "True")
            ratios = [row["over_channels_last"], row["over_best_other"] if row["contestant"] == OURS else ""]
            figures = [seconds, *(f"{float(ratio):.2f}" if ratio else "" for ratio in ratios)]
            figures += [row["relative_error"], row["max_bytes"], row["memory_mb"]]
        else:
            figures = [row["note"], "", "", "", "", ""]
        name = f"**{row['contestant']}**" if row["contestant"] == OURS else row["contestant"]
        made.append("| " + " | ".join([shape, row["dtype"], name, *figures]) + " |")
    return "\n".join(made)


def page(rows: list[dict], text: str) -> str:
    """The document with the table in its place."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{docs_table(rows)}\n{END}{rest.split(END)[1]}"


def read_csv(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, metavar="NAME", help=f"of {', '.join(MODELS)}")
    add("--pixels", type=int, nargs="+", metavar="N", help="a side of the image, of the U-Net the latents")
    add("--batch", type=int, nargs="+", metavar="N", help="images at a time")
    add("--precision", nargs="+", choices=PRECISIONS, help="unless given, bfloat16 only where the CPU has it")
    add("--contestants", nargs="+", choices=CONTESTANTS, metavar="NAME", help=f"of {', '.join(map(repr, CONTESTANTS))}")
    add("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of each contestant; torch's choice")
    add("--weights", type=Path, metavar="FOLDER", help="what save_pretrained wrote, instead of random weights")
    add("--rounds", type=int, default=3, metavar="N", help="undisturbed samples of each contestant (default: 3)")
    add("--limit", type=float, default=600, metavar="S", help="seconds for loading and the first call (default: 600)")
    add(
        "--csv",
        type=Path,
        metavar="FILE",
        help=f"default: {CSV.relative_to(ROOT)}, or none if only a part is asked for",
    )
    add("--docs", action="store_true", help="write the table of docs/stable-diffusion.md from the CSV, measure nothing")
    args = parser.parse_args(argv)
    asked = args.models, args.pixels, args.batch, args.precision, args.contestants, args.weights
    path = args.csv or (None if any(asked) else CSV)
    try:
        if args.docs:
            PAGE.write_text(page(read_csv(args.csv or CSV), PAGE.read_text()))
        else:
            run(chosen(args), args, path)
    except (OSError, ValueError, Failed) as error:
        print(f"bench_autoencoder.py: {error}", file=sys.stderr)
        return 2
    return 0


def chosen(args) -> list[Comparison]:
    """What the options ask for.

    Raises:
        ValueError: it cannot be measured; a sentence.
    """
    if importlib.util.find_spec("diffusers") is None:
        raise ValueError("diffusers is not installed, whose networks are measured; run `pip install diffusers`")
    for name in ("pixels", "batch", "threads", "rounds"):
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}, must be at least 1")
    models = args.models or [name for name, model in MODELS.items() if model.by_default]
    if args.weights:
        kind = kind_in(args.weights)
        wrong = [name for name in models if MODELS[name].kind != kind]
        if args.models and wrong:
            raise ValueError(f"--weights: {args.weights} holds {kind}, {wrong[0]} needs {MODELS[wrong[0]].kind}")
        models = [name for name in models if name not in wrong]
    return comparisons(models, args.pixels, args.batch, args.precision, args.contestants)


def run(asked: list[Comparison], args, path: Path | None) -> None:
    """Measures, prints, writes. Until all is measured the rows are in a file beside the CSV."""
    torch.set_num_threads(args.threads)  # the probes'
    where = conditions()
    print("  ".join(f"{key} {value}" for key, value in where.items()))
    print("random weights" if args.weights is None else f"the weights of {args.weights}", flush=True)
    rows: list[dict] = []
    part = path and path.with_suffix(".part")
    if part:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()  # or an error now, not after minutes
    for comparison in asked:
        measured = measure(comparison, args.rounds, args.limit, args.threads, args.weights)
        print("\n".join(lines(measured)), flush=True)
        rows += [row | where for row in measured]
        if part:
            write_rows(part, rows)
    if part:
        part.replace(path)
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
