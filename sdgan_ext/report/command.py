"""The command line that trains a run again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from .._errors import ConfigError
from ..presets import PRESETS, Preset
from ..training.autoencoder_config import LAYERS, AutoencoderConfig
from ..training.config import TrainConfig
from ..training.runs import model_config

__all__ = ["train_command"]


def train_command(config: Mapping[str, Mapping[str, Any]]) -> str | None:
    """With the preset that leaves the fewest flags to give; None: the command line cannot make this run.

    Args:
        config: of a run's config.yaml.
    """
    source = config["data"].get("source")
    try:
        run = Preset(model_config(config["model"]), TrainConfig.from_dict(config["train"]))
    except ConfigError:  # of a program's own networks, or of a newer version
        return None
    of_object = isinstance(run.model, AutoencoderConfig) and run.model.diffusers and not run.model.init
    if not isinstance(source, str) or of_object:  # the weights it began with, or the images, are a program's
        return None
    size, channels = "x".join(map(str, run.model.size)), str(run.model.channels)
    given = ["sdgan-ext", "train", "--data", source, "--image-size", size, "--channels", channels]
    same_kind = {name: preset for name, preset in PRESETS.items() if type(preset.model) is type(run.model)}
    candidates = [["--preset", name, *_flags(preset, run)] for name, preset in same_kind.items()]
    return shlex.join([*given, *min(candidates, key=len)])


def _flags(preset: Preset, run: Preset) -> list[str]:
    """What makes of a preset this run."""
    theirs = {**preset.train.to_dict(), **preset.model.for_mode(run.train.mode).to_dict()}
    said = {"image_size", "channels", "diffusers"}
    if isinstance(run.model, AutoencoderConfig) and run.model.init:
        said |= set(LAYERS)  # by the folder of --init
    words = []
    for field, value in {**run.train.to_dict(), **run.model.to_dict()}.items():
        if theirs[field] != value and field not in said:
            words += [f"--{field.replace('_', '-')}", _text(value)]
    return words


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) + ("," if len(value) == 1 else "")
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
