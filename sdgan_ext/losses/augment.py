"""DiffAugment: D's inputs are augmented, real and generated images alike, and G's gradient goes through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["AUGMENTATIONS", "DRAWS", "diff_augment"]

#: Numbers drawn for an image: brightness, saturation, contrast, two shifts, two coordinates of the cut.
DRAWS = 7
_SHIFT, _CUT = 1 / 8, 1 / 2  # of the image's side


def diff_augment(x: Tensor, draws: Tensor, kinds: Sequence[str] = ("color", "translation", "cutout")) -> Tensor:
    """Each image of ``x`` augmented in its own way, differentiably.

    With u uniform in [0, 1), one number for each image and effect:

    - ``color``: brightness ``x + u - 1/2``; saturation ``m + 2 u (x - m)``, m the mean over channels; contrast
      ``m + (u + 1/2) (x - m)``, m the mean of the image;
    - ``translation``: shifted by up to 1/8 of its height and of its width, zeros coming in;
    - ``cutout``: zeros in a rectangle of half its height and width, its centre anywhere in the image.

    Args:
        x: [N, C, H, W] in [-1, 1], where 0 is grey; the result may lie outside.
        draws: [N, 7] in [0, 1), as of ``torch.rand``; the same draws are the same augmentation.
        kinds: which, applied in the order ``color``, ``translation``, ``cutout``.

    Returns:
        Shape of ``x``.

    Raises:
        ValueError: naming the argument, what came and what is allowed.

    Source: Zhao et al. 2020 (DiffAugment), with their strengths.
    """
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be [N, C, H, W]")
    if draws.shape != (len(x), DRAWS):
        raise ValueError(f"draws has shape {tuple(draws.shape)}; it must be ({len(x)}, {DRAWS})")
    for kind in kinds:
        if kind not in AUGMENTATIONS:
            raise ValueError(f"kinds has {kind!r}; allowed are {', '.join(map(repr, AUGMENTATIONS))}")
    u = draws.to(x.device).reshape(len(x), DRAWS, 1, 1, 1).unbind(1)
    for kind, (augment, first, last) in AUGMENTATIONS.items():
        if kind in kinds:
            x = augment(x, *u[first:last])
    return x


def _color(x: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    brightness, saturation, contrast = brightness.to(x), saturation.to(x), contrast.to(x)
    x = x + (brightness - 0.5)
    mean = x.mean(1, keepdim=True)
    x = torch.lerp(mean, x, 2 * saturation)
    mean = x.mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, x, contrast + 0.5)


def _translation(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    for dim, u in ((2, down), (3, right)):
        size = x.shape[dim]
        reach = math.floor(size * _SHIFT + 0.5)
        source = _positions(x, dim) - (_integers(u, 2 * reach + 1) - reach)
        inside = (source >= 0) & (source < size)
        x = x.gather(dim, source.clamp(0, size - 1).expand_as(x)) * inside.to(x.dtype)
    return x


def _cutout(x: Tensor, y: Tensor, right: Tensor) -> Tensor:
    cut = []
    for dim, u in ((2, y), (3, right)):
        size = x.shape[dim]
        side = math.floor(size * _CUT + 0.5)
        from_edge = _positions(x, dim) - (_integers(u, size) - side // 2)
        cut.append((from_edge >= 0) & (from_edge < side))
    return x * (~(cut[0] & cut[1])).to(x.dtype)


def _positions(x: Tensor, dim: int) -> Tensor:
    """0 .. size - 1 along ``dim``, of size 1 in the others."""
    shape = [1, 1, 1, 1]
    shape[dim] = x.shape[dim]
    return torch.arange(x.shape[dim], device=x.device).reshape(shape)


def _integers(u: Tensor, count: int) -> Tensor:
    """0 .. count - 1: the largest number below 1 times ``count`` does not round up to ``count``."""
    return (u * count).long()


class Augmentation(NamedTuple):
    """A function of the images and of the draws from ``first`` to before ``last``."""

    function: Callable[..., Tensor]
    first: int
    last: int


AUGMENTATIONS = {
    "color": Augmentation(_color, 0, 3),
    "translation": Augmentation(_translation, 3, 5),
    "cutout": Augmentation(_cutout, 5, 7),
}
