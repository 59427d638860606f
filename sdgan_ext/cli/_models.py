"""What the commands that take a trained model have in common: the model, seeds, labels, the data's split."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .._errors import ConfigError, MissingSplitError, shown
from .._files import user_path
from ._common import add_threads, integer, set_threads

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Opened
    from ..diffusion.model import LatentDiffusion
    from ..models import VAEGAN
    from ..training.autoencoder import Autoencoder
    from ..training.runs import ModelConfig

__all__ = ["add_autoencoder", "add_data", "add_model", "add_pictures", "add_seeds", "folder_of", "in_parts", "load"]
__all__ += ["open_any_model", "open_model", "open_split", "pad_of", "read_labels", "read_seeds", "without_text"]

_BATCH = 64
_MOST_SEEDS, _MOST_DIGITS = 100_000, 18  # of --seeds: how many, and of how many digits each


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="RUN",
        help="a run folder, a model folder that save_pretrained wrote, or of diffusers' AutoencoderKL the folder, "
        "that of a pipeline, or a single file",
    )


def add_autoencoder(parser: argparse.ArgumentParser) -> None:
    """What is to be said of an AutoencoderKL that was not trained here."""
    parser.add_argument(
        "--image-size", type=integer, help="of an AutoencoderKL, side of the images; what its config says unless given"
    )
    parser.add_argument(
        "--original-config", metavar="YAML", help="of a single file: its training's, where diffusers does not know it"
    )


def add_seeds(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--seeds", default=default, help=f"such as 0-31 or 1,5,7; {default} unless given")
    parser.add_argument("--labels", help="of a conditional model: classes in turn, as 3 or 0-9; all unless given")


def add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", help="the folder for the pictures; generated in RUN unless given")
    add_threads(parser)


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="as in train")
    parser.add_argument("--background", metavar="COLOUR", help="as in train")
    parser.add_argument("--resize", type=integer, help="as in train")
    parser.add_argument("--pad", type=integer, help="as in train; a diffusion model knows it")


def pad_of(arguments: argparse.Namespace, config: ModelConfig) -> int:
    """How many pixels the data get on each side: what ``--pad`` says, or the model knows."""
    given: int | None = arguments.pad
    return getattr(config, "pad", 0) if given is None else given


def open_model(arguments: argparse.Namespace) -> tuple[VAEGAN | Autoencoder, Path]:
    """The model, and the folder to write to."""
    model, out = open_any_model(arguments)
    return without_text(model, arguments.model), out


def without_text(model: VAEGAN | Autoencoder | LatentDiffusion, path: str) -> VAEGAN | Autoencoder:
    """
    Raises:
        ConfigError: the model is a latent diffusion model.
    """
    from ..diffusion.model import LatentDiffusion

    if isinstance(model, LatentDiffusion):
        raise ConfigError(
            f"{path} is of a latent diffusion model, which sample and evaluate take; of its autoencoder, "
            f"{Path(path) / 'autoencoder'}, this command works too"
        )
    return model


def open_any_model(arguments: argparse.Namespace) -> tuple[VAEGAN | Autoencoder | LatentDiffusion, Path]:
    """The model, which may be one of latent diffusion too, and the folder to write to."""
    set_threads(arguments)
    model = load(arguments)
    out = user_path(arguments.out or folder_of(arguments) / "generated")
    out.mkdir(parents=True, exist_ok=True)
    return model, out


def load(arguments: argparse.Namespace) -> VAEGAN | Autoencoder | LatentDiffusion:
    """The model, with the flags of :func:`add_autoencoder` where the command has them."""
    from ..training.runs import load_model

    given = {name: getattr(arguments, name, None) for name in ("image_size", "original_config")}
    return load_model(arguments.model, **{name: value for name, value in given.items() if value is not None})


def folder_of(arguments: argparse.Namespace) -> Path:
    """Where to write what no flag names a place for: the model's folder, or the one that its file is in."""
    path = user_path(arguments.model)
    return path.parent if path.is_file() else path


def open_split(arguments: argparse.Namespace, config: ModelConfig) -> Opened:
    """The split that ``--split`` names, else test, else, with a line that says so, train; sets ``arguments.split``."""
    from ..data import open_dataset

    captions: str | None = getattr(config, "captions", None)  # of a diffusion model

    def opened(split: Literal["train", "test"]) -> Opened:
        arguments.split = split
        return open_dataset(
            source,
            split=split,
            image_size=config.image_size,
            channels=config.channels,
            background=arguments.background,
            need_labels=bool(config.classes),
            resize=arguments.resize,
            pad=pad_of(arguments, config),
            captions=captions,
        )

    source: str = arguments.data
    if arguments.split is not None:
        return opened(arguments.split)
    try:
        return opened("test")
    except MissingSplitError as error:
        dataset = opened("train")
        print(f"{error}: the training images are taken, from which the model may have learnt")
        return dataset


def in_parts(
    model: VAEGAN | Autoencoder, function: Callable[..., Tensor], inputs: Tensor, labels: Tensor | None = None
) -> Tensor:
    """``function(inputs)`` of ``model`` in batches that fit the memory, or ``function(inputs, labels)``."""
    import torch

    size = model.traits.images_at_a_time(_BATCH)
    given = [torch.split(tensor, size) for tensor in (inputs, labels) if tensor is not None]
    with torch.no_grad():
        return torch.cat([function(*part) for part in zip(*given, strict=True)])


def read_labels(arguments: argparse.Namespace, model: VAEGAN | Autoencoder | LatentDiffusion, n: int) -> Tensor | None:
    """What ``--labels`` means for n images, [n]; None for a model without classes."""
    from ..models.labels import as_labels

    classes = model.config.classes
    if arguments.labels is None and not classes:
        return None
    listed = list(range(classes)) if arguments.labels is None else read_seeds(arguments.labels, "--labels")
    try:
        return as_labels([listed[i % len(listed)] for i in range(n)], n, model.config)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"--{error}") from None


def read_seeds(text: str, flag: str = "--seeds") -> list[int]:
    """The numbers that ``0-3,7`` means: 0, 1, 2, 3 and 7."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        digits = first.isdecimal() and last.isdecimal() and max(len(first), len(last)) <= _MOST_DIGITS
        if not (digits and int(first) <= int(last)):
            raise ConfigError(
                f"{flag} is {shown(text)}; it must be like 0-31 or 1,5,7, of {_MOST_DIGITS} digits at most"
            )
        numbers = range(int(first), int(last) + 1)
        if len(seeds) + len(numbers) > _MOST_SEEDS:
            raise ConfigError(f"{flag} is {shown(text)}; it must be {_MOST_SEEDS:,} numbers at most")
        seeds += numbers
    return seeds
