"""The command line that trains a run again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from .._errors import ConfigError
from ..models import VAEGANConfig
from ..presets import PRESETS, preset
from ..training.config import TrainConfig

__all__ = ["train_command"]


def train_command(config: Mapping[str, Mapping[str, Any]]) -> str | None:
    """With the preset that leaves the fewest flags to give; None: the command line cannot make this run.

    Args:
        config: of a run's config.yaml.
    """
    source = config["data"].get("source")
    try:
        model, train = VAEGANConfig.from_dict(config["model"]), TrainConfig.from_dict(config["train"])
    except ConfigError:  # of a program's own networks, or of a newer version
        return None
    if not isinstance(source, str):
        return None
    size, channels = "x".join(map(str, model.size)), str(model.channels)
    given = ["sdgan-ext", "train", "--data", source, "--image-size", size, "--channels", channels]
    candidates = [["--preset", name, *_flags(name, model, train)] for name in PRESETS]
    return shlex.join([*given, *min(candidates, key=len)])


def _flags(name: str, model: VAEGANConfig, train: TrainConfig) -> list[str]:
    base, schedule = preset(name)
    theirs = {**schedule.to_dict(), **base.for_mode(train.mode).to_dict()}
    words = []
    for field, value in {**train.to_dict(), **model.to_dict()}.items():
        if theirs[field] != value and field not in ("image_size", "channels"):
            words += [f"--{field.replace('_', '-')}", _text(value)]
    return words


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) + ("," if len(value) == 1 else "")
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
