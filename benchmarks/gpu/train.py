"""Trains on the CPU and on the GPU from the same seed, and compares the loss curves; started by parts.py.

    python -m gpu.train --runs cpu|control|gpu --journal FILE --results FOLDER --conditions FILE --data SPEC --seconds N
        [--rehearse]

Curves are taken without TF32, for they are compared with the CPU's; speed is taken with torch's defaults. The control
is the CPU again with other kernels, which differ by rounding alone: so far apart may two equal trainings come.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import torch

import sdgan_ext as sd
from sdgan_ext import data

from .machine import find_machine
from .measure import first_line
from .supervise import Journal
from .tables import append_rows

#: Steps of a curve.
CURVES = {"mnist-small": 300, "seed": 100}
RUNS = {"cpu": ("cpu",), "control": ("cpu, other kernels",), "gpu": ("gpu", "gpu graphed")}
DIGITS = 4096
#: The columns of a curve; a preset need not have all.
LOSSES = tuple(f"discriminator/{name}" for name in ("total", "real", "fake")) + tuple(
    f"encoder_generator/{name}"
    for name in ("kl", "pixel", "feature", "reconstruction", "adversarial_reconstructed", "adversarial_generated")
)


# ------------------------------------------------------------------------------------------------------- training
def open_data(spec: str, rehearse: bool) -> data.ImageDataset:
    if spec != "digits":
        return data.open_dataset(spec)
    rendered = data.open_dataset("digits")
    images, _ = rendered.batch(torch.arange(64 if rehearse else DIGITS))
    return data.ImageDataset(data.to_uint8(images), name="digits")


def has_graphs() -> bool:
    return "cuda_graph" in {field.name for field in dataclasses.fields(sd.TrainConfig)}


def train(preset: str, device: str, graphed: bool, dataset, folder: Path, **changes) -> list[dict]:
    """The records of the run's log."""
    model_config, config = sd.preset(preset)
    never = 10**6
    config = config.replace(sample_every=never, checkpoint_every=never, **changes)
    if has_graphs():
        config = config.replace(cuda_graph=graphed)
    torch.manual_seed(config.seed)
    model = sd.VAEGAN(model_config).to(device)
    run = sd.Trainer(model, config, out=folder, progress=False).fit(dataset)
    return [json.loads(line) for line in run.log_file.read_text().splitlines()]


def curve(preset: str, run: str, device: str, dataset, folder: Path, steps: int, batch: int) -> list[dict]:
    torch.backends.cudnn.allow_tf32 = False
    records = train(preset, device, run == "gpu graphed", dataset, folder, steps=steps, log_every=1, batch_size=batch)
    rows = []
    for record in records:
        losses = {name: f"{record[name]:.7g}" if name in record else "" for name in LOSSES}
        rows.append({"preset": preset, "run": run, "batch": batch, "step": record["step"]} | losses)
    return rows


def speed(preset: str, run: str, device: str, dataset, folder: Path, rehearse: bool) -> str:
    """In words: images a second of the second half of a run, data loading and all."""
    torch.backends.cudnn.allow_tf32 = True
    half, batch = (2, 4) if rehearse else (400, 128)
    records = train(
        preset, device, run == "gpu graphed", dataset, folder, steps=2 * half, log_every=half, batch_size=batch
    )
    images = 1000 / max(records[-1]["s_per_kimg"], 1e-9)
    return f"Trainer, {preset}, batch {batch}, {run}: {images:.0f} images/s, data loading included"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", choices=list(RUNS), required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--conditions", type=Path, required=True)
    parser.add_argument("--data", required=True, help="as of `sdgan-ext train`")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    machine, rehearse = find_machine(arguments.rehearse), arguments.rehearse
    device = machine.device if arguments.runs == "gpu" else "cpu"
    where = json.loads(arguments.conditions.read_text())
    journal = Journal(arguments.journal)
    known = journal.records()
    dataset = open_data(arguments.data, rehearse)
    folder = arguments.journal.parent / "runs"
    for kind in ("curve", "speed") if arguments.runs == "gpu" else ("curve",):
        for preset, steps in list(CURVES.items())[: 1 if rehearse else None]:
            for run in RUNS[arguments.runs]:
                key = f"{kind} {preset} {run}"
                if key in known:
                    continue
                if time.monotonic() > end or (run == "gpu graphed" and not has_graphs()):
                    why = "the time was up" if has_graphs() or run != "gpu graphed" else "no graphs in this version"
                    journal.write(key, "skipped", message=why)
                    continue
                journal.write(key, "begin")
                start = time.monotonic()
                notes = []
                try:
                    if kind == "speed":
                        notes = [speed(preset, run, device, dataset, folder, rehearse)]
                    else:
                        size = (4, 2) if rehearse else (steps, 64)
                        rows = curve(preset, run, device, dataset, folder, *size)
                        append_rows(arguments.results / f"{machine.slug}-train.csv", [row | where for row in rows])
                except Exception as error:
                    journal.write(key, "failed", message=first_line(error))
                    print(f"{key}: {error}", flush=True)
                    if "CUDA error" in str(error):
                        return 3
                    continue
                seconds = round(time.monotonic() - start, 2)
                journal.write(key, "passed", seconds=seconds, notes=notes)
                print(f"{key}: {seconds} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
