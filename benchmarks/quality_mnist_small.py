"""How good is `mnist-small`? Trains it on MNIST, then takes the package's metrics of what it makes.

    python benchmarks/quality_mnist_small.py --data FOLDER [--seeds 0-2] [--run RUN]

Prints, and writes to benchmarks/results/quality_mnist_small.csv, for each seed: CPU seconds of training (all threads
added up) and what sdgan_ext.evaluation says on the 10,000 test images (docs/evaluation.md).
"""

import argparse
import csv
import time
from pathlib import Path

import torch
from _harness import conditions

import sdgan_ext as sd
from sdgan_ext import data

RESULTS = Path(__file__).parent / "results" / "quality_mnist_small.csv"
METRICS = ("elbo", "errors", "fd", "prdc", "classes", "agreement")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="folder of the four MNIST files (default: the cache)")
    parser.add_argument("--seeds", default="0", help="training seeds: 0, 0-2 or 1,5")
    parser.add_argument("--steps", type=int, help="fewer or more steps than the preset's")
    parser.add_argument("--run", help="judge this finished run instead of training")
    args = parser.parse_args()
    train, test = data.open_dataset(args.data), data.open_dataset(args.data, split="test")
    rows = []
    for seed in [None] if args.run else parse_seeds(args.seeds):
        row = {"seed": seed}
        if args.run:
            model = sd.VAEGAN.from_pretrained(Path(args.run) / "model")
        else:
            preset = sd.preset("mnist-small")
            changes = {"seed": seed} | ({"steps": args.steps} if args.steps else {})
            torch.manual_seed(seed)
            model = sd.VAEGAN(preset.model)
            wall, cpu = time.perf_counter(), time.process_time()
            trainer = sd.Trainer(model, preset.train.replace(**changes), out=None, progress=False)
            if trainer.fit(train).stopped_by:
                raise SystemExit("training was stopped before its last step; nothing is judged")
            model = trainer.ema.module  # the averaged weights: what a run saves
            row |= {
                "steps": trainer.config.steps,
                "cpu_seconds": round(time.process_time() - cpu, 1),
                "wall_seconds": round(time.perf_counter() - wall, 1),
            }
        values = sd.evaluation.evaluate(model, test, metrics=METRICS)
        row |= {key: round(value, 4) for key, value in values.items()}
        print(row)
        rows.append(row | conditions())
    if not args.run:
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def parse_seeds(text):
    first, _, last = text.partition("-")
    return range(int(first), int(last) + 1) if last else [int(seed) for seed in text.split(",")]


if __name__ == "__main__":
    main()
