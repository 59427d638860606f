"""Saved weights into a model, or a sentence that says why they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .._errors import CheckpointError
from .migration import with_new_names

__all__ = ["load_into"]


def load_into(model: torch.nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """``model.load_state_dict(weights)``, where they fit; ``path`` is the file they come from.

    Names that have changed since the weights were saved are translated (:mod:`.migration`).

    Raises:
        CheckpointError: naming the first tensor that is missing, too many, or of another shape.
    """
    own = model.state_dict()
    weights = with_new_names(weights, own)
    for name in (*own, *weights):
        if name not in weights:
            difference = f"it has no {name}"
        elif name not in own:
            difference = f"it has {name}, the model has not"
        elif own[name].shape != weights[name].shape:
            difference = f"{name} has shape {tuple(weights[name].shape)}, the model's {tuple(own[name].shape)}"
        else:
            continue
        raise CheckpointError(f"{path} is of another architecture than the model: {difference}")
    model.load_state_dict(weights)
