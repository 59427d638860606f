"""Images a few at a time, where none of a training's own batches sets how many."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .networks import Model

__all__ = ["in_parts"]


def in_parts(model: Model, function: Callable[..., Tensor], x: Tensor, labels: Tensor | None = None) -> Tensor:
    """``function(x, labels)``, a network of ``model``, for as many rows at a time as ``traits.images_at_a_time``."""
    size = model.traits.images_at_a_time(len(x))
    labels_of_parts = [None] * -(-len(x) // size) if labels is None else labels.split(size)
    return torch.cat([function(*part) for part in zip(x.split(size), labels_of_parts, strict=True)])
