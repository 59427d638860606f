"""Whether training sees the difference between Winograd's convolutions and the library's: many seeds of a short run.

    python benchmarks/accuracy_training.py [--seeds 20] [--steps 150]  prints, writes results/accuracy_training.csv

The preset mnist-small on rendered digits, batch 32, with every convolution forced to one path and the other. The
losses of a seed's last 20 steps are averaged. Runs of one seed soon differ, as rounding does that; the means must not.
They are compared in standard errors: of the two means, and, which is sharper, of the differences of one seed.
"""

import argparse
import statistics

import torch
from _harness import ROOT, conditions, write_rows

import sdgan_ext as sd
from sdgan_ext import data
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.steps import train_step

PATHS = ("library", "winograd")
BATCH, LAST = 32, 20


def losses(path: str, seed: int, steps: int, images: torch.Tensor) -> dict[str, float]:
    sd.conv_backend(path, "library")
    torch.manual_seed(seed)
    preset = sd.preset("mnist-small")
    model = sd.VAEGAN(preset.model)
    optimizers = make_optimizers(model, preset.train)
    order = torch.randint(len(images), (steps, BATCH))
    history = [train_step(model, optimizers, images[rows], preset.train, step=i) for i, rows in enumerate(order)]
    return {name: statistics.fmean(terms[name].item() for terms in history[-LAST:]) for name in history[-1]}


def standard_error(values: list[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="at least 2")
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, _ = data.open_dataset("digits").batch(torch.arange(4096))
    rows = []
    for seed in range(options.seeds):
        for path in PATHS:
            of_seed = losses(path, seed, options.steps, images)
            rows += [{"seed": seed, "path": path, "loss": name, "value": f"{v:.6g}"} for name, v in of_seed.items()]
    print(f"{options.seeds} seeds\n| loss | library | Winograd | apart | apart, seed by seed |\n|---|---|---|---|---|")
    for name in dict.fromkeys(row["loss"] for row in rows):
        a, b = ([float(r["value"]) for r in rows if r["path"] == path and r["loss"] == name] for path in PATHS)
        apart = statistics.fmean(b) - statistics.fmean(a)
        means = [f"{statistics.fmean(v):.4g} ± {standard_error(v):.2g}" for v in (a, b)]
        errors = [
            (standard_error(a) ** 2 + standard_error(b) ** 2) ** 0.5,
            standard_error([y - x for x, y in zip(a, b, strict=True)]),
        ]
        cells = [name, *means, *(f"{apart / e if e else 0:+.1f}" for e in errors)]
        print(f"| {' | '.join(cells)} |")
    where = {**conditions(), "steps": options.steps, "batch": BATCH}
    path = ROOT / "benchmarks" / "results" / "accuracy_training.csv"
    write_rows(path, [{**row, **where} for row in rows])
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
