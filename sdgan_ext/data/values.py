"""The one value range of images and the one conversion to and from bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from sdgan_ext._errors import DataError

__all__ = ["VALUE_RANGE", "to_float", "to_uint8"]

VALUE_RANGE = (-1.0, 1.0)
"""Every float image in this package lies in this closed range; a generator's tanh fills it."""


def to_float(images: Tensor) -> Tensor:
    """Bytes to floats: ``x / 127.5 - 1``.

    Args:
        images: uint8, any shape.

    Returns:
        float32 in [-1, 1], same shape; 0 becomes -1 and 255 becomes 1, both exactly.

    Raises:
        DataError: ``images`` is not uint8.
    """
    if images.dtype != torch.uint8:
        raise DataError(f"to_float takes a uint8 tensor, {_dtype(images)} came")
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Floats to bytes: clamp to [-1, 1], then round ``(x + 1) * 127.5`` to the nearest byte.

    The inverse of :func:`to_float` for each of the 256 bytes. Halves go to the even byte; the one float that meets a
    half is 0, which becomes 128. Infinities clamp like any value out of range.

    Args:
        images: any floating dtype, any shape; computed in float32 (float64 stays float64).

    Returns:
        uint8, same shape.

    Raises:
        DataError: ``images`` is not floating point, or holds NaN, which has no byte.
    """
    if not images.is_floating_point():
        raise DataError(f"to_uint8 takes a floating-point tensor in [-1, 1], {_dtype(images)} came")
    images = images.detach()
    if torch.isnan(images).any():
        count = int(torch.isnan(images).sum())
        raise DataError(f"to_uint8 got NaN in {count:,} of {images.numel():,} values, every pixel must be a number")
    wide = images if images.dtype == torch.float64 else images.float()
    return wide.clamp(-1.0, 1.0).add_(1.0).mul_(127.5).round_().to(torch.uint8)


def _dtype(images: Tensor) -> str:
    return str(images.dtype).removeprefix("torch.")
