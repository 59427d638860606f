"""How good are the presets? Trains one, takes the package's metrics of what it makes, keeps pictures.

    python benchmarks/quality.py NAME --data FOLDER [--seed 0] [--threads N] [--runs runs/quality]

NAME is one of EXPERIMENTS below; FOLDER holds the four MNIST files or, for photos, train/ and test/. A run that was
stopped goes on when the same command is given again. Prints what sdgan_ext.evaluation says of the test images
(docs/evaluation.md), puts it into benchmarks/results/quality.csv in place of an older row of the same name and seed,
and writes benchmarks/results/quality/NAME.png: above, samples; below, test images over their reconstructions.
"""

import argparse
import contextlib
import csv
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import torch
from _harness import conditions, write_rows
from _wrong_sign import wrong_sign

import sdgan_ext as sd
from sdgan_ext import data, pictures
from sdgan_ext.training.denormals import flushed_denormals
from sdgan_ext.training.runs import make_model

RESULTS = Path(__file__).parent / "results"
SHOWN, COLUMNS = 32, 16  # samples, and images over their reconstructions


@dataclass(frozen=True)
class Experiment:
    """A preset, what is changed of it, and the metrics (those of sdgan_ext.evaluation) that it is judged by."""

    preset: str
    metrics: tuple[str, ...]
    model: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)
    around: object = contextlib.nullcontext  # what the training runs inside of

    def made(self, seed):
        preset = sd.preset(self.preset)
        config = preset.train.replace(seed=seed, **self.train)
        return preset.model.replace(**self.model).for_mode(config.mode), config


def epochs(count):
    steps = count * 937  # of 64 images
    return {"steps": steps, "lr_cosine_steps": steps}


AUTOENCODER = ("errors", "rfd", "latents")
NO_DISCRIMINATOR = {"mode": "vae", "adaptive_weight": 0.0, "disc_start": 0, "disc_warmup": 0}
BOTH = ("elbo", "errors", "fd", "prdc", "classes", "agreement")
GAN = ("fd", "prdc", "classes")
PHOTOS = {
    "model": {"generator_channels": (128, 64, 32, 16), "discriminator_channels": (16, 32, 64, 128)},
    "train": {
        "mode": "gan", "steps": 6000, "batch_size": 32, "lr_generator": 4e-4, "lr_discriminator": 4e-4,
        "ema_images": 10_000, "evaluate_every": 500, "evaluate_metric": "fd",
    },
}  # fmt: skip
BINARISED = {"binarise": True, "lr_encoder": 4e-3, "lr_generator": 4e-3}
DIFFAUGMENT = {"diffaugment": ("color", "translation", "cutout")}
EXPERIMENTS = {
    "mnist-small": Experiment("mnist-small", BOTH),
    "mnist-vae": Experiment("mnist-vae", ("elbo", "errors", "fd")),
    "mnist-vae-long": Experiment("mnist-vae", ("elbo", "errors", "fd"), train=epochs(30)),
    "mnist-vae-binarised": Experiment("mnist-vae", ("elbo", "nll"), train=epochs(60) | BINARISED),
    "mnist-gan": Experiment("mnist-gan", GAN),
    "mnist-vae-gan": Experiment("mnist-vae-gan", BOTH),
    "mnist-vae-gan-wrong-sign": Experiment("mnist-vae-gan", BOTH, around=wrong_sign),
    "r3gan-small": Experiment("r3gan-small", GAN),
    "photos": Experiment("dcgan-64", ("fd",), **PHOTOS),
    "photos-diffaugment": Experiment("dcgan-64", ("fd",), PHOTOS["model"], PHOTOS["train"] | DIFFAUGMENT),
    "sd-kl": Experiment("sd-kl", ("errors", "fd")),
    "kl-f4-64": Experiment("kl-f4-64", AUTOENCODER),
    "kl-f8-128": Experiment("kl-f8-128", AUTOENCODER),
    "kl-f8-128-no-discriminator": Experiment("kl-f8-128", AUTOENCODER, train=NO_DISCRIMINATOR),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--data", required=True, help="the folder")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: 0)")
    parser.add_argument("--steps", type=int, help="fewer than the experiment's, to try it; nothing is written then")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice unless given")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"), help="folder of the run folders")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    experiment = EXPERIMENTS[args.name]
    with flushed_denormals():
        trainer = train(experiment, args)
    run, model = trainer.run, trainer.ema.module
    test = data.open_dataset(
        args.data, split="test", image_size=model.config.image_size, channels=model.config.channels
    )
    row = {"name": args.name, "preset": experiment.preset, "seed": args.seed, "steps": run.step}
    row |= {"images": run.step * trainer.config.batch_size, "seconds": round(run.seconds, 1)}
    row |= {
        key: round(value, 4) for key, value in sd.evaluation.evaluate(model, test, metrics=experiment.metrics).items()
    }
    row |= conditions()
    print(row)
    if not args.steps:
        keep(row, RESULTS / "quality.csv")
        draw(model, test, RESULTS / "quality" / f"{args.name}.png", experiment)


def train(experiment, args):
    """The trainer of the finished run."""
    folder = args.runs / f"{args.name}-{args.seed}"
    begun = sorted(folder.glob("*-*"))
    model_config, config = experiment.made(args.seed)
    config = config.replace(steps=args.steps) if args.steps else config
    with experiment.around():
        if begun:
            trainer = sd.Trainer.resume(begun[-1], steps=config.steps)
        else:
            torch.manual_seed(args.seed)
            trainer = sd.Trainer(make_model(model_config), config, out=folder)
        stopped_by = trainer.fit(args.data).stopped_by
    if stopped_by:
        raise SystemExit("training was stopped before its last step; the same command goes on with it")
    return trainer


def keep(row, path):
    """Adds a row to the CSV, in place of one of the same name and seed."""
    rows = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    same = ("name", "seed")
    rows = [old for old in rows if any(old[key] != str(row[key]) for key in same)] + [row]
    last = conditions()
    columns = [column for column in dict.fromkeys(itertools.chain(*rows)) if column not in last] + [*last]
    write_rows(path, [{column: one.get(column, "") for column in columns} for one in rows])


def draw(model, test, path, experiment):
    grids = []
    if "fd" in experiment.metrics:
        grids.append(pictures.image_grid(model.sample(SHOWN, seed=0), COLUMNS))
    if model.encoder is not None:
        x = next(data.batches(test, SHOWN, seed=0))[0]
        grids.append(pictures.pairs_grid(x, model.reconstruct(x), COLUMNS))
    gap = grids[0].new_full((len(grids[0]), 8, grids[0].shape[2]), 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures.save_png(path, torch.cat([part for grid in grids for part in (gap, grid)][1:], 1))


if __name__ == "__main__":
    main()
