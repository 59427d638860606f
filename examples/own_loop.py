"""A training loop of your own on sdgan_ext's pure functions: every phase, optimizer and average in sight.

    python examples/own_loop.py --data mnist --steps 2000

The loop is the README's. Each phase sets the gradients of the networks it trains and touches no other, so what stands
between two phases is yours: other optimizers, losses, schedules.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

import sdgan_ext as sd
from sdgan_ext.data import batches, open_dataset
from sdgan_ext.training import ema, optimizers, steps


def train(model, config, batches: Iterable[tuple[Tensor, Tensor]]):
    adam, average = optimizers.make_optimizers(model, config), ema.make_ema(model, config)
    for step, (x, _) in enumerate(batches):
        images = steps.forward(model, x, config)  # z ~ q(z|x), z_p ~ N(0, I), G(z), G(z_p)
        terms = steps.discriminator_phase(model, images, config, step=step)  # sets D's gradients
        adam["discriminator"].step()
        terms |= steps.encoder_generator_phase(model, images, config, step=step)  # sets E's and G's
        adam["encoder"].step()
        adam["generator"].step()
        average.update_parameters(model)
        steps.check_finite(terms, step)
        if step % 100 == 0:
            print(step, {name: round(term.item(), 3) for name, term in terms.items()})
    return average.module


def main(arguments: list[str] | None = None) -> Path:
    """Trains, and returns the folder of the averaged model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="mnist, digits, or a folder of IDX files or images")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", default="own_loop", help="where the model is saved")
    given = parser.parse_args(arguments)

    torch.set_flush_denormal(True)  # numbers below 1e-38 are slow on a CPU, and no loss depends on them
    torch.manual_seed(0)
    preset = sd.preset("mnist-small")
    model, config = sd.VAEGAN(preset.model), preset.train.replace(batch_size=given.batch_size)
    stream = batches(open_dataset(given.data, image_size=28, channels=1), given.batch_size, seed=0)
    averaged = train(model, config, itertools.islice(stream, given.steps))

    folder = Path(given.out)
    averaged.save_pretrained(folder)
    samples = sd.VAEGAN.from_pretrained(folder).sample(16, seed=0)
    print(f"the averaged model is in {folder}; it draws images of {list(samples.shape[1:])}")
    return folder


if __name__ == "__main__":
    main()
