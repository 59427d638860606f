"""Images on their way into a metric: checked, and as bytes, as a picture file would hold them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .._errors import EvaluationError
from ..data.values import to_float, to_uint8

__all__ = ["as_bytes", "check_features", "check_images", "check_pair", "check_whole", "float_parts"]


def check_images(images: Tensor, name: str, least: int = 1) -> Tensor:
    """``images``, if they are at least ``least`` of [N, C, H, W], uint8 or finite floats in [-1, 1]."""
    if not isinstance(images, Tensor) or images.dim() != 4:
        came = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise EvaluationError(f"{name} must be a tensor of images [N, C, H, W], {came} came")
    if images.shape[1] not in (1, 3, 4) or 0 in images.shape[2:]:
        raise EvaluationError(f"{name} must have 1, 3 or 4 channels and a pixel, shape {tuple(images.shape)} came")
    if len(images) < least:
        raise EvaluationError(f"{name} holds {len(images)} images, at least {least} are needed")
    if images.is_floating_point():
        low, high = images.aminmax() if images.numel() else (torch.tensor(0.0),) * 2
        if not (low.isfinite() and high.isfinite()):
            bad = int((~images.flatten(1).isfinite()).any(1).sum())
            raise EvaluationError(f"{name} holds NaN or infinity in {bad} of {len(images)} images; all must be finite")
        if low < -1.001 or high > 1.001:
            raise EvaluationError(f"{name} has values from {low:g} to {high:g}; floats must lie in [-1, 1]")
    elif images.dtype != torch.uint8:
        raise EvaluationError(f"{name} is {images.dtype}; images must be uint8 or floats in [-1, 1]")
    return images


def check_pair(a: Tensor, b: Tensor, names: tuple[str, str], least: int = 1) -> None:
    check_images(a, names[0], least)
    check_images(b, names[1], least)
    if a.shape != b.shape:
        raise EvaluationError(
            f"{names[0]} has shape {tuple(a.shape)} and {names[1]} {tuple(b.shape)}; they must be pairs"
        )


def check_features(features: Tensor, name: str, least: int) -> Tensor:
    """``features`` as float64, if they are at least ``least`` finite rows [N, D]."""
    if not isinstance(features, Tensor) or features.dim() != 2 or not features.is_floating_point():
        came = f"{features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise EvaluationError(f"{name} must be a float tensor of features [N, D], {came} came")
    if len(features) < least:
        raise EvaluationError(f"{name} holds the features of {len(features)} images, at least {least} are needed")
    if not features.isfinite().all():
        bad = int((~features.isfinite()).any(1).sum())
        raise EvaluationError(f"{name} holds NaN or infinity in {bad} of {len(features)} rows; all must be finite")
    return features.detach().double()


def check_whole(value: int, name: str, least: int, most: int | None = None, why: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}{why}"
        raise EvaluationError(f"{name} is {value!r}; it must be an integer {allowed}")
    return value


def as_bytes(images: Tensor) -> Tensor:
    """uint8 of the same shape: real and generated images alike enter a net as a picture file would hold them."""
    return images if images.dtype == torch.uint8 else to_uint8(images)


def float_parts(images: Tensor, size: int) -> Iterator[Tensor]:
    """Batches of ``size`` as floats in [-1, 1]."""
    for part in torch.split(images, size):
        yield to_float(part) if part.dtype == torch.uint8 else part
