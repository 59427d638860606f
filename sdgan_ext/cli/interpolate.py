"""``sdgan-ext interpolate``: a walk through the latent space."""

from __future__ import annotations

import argparse

from .._errors import ConfigError
from ._common import integer, say
from ._models import add_model, add_pictures, add_seeds, open_model, read_labels, read_seeds

_MOST_STEPS = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_seeds(parser, "0-3")
    add_pictures(parser)
    parser.add_argument("--steps", type=integer, default=9, help="images from one seed to the next; 9 unless given")


def run(arguments: argparse.Namespace) -> int:
    seeds = read_seeds(arguments.seeds)
    if len(seeds) < 2:
        raise ConfigError(f"--seeds is {arguments.seeds}; a walk needs two seeds or more")
    if not 2 <= arguments.steps <= _MOST_STEPS:
        raise ConfigError(f"--steps is {arguments.steps}; it must be at least 2, and at most {_MOST_STEPS:,}")
    model, out = open_model(arguments)
    import torch

    from ..pictures import image_grid, save_gif, save_png, seeded_latents

    latents = model.latents(seeded_latents(seeds, model.traits.latent_shape))
    labels = read_labels(arguments, model, len(seeds) - 1)
    stretches = [
        model.interpolate(latents[i], latents[i + 1], arguments.steps, None if labels is None else labels[i])
        for i in range(len(seeds) - 1)
    ]
    save_png(out / "interpolation.png", image_grid(torch.cat(stretches), arguments.steps))
    walk = torch.cat([stretches[0][:1], *(stretch[1:] for stretch in stretches)])
    frames = [image_grid(image[None], 1) for image in walk]
    save_gif(out / "interpolation.gif", frames + frames[-2:0:-1])
    say(f"{len(walk)} images from seed to seed: {out / 'interpolation.png'} and {out / 'interpolation.gif'}")
    return 0
