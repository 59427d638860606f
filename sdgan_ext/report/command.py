"""The command line that trains a run again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from .._errors import ConfigError
from ..diffusion.model_config import DERIVED, LatentDiffusionConfig
from ..presets import DIFFUSION_PRESETS, PRESETS, Preset
from ..training.autoencoder_config import LAYERS, AutoencoderConfig
from ..training.config import TrainConfig
from ..training.diffusion_config import DiffusionTrainConfig
from ..training.runs import model_config

__all__ = ["train_command"]


def train_command(config: Mapping[str, Mapping[str, Any]]) -> str | None:
    """With the preset that leaves the fewest flags to give; None: the command line cannot make this run.

    Args:
        config: of a run's config.yaml.
    """
    source = config["data"].get("source")
    try:
        model = model_config(config["model"])
        if isinstance(model, LatentDiffusionConfig):
            return _of_diffusion(source, model, DiffusionTrainConfig.from_dict(config["train"]))
        run = Preset(model, TrainConfig.from_dict(config["train"]))
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


def _of_diffusion(source: Any, model: LatentDiffusionConfig, train: DiffusionTrainConfig) -> str | None:
    if not isinstance(source, str) or model.autoencoder is None:
        return None
    given = ["sdgan-ext", "train", "--data", source, "--autoencoder", model.autoencoder]
    networks = [field for field in model.to_dict() if field not in DERIVED]
    own = {**train.to_dict(), **{field: model.to_dict()[field] for field in networks}}
    candidates = []
    for name, preset in DIFFUSION_PRESETS.items():
        theirs = preset.train.to_dict() | {field: preset.model.to_dict()[field] for field in networks}
        differing = [field for field in own if own[field] != theirs[field]]
        words = [word for field in differing for word in (f"--{field.replace('_', '-')}", _text(own[field]))]
        candidates.append(["--preset", name, *words])
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
