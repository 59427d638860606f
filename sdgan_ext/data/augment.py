"""Augmentation of the training images.

Of the real images alone, so that a model learns it: it generates mirrored and shifted images too. DiffAugment
(:mod:`sdgan_ext.losses.augment`), which is applied to real and generated images before the discriminator, does not
leak like that; neither replaces the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdgan_ext._errors import DataError, nearest
from sdgan_ext.data._seeds import seeded

__all__ = ["AUGMENTATIONS", "augment_images", "check_kinds", "draw_augmentation"]

AUGMENTATIONS = ("flip", "shift", "rotate90")
_DRAWS = 4
_SHIFT = 1 / 16  # of the image's side: 2 pixels of 28, 4 of 64


def draw_augmentation(count: int, seed: int, step: int) -> Tensor:
    """The draws for ``count`` images of the batch ``step``, [count, 4] in [0, 1): a function of the arguments alone."""
    return torch.rand(count, _DRAWS, generator=seeded("augment", seed, step))


def augment_images(images: Tensor, draws: Tensor, kinds: Sequence[str]) -> Tensor:
    """Each image augmented in its own way; pixels move, none is interpolated.

    - ``flip``: mirrored left to right, with probability 1/2;
    - ``shift``: by up to 1/16 of its height and of its width, at least a pixel, the edge repeated;
    - ``rotate90``: by 0, 1, 2 or 3 quarter turns; for images without an upright.

    Args:
        images: [N, C, H, W].
        draws: [N, 4] in [0, 1), of :func:`draw_augmentation`.
        kinds: which, of :data:`AUGMENTATIONS`; applied in that order.

    Returns:
        Shape of ``images``.

    Raises:
        DataError: an unknown kind; ``rotate90`` of images that are not square.
    """
    check_kinds(kinds)
    mirror, down, right, turns = draws.unbind(1)
    if "flip" in kinds:
        images = torch.where((mirror < 0.5)[:, None, None, None], images.flip(3), images)
    if "shift" in kinds:
        for dim, u in ((2, down), (3, right)):
            size = images.shape[dim]
            reach = max(1, round(size * _SHIFT))
            by = (u * (2 * reach + 1)).long() - reach
            source = (torch.arange(size) - by[:, None]).clamp(0, size - 1)[:, None, :, None]
            images = images.gather(dim, source.transpose(2, dim).expand_as(images))
    if "rotate90" in kinds:
        if images.shape[2] != images.shape[3]:
            raise DataError(f"augment has 'rotate90', which needs square images, {list(images.shape[2:])} came")
        quarters = (turns * 4).long()
        turned = torch.stack([images.rot90(k, (2, 3)) for k in range(4)])
        images = turned[quarters, torch.arange(len(images))]
    return images


def check_kinds(kinds: Sequence[str]) -> None:
    for kind in kinds:
        if kind not in AUGMENTATIONS:
            allowed = ", ".join(map(repr, AUGMENTATIONS))
            raise DataError(f"augment has {kind!r}{nearest(kind, AUGMENTATIONS)}; allowed are {allowed}")
