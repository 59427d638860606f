"""How far images are from their reconstructions: MSE, PSNR, SSIM of pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .._errors import EvaluationError
from ._images import check_pair, check_whole, float_parts

__all__ = ["image_errors", "psnr_of_each"]

_LEAST_MSE = 1e-10
_WINDOW = 11


@torch.no_grad()
def image_errors(images_hat: Tensor, images: Tensor, *, batch_size: int = 250) -> dict[str, float]:
    """Means over the images of three errors, pixels taken as (x + 1) / 2 in [0, 1].

    - ``mse = mean((x^ - x)^2)``
    - ``psnr = -10 log10 mse``, of each image, in dB; mse counts as 1e-10 at least, so equal images have 100 dB
    - ``ssim``: Wang et al. 2004 with their Gaussian window (11 pixels, sigma 1.5), K1 0.01, K2 0.03, by torchmetrics:
      borders reflected, no windows left out; not of images below 11 pixels a side, which the window does not fit

    Args:
        images_hat, images: [N, C, H, W] of one shape, uint8 or floats in [-1, 1].

    Raises:
        EvaluationError: not images, NaN, out of range, of two shapes.
    """
    check_pair(images_hat, images, ("images_hat", "images"))
    check_whole(batch_size, "batch_size", 1)
    sums: dict[str, float] = {}
    for a, b in _pairs(images_hat, images, batch_size):
        mse = _mse(a, b)
        values = {"mse": mse, "psnr": _psnr(mse)}
        if min(a.shape[2:]) >= _WINDOW:
            values["ssim"] = ssim(a, b)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value.double().sum().item()
    return {name: total / len(images) for name, total in sums.items()}


@torch.no_grad()
def psnr_of_each(images_hat: Tensor, images: Tensor, *, batch_size: int = 250) -> Tensor:
    """The ``psnr`` of :func:`image_errors`, of each image. float64 [N]"""
    check_pair(images_hat, images, ("images_hat", "images"))
    return torch.cat([_psnr(_mse(a, b)) for a, b in _pairs(images_hat, images, batch_size)])


def _pairs(images_hat: Tensor, images: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of both, pixels in [0, 1]."""
    for a, b in zip(float_parts(images_hat, batch_size), float_parts(images, batch_size), strict=True):
        yield (a.cpu().float() + 1).clamp(0, 2) / 2, (b.cpu().float() + 1).clamp(0, 2) / 2


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1, dtype=torch.float64)


def _psnr(mse: Tensor) -> Tensor:
    return -10 * mse.clamp(min=_LEAST_MSE).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of each pair, [N]. a and b are [N, C, H, W] in [0, 1] with sides of 11 pixels at least."""
    if min(a.shape[2:]) < _WINDOW:
        raise EvaluationError(f"images are {a.shape[2]}x{a.shape[3]}; SSIM's window needs {_WINDOW}x{_WINDOW} or more")
    from torchmetrics.functional.image import structural_similarity_index_measure

    value = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    assert isinstance(value, Tensor)  # a tuple with return_full_image alone
    return value.reshape(len(a))
