"""``sdgan-ext sample``: an image for every seed."""

from __future__ import annotations

import argparse

from ._common import say
from ._models import add_model, add_pictures, add_seeds, in_parts, open_model, read_labels, read_seeds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_seeds(parser, "0-31")
    add_pictures(parser)


def run(arguments: argparse.Namespace) -> int:
    seeds = read_seeds(arguments.seeds)
    model, out = open_model(arguments)
    from ..pictures import columns_of, image_grid, save_png, seeded_latents

    labels = read_labels(arguments, model, len(seeds))
    latents = model.latents(seeded_latents(seeds, model.traits.latent_shape))
    images = in_parts(model, model.decode, latents, labels)
    for seed, image in zip(seeds, images, strict=True):
        save_png(out / f"seed{seed:04d}.png", image_grid(image[None], 1))
    save_png(out / "grid.png", image_grid(images, columns_of(len(images))))
    say(f"{len(images)} images and grid.png: {out}")
    return 0
