"""``sdgan-ext sample``: an image for every seed, or for every caption and seed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import ConfigError
from ._common import integer, say
from ._models import add_model, add_pictures, add_seeds, in_parts, open_any_model, read_labels, read_seeds

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.model import LatentDiffusion

_OF_TEXT = ("captions", "guidance", "steps", "solver", "negative")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "sdgan-ext sample RUN [CAPTION ...] [flag ...]"
    add_model(parser)
    parser.add_argument("captions", metavar="CAPTION", nargs="*", help="of a diffusion model: what is to be seen")
    add_seeds(parser, "0-31")
    parser.add_argument(
        "--guidance", type=float, help="of a diffusion model: how far beyond the caption, 1 is not; 1 unless given"
    )
    parser.add_argument("--steps", type=integer, help="of a diffusion model; what it was made for unless given")
    parser.add_argument(
        "--solver", help="of a diffusion model: euler, heun, ddim, dpm++ or unipc; its own unless given"
    )
    parser.add_argument("--negative", metavar="CAPTION", help="of a diffusion model: what guidance leads away from")
    add_pictures(parser)


def run(arguments: argparse.Namespace) -> int:
    seeds = read_seeds(arguments.seeds)
    model, out = open_any_model(arguments)
    from ..diffusion.model import LatentDiffusion
    from ..pictures import columns_of, image_grid, save_png, seeded_latents

    if isinstance(model, LatentDiffusion):
        return _sample_text(arguments, model, seeds, out)
    for name in _OF_TEXT:
        if getattr(arguments, name) not in (None, []):
            what = f"the caption {arguments.captions[0]!r}" if name == "captions" else f"--{name}"
            raise ConfigError(f"{what} is given, but {arguments.model} is of no diffusion model with text")
    labels = read_labels(arguments, model, len(seeds))
    latents = model.latents(seeded_latents(seeds, model.traits.latent_shape))
    images = in_parts(model, model.decode, latents, labels)
    for seed, image in zip(seeds, images, strict=True):
        save_png(out / f"seed{seed:04d}.png", image_grid(image[None], 1))
    save_png(out / "grid.png", image_grid(images, columns_of(len(images))))
    say(f"{len(images)} images and grid.png: {out}")
    return 0


def _sample_text(arguments: argparse.Namespace, model: LatentDiffusion, seeds: list[int], out: Path) -> int:
    """A row of the grid for each caption, in it a picture of each seed; without captions the classes in turn."""
    from ..pictures import columns_of, image_grid, save_png

    options: dict[str, Any] = {name: getattr(arguments, name) for name in ("steps", "solver", "negative")}
    options["guidance"] = 1.0 if arguments.guidance is None else arguments.guidance
    captions: list[str] = arguments.captions
    if not captions:
        if not model.config.classes and arguments.labels is None:
            raise ConfigError(f"captions are missing: sdgan-ext sample {arguments.model} 'what is to be seen'")
        labels = read_labels(arguments, model, len(seeds))
        images = model.sample(labels=labels, seeds=seeds, **options)
        names, columns = [f"seed{seed:04d}.png" for seed in seeds], columns_of(len(seeds))
    else:
        if arguments.labels is not None:
            raise ConfigError("captions and --labels are both given; one of them says what the images shall show")
        of_images = [caption for caption in captions for _ in seeds]
        images = model.sample(captions=of_images, seeds=seeds * len(captions), **options)
        names = [f"caption{number:02d}-seed{seed:04d}.png" for number in range(len(captions)) for seed in seeds]
        columns = len(seeds)
    images = _unpadded(images, model.config.pad)
    for name, image in zip(names, images, strict=True):
        save_png(out / name, image_grid(image[None], 1))
    save_png(out / "grid.png", image_grid(images, columns))
    say(f"{len(images)} images and grid.png: {out}")
    return 0


def _unpadded(images: Tensor, pad: int) -> Tensor:
    """Without the pixels that the training data were given around them."""
    height, width = images.shape[2:]
    return images[:, :, pad : height - pad, pad : width - pad]
