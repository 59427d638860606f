"""Saved weights into a model, or a sentence that says why they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._errors import CheckpointError
from .migration import with_new_names

__all__ = ["check_weights", "load_into"]


def load_into(model: torch.nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """``model.load_state_dict(weights)``, where they fit; ``path`` is the file they come from.

    Raises:
        CheckpointError: as :func:`check_weights`; the model is as it was.
    """
    model.load_state_dict(check_weights(model, weights, path))


def check_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """``weights`` by the names that ``model`` has: those that have changed are translated (:mod:`.migration`).

    Raises:
        CheckpointError: naming the first tensor that is missing, too many, of another shape, of another kind of numbers
            than the model's (float32 of a float16 model is of its kind), or that holds NaN or infinity.
    """
    own = model.state_dict()
    weights = with_new_names(weights, own)
    for name in (*own, *weights):
        if name not in weights:
            difference = f"it has no {name}"
        elif name not in own:
            difference = f"it has {name}, the model has not"
        else:
            difference = _difference(name, own[name], weights[name])
        if difference:
            raise CheckpointError(f"{path} is of another architecture than the model: {difference}")
    for name, value in weights.items():
        if value.is_floating_point() and not value.to(own[name].dtype).isfinite().all():
            raise CheckpointError(f"{path} is damaged: {name} holds NaN or infinity")
    return weights


def _difference(name: str, own: Tensor, saved: Any) -> str:
    """How ``saved`` differs in form from the model's ``own`` tensor, in words; empty where it does not."""
    if not isinstance(saved, Tensor) or saved.layout != torch.strided or saved.device.type != "cpu":
        return f"{name} is a {type(saved).__name__}, not numbers"
    if own.shape != saved.shape:
        return f"{name} has shape {tuple(saved.shape)}, the model's {tuple(own.shape)}"
    if own.dtype != saved.dtype and not (own.is_floating_point() and saved.is_floating_point()):
        return f"{name} is of {saved.dtype}, the model's of {own.dtype}"
    return ""
