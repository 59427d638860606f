"""FID on Inception's features, for numbers beside those of papers: an extra, whose weights are a download."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from .._errors import EvaluationError
from ._images import as_bytes, check_images, check_whole

__all__ = ["inception_fid", "missing"]

_FEATURES = 2048


def missing() -> str | None:
    """Why there is no Inception here, or None."""
    if importlib.util.find_spec("torch_fidelity") is None:
        return (
            "torch-fidelity is not installed: pip install 'sdgan_ext[inception]'; lenet-fd and photos-fd need nothing"
        )
    return None


@torch.no_grad()
def inception_fid(real: Tensor, generated: Tensor, *, batch_size: int = 50) -> float:
    """FID (Heusel et al. 2017) by torchmetrics and torch-fidelity, which downloads Inception's weights when first used.

    Args:
        real, generated: [N, C, H, W], uint8 or floats in [-1, 1], N above 2,048; grey images are repeated.

    Raises:
        EvaluationError: too few images, NaN, or torch-fidelity is not installed.
    """
    for name, images in (("real", real), ("generated", generated)):
        check_images(images, name, _FEATURES + 1)
    check_whole(batch_size, "batch_size", 1)
    if reason := missing():
        raise EvaluationError(f"inception-fid cannot be taken: {reason}")
    from torchmetrics.image.fid import FrechetInceptionDistance

    from ..data.images import convert_channels

    metric = FrechetInceptionDistance(feature=_FEATURES).set_dtype(torch.float64)
    for images, is_real in ((real, True), (generated, False)):
        for part in torch.split(images, batch_size):
            metric.update(convert_channels(as_bytes(part), 3), real=is_real)
    distance: float = metric.compute().item()
    return distance
