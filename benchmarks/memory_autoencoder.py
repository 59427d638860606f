"""The memory of a training step of Stable Diffusion's own autoencoder, with and without checkpointing and in parts.

    python benchmarks/memory_autoencoder.py    prints, writes results/memory_autoencoder.csv; an hour on two cores

AutoencoderKL of 84 million parameters (f8) from random weights, a PatchGAN beside it, as preset kl-f4-64 trains:
adaptive weight, Adam, average. Each row is a process of its own, whose largest resident memory it is, Adam's state
included.
"""

import argparse
import resource
import subprocess
import sys

import torch
from _harness import ROOT, conditions, write_rows

import sdgan_ext as sd
from sdgan_ext.training import ema, optimizers
from sdgan_ext.training.steps import train_step

STABLE_DIFFUSION = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "discriminator_channels": (64, 128, 256),
}
#: pixels, batch_size, accumulate, checkpointing
SETTINGS = [
    *((256, *setting) for setting in ((1, 1, False), (1, 1, True), (2, 1, False), (2, 2, False), (2, 2, True))),
    *((512, *setting) for setting in ((1, 1, False), (1, 1, True))),
]
NAMES = ("pixels", "batch_size", "accumulate", "checkpointing", "peak_gib")


def measure(pixels: int, batch_size: int, accumulate: int, checkpointing: bool) -> float:
    """The peak in GiB."""
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    model = sd.autoencoder(sd.AutoencoderConfig(image_size=pixels, **STABLE_DIFFUSION))
    settings = {"batch_size": batch_size, "accumulate": accumulate, "checkpointing": checkpointing}
    config = sd.preset("kl-f4-64").train.replace(disc_start=0, disc_warmup=0, **settings)
    adam, average = optimizers.make_optimizers(model, config), ema.make_ema(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in adam.values():  # so that its state is there, as in every step but the first
        optimizer.step()
    x = torch.rand(batch_size, 3, pixels, pixels).contiguous(memory_format=torch.channels_last) * 2 - 1
    train_step(model, adam, x, config, step=0)
    average.update_parameters(model)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", type=int, nargs=4, help=argparse.SUPPRESS)  # a row, in a process of its own
    options = parser.parse_args()
    if options.one is not None:
        print(f"{measure(*options.one[:3], bool(options.one[3])):.2f}")
        return
    rows, path = [], ROOT / "benchmarks" / "results" / "memory_autoencoder.csv"
    for setting in SETTINGS:
        command = [sys.executable, __file__, "--one", *(str(int(value)) for value in setting)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        values = *setting, done.stdout.split()[-1]
        rows.append(dict(zip(NAMES, values, strict=True)) | conditions())
        print(*values, sep="\t", flush=True)
        write_rows(path, rows)
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
