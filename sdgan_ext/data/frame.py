"""From a decoded image to the one that a model takes: its channels, its scale, the part of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from sdgan_ext._errors import DataError
from sdgan_ext.data.images import (
    CHANNELS,
    check_image_size,
    convert_channels,
    fit_images,
    pad_images,
    read_colour,
    resize_images,
)

__all__ = ["CROPS", "Frame", "make_frame"]

CROPS = ("centre", "random")


class Frame(NamedTuple):
    """How images are brought to one size; see :func:`make_frame`.

    Attributes:
        size: (height, width) of the part that is taken; None: the images have one size and keep it.
        resize: what the shorter side is resized to before that; 0: it stays; None: as far as ``size`` needs.
        random: the part lies anywhere, by :meth:`crop`'s ``place``.
        channels: 1, 3, 4, or None to leave them.
        colour: what alpha is put over.
        pad: by how many pixels the part is then widened on each side, its edge repeated.
    """

    size: tuple[int, int] | None
    resize: int | None
    random: bool
    channels: int | None
    colour: tuple[int, int, int]
    pad: int = 0

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Of a part of ``height`` and ``width``."""
        return height + 2 * self.pad, width + 2 * self.pad

    def apply(self, image: Tensor, name: str) -> Tensor:
        """uint8 [C, H, W] -> [channels, *size], the middle of it."""
        return self.crop(self.scale(image, name))

    def scale(self, image: Tensor, name: str) -> Tensor:
        """Everything but the crop.

        Raises:
            DataError: the image ``name`` is smaller than ``size`` and is not resized.
        """
        if self.size is None or (self.resize is None and not self.random):
            return fit_images(image[None], self.size, self.channels, self.colour)[0]
        if image.shape[0] == 4:  # before the resizing: the colour of what is transparent must not reach what is not
            image = convert_channels(image, self.channels, self.colour)
        height, width = self.scaled_size(*image.shape[1:])
        self.check_size(height, width, name)
        if (height, width) != tuple(image.shape[1:]):
            image = resize_images(image[None], height, width)[0]
        return convert_channels(image, self.channels, self.colour)

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Of an image of ``height`` and ``width``, before the crop."""
        if self.size is None or self.resize == 0:
            return height, width
        if self.resize is None:
            scale = max(self.size[0] / height, self.size[1] / width)
            return max(self.size[0], round(height * scale)), max(self.size[1], round(width * scale))
        scale = self.resize / min(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def check_size(self, height: int, width: int, name: str) -> None:
        if self.size is not None and (height < self.size[0] or width < self.size[1]):
            wanted = f"{self.size[1]}x{self.size[0]}"
            raise DataError(
                f"{name} has {width}x{height} pixels, fewer than the {wanted} that are cut out: --resize (resize=) "
                "enlarges the shorter side"
            )

    def crop(self, image: Tensor, place: Sequence[float] | None = None) -> Tensor:
        """The part of ``size`` of a scaled image, padded.

        Args:
            place: in [0, 1), of its top and its left among those that there are; None: the middle.
        """
        if self.size is None or self.size == tuple(image.shape[1:]):
            return pad_images(image, self.pad)
        (height, width), (rows, columns) = self.size, image.shape[1:]
        more = (rows - height, columns - width)
        if place is None:
            top, left = (spare // 2 for spare in more)
        else:
            top, left = (int(u * (spare + 1)) for u, spare in zip(place, more, strict=True))
        return pad_images(image[:, top : top + height, left : left + width], self.pad)


def make_frame(
    image_size: int | Sequence[int] | None = None,
    channels: int | None = None,
    background: str | Sequence[int] | None = None,
    resize: int | None = None,
    crop: str = "centre",
    pad: int = 0,
) -> Frame:
    """
    Raises:
        DataError: one of them cannot be, or there is no ``image_size`` to crop to, or it is larger than ``resize``.
    """
    if not isinstance(pad, int) or pad < 0:
        raise DataError(f"pad must be an integer of at least 0, {pad!r} came")
    if channels not in (None, *CHANNELS):
        raise DataError(f"channels must be 1 (grey), 3 (RGB) or 4 (RGBA), {channels!r} came")
    if crop not in CROPS:
        raise DataError(f"crop must be {' or '.join(map(repr, CROPS))}, {crop!r} came")
    size = None if image_size is None else check_image_size(image_size)
    if size is not None and pad:
        if min(size) <= 2 * pad:
            raise DataError(
                f"pad is {pad} on each side, but image_size {size[0]}x{size[1]} leaves nothing inside of it"
            )
        size = size[0] - 2 * pad, size[1] - 2 * pad
    for name, value, given in (("resize", resize, resize is not None), ("crop", crop, crop != "centre")):
        if given and size is None:
            raise DataError(f"{name} is {value!r}, but no image_size says how large the part is that is cut out")
    if resize is not None and (not isinstance(resize, int) or resize < 0 or (size and 0 < resize < min(size))):
        least = f"at least {min(size)}, the shorter side of image_size" if size else "at least 0"
        raise DataError(f"resize must be 0, which resizes nothing, or {least}, {resize!r} came")
    return Frame(size, resize, crop == "random", channels, read_colour(background), pad)
