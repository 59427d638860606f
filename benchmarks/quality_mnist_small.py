"""How good is `mnist-small`? Trains it on MNIST, then lets an independent classifier judge what it makes.

    python benchmarks/quality_mnist_small.py --data FOLDER [--seeds 0-2] [--run RUN]

Prints, and writes to benchmarks/results/quality_mnist_small.csv, for each seed: CPU seconds of training (all threads
added up), the share of 2,000 test reconstructions to which the classifier gives their true label, and for 2,000 samples
from N(0, I) the mean top probability and the share of the rarest class. The classifier is a stock CNN that never sees a
generated image; its own accuracy on the test images is printed beside.
"""

import argparse
import csv
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from _harness import conditions
from torch import nn

import sdgan_ext as sd
from sdgan_ext import data

RESULTS = Path(__file__).parent / "results" / "quality_mnist_small.csv"


def train_classifier(train, test, epochs=3):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.25), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10),
    )  # fmt: skip
    steps = epochs * len(train) // 128
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    batches = data.batches(train, 128, seed=0)
    for _ in range(steps):
        images, labels = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        schedule.step()
    net.eval()
    images, labels = test.batch(torch.arange(len(test)))
    accuracy = (classify(net, images).argmax(1) == labels).float().mean().item()
    if accuracy < 0.985:
        raise SystemExit(f"the classifier reached {accuracy:.2%} on the test images; 98.5% is needed to judge others")
    return net, accuracy


@torch.no_grad()
def classify(net, images):
    return torch.cat([net(part).softmax(1) for part in images.split(500)])


@torch.no_grad()
def judge(model, net, test, n=2000):
    images, labels = test.batch(torch.arange(n))
    reconstructions = torch.cat([model.reconstruct(part) for part in images.split(500)])
    samples = torch.cat([model.sample(500, seed=seed) for seed in range(n // 500)])
    top, digit = classify(net, samples).max(1)
    return {
        "reconstructions_keep_label": (classify(net, reconstructions).argmax(1) == labels).float().mean().item(),
        "samples_mean_top_probability": top.mean().item(),
        "samples_rarest_class": (digit.bincount(minlength=10).min() / n).item(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="folder of the four MNIST files (default: the cache)")
    parser.add_argument("--seeds", default="0", help="training seeds: 0, 0-2 or 1,5")
    parser.add_argument("--steps", type=int, help="fewer or more steps than the preset's")
    parser.add_argument("--run", help="judge this finished run instead of training")
    args = parser.parse_args()
    train, test = data.open_dataset(args.data), data.open_dataset(args.data, split="test")
    net, accuracy = train_classifier(train, test)
    print(f"classifier: {accuracy:.2%} on {len(test)} test images")
    rows = []
    for seed in [None] if args.run else parse_seeds(args.seeds):
        row = {"seed": seed, "classifier_accuracy": round(accuracy, 4)}
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
        row |= {key: round(value, 4) for key, value in judge(model.eval(), net, test).items()}
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
