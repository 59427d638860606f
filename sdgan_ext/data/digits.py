"""Digits drawn on the fly: data for a first run, tests and machines without a network.

A glyph of Pillow's built-in font, at one of several stroke widths, is drawn through a random affine map and two gentle
waves: output pixel p samples the glyph at ``A p + wave(p)``. Every random number is a hash of (seed, index), so image
i is the same whatever was drawn before it, alone or in a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor
from torch.utils.data import Dataset

from sdgan_ext._errors import DataError
from sdgan_ext.data._seeds import uniforms
from sdgan_ext.data.captions import Captions, as_items
from sdgan_ext.data.values import to_float

__all__ = ["RenderedDigits"]

_STROKES = 6
_OVERSAMPLING = 2
_CACHE_BYTES = 256 << 20
_CHUNK = 256


class RenderedDigits(Dataset[tuple[Tensor, int | str]]):
    """White digits on black, centred, labelled, endless; the interface of ``ImageDataset``.

    ``length`` is what an epoch means; any index >= 0 can be drawn. Images are drawn when first asked for and kept as
    bytes while an epoch of them fits in 256 MiB. They depend on (seed, index, image_size) and on the installed
    Pillow, whose font engine may differ by a grey level between versions.

    Args:
        seed: any integer.
        length: images in an epoch, at least 1.
        image_size: the side of the square image, at least 8.
        channels: 1, or 3 equal ones.
        first_index: where in the endless sequence index 0 lies: two sets that do not overlap share no image.

    Raises:
        DataError: a value out of these ranges, or a Pillow built without FreeType.
    """

    name = "digits"
    num_classes = 10
    captions: Captions | None = None
    """A text for each digit, for who sets it."""

    def __init__(
        self, seed: int = 0, length: int = 60_000, image_size: int = 28, channels: int = 1, *, first_index: int = 0
    ):
        if length < 1:
            raise DataError(f"digits: length must be at least 1, {length} came")
        if image_size < 8:
            raise DataError(f"digits: image_size must be at least 8, {image_size} came")
        if channels not in (1, 3):
            raise DataError(f"digits: channels must be 1 or 3, {channels} came")
        if first_index < 0:
            raise DataError(f"digits: first_index must not be negative, {first_index} came")
        self.seed = int(seed)
        self.first_index = int(first_index)
        self.length = int(length)
        self.channels = int(channels)
        self._side = int(image_size)
        self._glyphs = _glyphs(self._side)
        self._forget()

    @property
    def image_size(self) -> tuple[int, int]:
        return self._side, self._side

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int | str]:
        """(float32 [C, H, W] in [-1, 1], caption or label 0 to 9)."""
        # Python stops iterating over a sequence at its first IndexError: an endless one has to end somewhere.
        if index >= self.length:
            raise IndexError(f"index {index} is beyond the epoch of {self.length:,} digits, batch() draws it too")
        return self.__getitems__([index + self.length if index < 0 else index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int | str]]:
        """The items of ``indices`` in one go: what torch's DataLoader asks for when it can."""
        return as_items(*self.batch(torch.as_tensor(indices, dtype=torch.int64)), self.captions)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B], each >= 0 -> (float32 [B, C, H, W] in [-1, 1], int64 [B])."""
        indices = torch.as_tensor(indices, dtype=torch.int64)
        if len(indices) and int(indices.min()) < 0:
            raise IndexError(f"digits have indices from 0 up, {int(indices.min())} came")
        images = to_float(self._bytes(indices))
        return images if self.channels == 1 else images.repeat(1, self.channels, 1, 1), self.labels_of(indices)

    def labels_of(self, indices: Tensor) -> Tensor:
        """int64 [B], each >= 0 -> int64 [B], 0 to 9; nothing is drawn for it."""
        return torch.from_numpy(uniforms(self.seed, self._absolute(indices), 1)[0] * 10).long()

    def _absolute(self, indices: Tensor) -> np.ndarray:
        return indices.numpy().astype(np.uint64) + np.uint64(self.first_index)

    def _bytes(self, indices: Tensor) -> Tensor:
        """uint8 [B, 1, H, W], from the cache where it reaches."""
        if self._cache is None or self._drawn is None or (len(indices) and int(indices.max()) >= self.length):
            return self._draw(indices)
        missing: Tensor = indices[~self._drawn[indices]].unique()
        if len(missing):
            self._cache[missing] = self._draw(missing)
            self._drawn[missing] = True
        return self._cache[indices]

    def _draw(self, indices: Tensor) -> Tensor:
        out = torch.empty(len(indices), 1, self._side, self._side, dtype=torch.uint8)
        for part, target in zip(torch.split(indices, _CHUNK), torch.split(out, _CHUNK), strict=True):
            drawn = _draw(self._glyphs, self._side, self.seed, self._absolute(part))
            target.copy_(torch.from_numpy(drawn)[:, None])
        return out

    def _forget(self) -> None:
        self._cache: Tensor | None = None
        self._drawn: Tensor | None = None
        if self.length * self._side**2 <= _CACHE_BYTES:
            self._cache = torch.empty(self.length, 1, self._side, self._side, dtype=torch.uint8)
            self._drawn = torch.zeros(self.length, dtype=torch.bool)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None, "_drawn": None, "_glyphs": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._glyphs = _glyphs(self._side)
        self._forget()

    def __repr__(self) -> str:
        return f"RenderedDigits(seed={self.seed}, length={self.length:,}, image_size={self._side})"


@functools.lru_cache(maxsize=4)
def _glyphs(side: int) -> np.ndarray:
    """float32 [10, _STROKES, G, G] in [0, 255], G = 2 * side: each digit alone, centred, from thin to bold strokes."""
    work = side * _OVERSAMPLING
    scale = max(1, round(192 / work))
    canvas = work * scale
    height = 0.68 * canvas  # 19 of 28 pixels, close to the 20 of MNIST
    font = _font(round(height / 0.71))
    glyphs = np.zeros((10, _STROKES, work, work), np.float32)
    for digit in range(10):
        for stroke in range(_STROKES):
            image = Image.new("L", (canvas, canvas))
            # From a stroke pared down by 1/80 of the canvas to one thickened by 1/40 of it, on either side.
            radius = round(canvas * (stroke / (_STROKES - 1) * (1 / 80 + 1 / 40) - 1 / 80))
            text: dict[str, Any] = {"text": str(digit), "font": font, "anchor": "mm", "stroke_width": max(radius, 0)}
            draw = ImageDraw.Draw(image)
            left, top, right, bottom = draw.textbbox((0, 0), **text)
            draw.text(((canvas - left - right) / 2, (canvas - top - bottom) / 2), fill=255, **text)
            if radius < 0:
                image = image.filter(ImageFilter.MinFilter(1 - 2 * radius))
            # The slight blur rounds the corners and keeps the 2:1 sampling below from aliasing.
            image = image.filter(ImageFilter.GaussianBlur(0.9 * scale)).resize((work, work), Image.Resampling.BOX)
            glyphs[digit, stroke] = np.asarray(image)
    return glyphs


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size=size)
    # Without FreeType Pillow raises ImportError or OSError; before 10.1 load_default takes no size.
    except (ImportError, OSError, TypeError) as error:
        raise DataError(
            f"digits need a Pillow >= 10.1 with FreeType, this one has none ({error}): pip install --upgrade Pillow, "
            "or give other data"
        ) from None


def _draw(glyphs: np.ndarray, side: int, seed: int, indices: np.ndarray) -> np.ndarray:
    """uint8 [B, side, side]."""
    work = glyphs.shape[-1]
    uniform = uniforms(seed, indices, 14).astype(np.float32)
    digit = (uniforms(seed, indices, 1)[0] * 10).astype(np.int64)
    stroke = (uniform[1] * _STROKES).astype(np.int64)

    def between(k: int, low: float, high: float) -> np.ndarray:
        drawn: np.ndarray = low + (high - low) * uniform[k]
        return drawn[:, None]

    # Two draws averaged lie near the middle more often than at the ends.
    turn = (between(2, -0.3, 0.3) + between(3, -0.3, 0.3)) / 2
    shear = (between(4, -0.5, 0.4) + between(5, -0.5, 0.4)) / 2
    tall, wide = between(6, 0.88, 1.12), between(7, 0.78, 1.15)
    shift_x, shift_y = between(8, -0.05, 0.05), between(9, -0.05, 0.05)
    wave_x, wave_y = between(10, 0.0, 0.06), between(11, 0.0, 0.045)
    phase_x, phase_y = between(12, 0.0, 2 * np.pi), between(13, 0.0, 2 * np.pi)

    # Coordinates from -0.5 to 0.5 over the image; the map takes them to the same over the glyph.
    axis = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5)[None]
    column, row = axis - shift_x, axis - shift_y
    cos, sin = np.cos(turn), np.sin(turn)
    x = ((cos + shear * sin) / wide * column)[:, None, :] + ((shear * cos - sin) / wide * row)[:, :, None]
    y = (sin / tall * column)[:, None, :] + (cos / tall * row)[:, :, None]
    x += (wave_x * np.sin(5 * row + phase_x) - wave_x * np.sin(phase_x))[:, :, None]
    y += (wave_y * np.sin(5 * column + phase_y) - wave_y * np.sin(phase_y))[:, None, :]
    x = np.clip((x + 0.5) * work - 0.5, 0, work - 1.001)
    y = np.clip((y + 0.5) * work - 0.5, 0, work - 1.001)

    x0, y0 = x.astype(np.int32), y.astype(np.int32)
    x -= x0
    y -= y0
    corner = y0 * work + x0 + (((digit * _STROKES + stroke) * work * work)[:, None, None]).astype(np.int32)
    flat = glyphs.reshape(-1)
    top = flat[corner]
    top += (flat[corner + 1] - top) * x
    corner += work
    bottom = flat[corner]
    bottom += (flat[corner + 1] - bottom) * x
    top += (bottom - top) * y
    # The blur took the peak off thin strokes: MNIST's reach full white.
    grey: np.ndarray = np.clip(1.25 * top + 0.5, 0, 255).astype(np.uint8)
    return grey
