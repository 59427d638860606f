"""Image batches as files: grids, PNG, GIF."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdgan_ext._files import replacing
from sdgan_ext.data import to_uint8

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "columns_of",
    "differences_grid",
    "image_grid",
    "pairs_grid",
    "save_gif",
    "save_png",
    "seeded_latents",
    "to_pillow",
]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_SHORT_SIDE = 112  # smaller pictures are enlarged in a GIF, for viewers do not


def seeded_latents(seeds: Iterable[int], latent_shape: Sequence[int]) -> Tensor:
    """[len(seeds), *latent_shape] from N(0, I); each row is what ``VAEGAN.sample(1, seed=seed)`` decodes."""
    return torch.cat([torch.randn(1, *latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def image_grid(images: Tensor, columns: int, *, gap: int = 2) -> Tensor:
    """Images side by side, row by row.

    Args:
        images: floating point [N, C, H, W] in [-1, 1], N >= 1.
        columns: images in a row.
        gap: black (in RGBA: transparent) pixels between two of them.

    Returns:
        uint8 [C, rows * (H + gap) - gap, columns * (W + gap) - gap]; missing images of the last row stay black.
    """
    images = to_uint8(images.cpu())
    count, channels, height, width = images.shape
    rows = math.ceil(count / columns)
    grid = images.new_zeros(channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        grid[:, top : top + height, left : left + width] = image
    return grid


def pairs_grid(above: Tensor, below: Tensor, columns: int) -> Tensor:
    """:func:`image_grid` with each row of ``above`` over the same row of ``below``."""
    return _rows_grid((above, below), columns)


def differences_grid(images: Tensor, images_hat: Tensor, columns: int, *, times: float) -> Tensor:
    """:func:`image_grid` with each row of ``images`` over that of ``images_hat`` and that of what differs.

    Args:
        images, images_hat: floating point [N, C, H, W] in [-1, 1], of 1 or 3 channels.
        times: the last row shows ``|images_hat - images| * times``, black where they are equal.
    """
    difference = ((images_hat - images).abs() * times).clamp(max=2) - 1
    return _rows_grid((images, images_hat, difference), columns)


def _rows_grid(kinds: Sequence[Tensor], columns: int) -> Tensor:
    rows = []
    for start in range(0, len(kinds[0]), columns):
        for images in kinds:
            row = images[start : start + columns].cpu()
            black = -row.new_ones(columns - len(row), *row.shape[1:])
            rows.append(torch.cat([row, black]))
    return image_grid(torch.cat(rows), columns)


def columns_of(count: int) -> int:
    """The columns of a grid that is about square."""
    return max(1, math.ceil(math.sqrt(count)))


def save_png(path: Path, grid: Tensor) -> None:
    """``grid``: uint8 [C, H, W] of 1, 3 or 4 channels."""
    with replacing(path) as file:
        to_pillow(grid).save(file, format="PNG")


def save_gif(path: Path, frames: Iterable[Tensor], *, seconds: float = 0.08) -> None:
    """An endless GIF of ``frames``, uint8 [C, H, W] each, shown for ``seconds`` each."""
    pictures = [to_pillow(frame) for frame in frames]
    scale = max(1, math.ceil(_SHORT_SIDE / min(pictures[0].size)))
    pictures = [picture.resize([scale * side for side in picture.size], 0) for picture in pictures]
    with replacing(path) as file:
        pictures[0].save(
            file, format="GIF", save_all=True, append_images=pictures[1:], duration=round(1000 * seconds), loop=0
        )


def to_pillow(grid: Tensor) -> Image:
    """uint8 [C, H, W] of 1, 3 or 4 channels as a ``PIL.Image``."""
    from PIL import Image as pillow

    pixels = grid.permute(1, 2, 0).contiguous().numpy()
    return pillow.fromarray(pixels[:, :, 0] if grid.shape[0] == 1 else pixels, _MODES[grid.shape[0]])
