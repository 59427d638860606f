"""``sdgan-ext reconstruct``: images above what the model makes of them."""

from __future__ import annotations

import argparse
import math

from .._errors import ConfigError
from ._common import integer, say
from ._models import add_autoencoder, add_data, add_model, add_pictures, in_parts, open_model, open_split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_pictures(parser)
    add_data(parser)
    add_autoencoder(parser)
    parser.add_argument("--split", help="train or test; unless given, test where there is one")
    parser.add_argument("--count", type=integer, default=32, help="how many images; 32 unless given")


def run(arguments: argparse.Namespace) -> int:
    if arguments.count < 1:
        raise ConfigError(f"--count is {arguments.count}; it must be at least 1")
    model, out = open_model(arguments)
    from ..data import batches
    from ..pictures import columns_of, pairs_grid, save_png

    if model.encoder is None:
        raise ConfigError(f"the model in {arguments.model} has no encoder (mode 'gan'), so it cannot reconstruct")
    classes = model.config.classes
    dataset = open_split(arguments, model.config)
    images, labels = next(batches(dataset, min(arguments.count, len(dataset)), seed=0))
    if classes and not 0 <= labels.min() <= labels.max() < classes:
        raise ConfigError(f"--data is {arguments.data}; the model needs its labels, 0 to {classes - 1}")
    outputs = in_parts(model, model.reconstruct, images, labels if classes else None)
    file = out / "reconstructions.png"
    save_png(file, pairs_grid(images, outputs, columns_of(2 * len(images))))
    error = (images - outputs).square().mean().item() / 4  # of pixels in [0, 1]
    say(f"{len(images)} images above their reconstructions, PSNR {-10 * math.log10(error):.1f} dB: {file}")
    return 0
