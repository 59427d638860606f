"""Class labels, as the networks of a conditional model take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .config import VAEGANConfig

__all__ = ["as_labels", "check_labels"]


def check_labels(labels: Tensor | None, n: int, config: VAEGANConfig) -> None:
    """That there are labels for ``n`` images where the model has classes; :func:`as_labels` checks their values.

    Raises:
        ValueError, TypeError: missing, given to a model without classes, or of another shape or dtype.
    """
    if labels is None:
        if config.classes:
            raise ValueError(
                f"labels are missing: this model is conditioned on {config.classes} classes; give [{n}] integers, 0 to "
                f"{config.classes - 1}"
            )
        return
    if not config.classes:
        raise ValueError("labels are given, but this model is not conditioned on classes (classes is 0)")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        came = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a tensor of int64, got {came}")
    if labels.shape != (n,):
        raise ValueError(f"labels has shape {tuple(labels.shape)}; it must be ({n},), one label for each image")


def as_labels(labels: int | Sequence[int] | Tensor | None, n: int, config: VAEGANConfig) -> Tensor | None:
    """``labels`` as int64 [n], on the CPU or where they are; one number stands for all images.

    Raises:
        ValueError: as in :func:`check_labels`, and where a label is none of the model's.
    """
    if labels is None:
        check_labels(None, n, config)
        return None
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    labels = labels.long()
    if labels.dim() == 0:
        labels = labels.expand(n).clone()
    check_labels(labels, n, config)
    outside = labels[(labels < 0) | (labels >= config.classes)]
    if len(outside):
        raise ValueError(f"labels has {outside[0].item()}; this model's are 0 to {config.classes - 1}")
    return labels
