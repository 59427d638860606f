"""What the trainings of all kinds of models have in common on the command line: fields as flags, data, the end."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Sequence
from typing import Any

from .._config import Config
from .._errors import DataError
from ..data import Opened, open_dataset
from ..diffusion.model_config import DERIVED, LatentDiffusionConfig
from ..models import VAEGANConfig
from ..training.autoencoder_config import AutoencoderConfig
from ..training.config import TrainConfig
from ..training.diffusion_config import DiffusionTrainConfig
from ..training.loop import TrainingLoop
from ..training.runs import Run
from ._common import say

__all__ = ["MODELS", "TRAININGS", "fields_of", "fit", "given", "metavar", "open_data", "reader", "strays"]

MODELS: tuple[type[Config], ...] = (VAEGANConfig, AutoencoderConfig, LatentDiffusionConfig)
TRAININGS: tuple[type[Config], ...] = (TrainConfig, DiffusionTrainConfig)


def metavar(field: dataclasses.Field[Any], hint: Any) -> str:
    if field.metadata["choices"]:
        return "|".join(map(str, field.metadata["choices"]))
    if hint is bool:
        return "true|false"
    kinds = typing.get_args(hint) or (hint,)
    if any(typing.get_origin(kind) is tuple for kind in (hint, *kinds)):
        return "HxW" if int in kinds and typing.get_origin(hint) is not tuple else "N,N,..."
    return "N" if int in kinds else "X"


def reader(hint: Any) -> Callable[[str], Any]:
    """Text to a value of the hinted kind; the configuration checks the value and says what is allowed."""
    if hint is bool:
        return lambda text: {"true": True, "false": False}.get(text.lower(), text)
    if typing.get_origin(hint) is typing.Literal:
        return str
    options = (hint,) if typing.get_origin(hint) is tuple else typing.get_args(hint) or (hint,)
    alone = any(kind in options for kind in (int, float, str))

    def read(text: str) -> Any:
        if text.lower() == "none" and type(None) in options:
            return None
        if str in options:
            return text
        parts = [_number(part) for part in text.replace("x", ",").split(",") if part]
        return parts[0] if alone and len(parts) == 1 else tuple(parts) or text

    return read


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def open_data(source: str, **options: Any) -> tuple[str, Opened]:
    if source == "auto":
        try:
            return "mnist", open_dataset("mnist", **options)
        except DataError as error:
            say(f"MNIST cannot be had ({error}); rendered digits take its place")
            source = "digits"
    return source, open_dataset(source, **options)


def fit(trainer: TrainingLoop, dataset: Opened | str, source: str, arguments: argparse.Namespace) -> Run | None:
    """The run, once it has ended; None after ``--dry-run``."""
    if arguments.dry_run:
        print(trainer.describe(dataset, source=source), end="")
        return None
    run = trainer.fit(dataset, source=source, profile=arguments.profile)
    if trainer.first:
        assert run.folder is not None
        pipeline = run.folder / "pipeline"
        opened = f" For diffusers: {pipeline}." if (pipeline / "model_index.json").is_file() else ""
        say(
            f"{run.step:,} steps taken. Pictures: {run.samples}. The model, its averaged (EMA) weights: {run.model}."
            f"{opened} Go on: sdgan-ext train --resume {run.folder} --steps N"
        )
    return run


def fields_of(config: type[Config]) -> list[dataclasses.Field[Any]]:
    """The fields of ``config`` that flags can give."""
    derived = DERIVED if config is LatentDiffusionConfig else ()
    return [field for field in dataclasses.fields(config) if field.name not in derived]


def given(arguments: argparse.Namespace, config: type[Config]) -> dict[str, Any]:
    """The fields of ``config`` that flags were given for."""
    names = [field.name for field in fields_of(config)]
    return {name: getattr(arguments, name) for name in names if name in arguments}


def strays(arguments: argparse.Namespace, kind: type[Config], kinds: Sequence[type[Config]]) -> list[str]:
    """Fields that were given, of configurations of other ``kinds`` alone, as flags."""
    own = given(arguments, kind)
    return [f"--{name.replace('_', '-')}" for other in kinds for name in given(arguments, other) if name not in own]
