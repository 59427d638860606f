"""Labelled or unlabelled images in memory, as bytes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor
from torch.utils.data import Dataset

from sdgan_ext._errors import DataError, printable
from sdgan_ext.data.captions import Captions, as_items, label_or_caption
from sdgan_ext.data.sources import check_memory
from sdgan_ext.data.values import to_float

__all__ = ["CHANNELS", "ImageDataset", "check_image_size", "convert_channels", "fit_images", "labelled"]
__all__ += ["OVER_WHITE", "read_colour", "resize_images"]

CHANNELS = (1, 3, 4)
"""Grey, RGB, RGBA."""

_MAX_LABEL = 2**31
_WHITE = (255, 255, 255)
OVER_WHITE = "alpha is put over white; --background (background=) decides otherwise"


class ImageDataset(Dataset[tuple[Tensor, int | str]]):
    """Images held as uint8 [N, C, H, W], handed out as float32 in [-1, 1].

    Args:
        images: tensor or array [N, C, H, W], or [N, H, W] for grey. uint8 is taken as it is. Floats need
            ``value_range``, are mapped from it to [0, 255] and rounded to bytes.
        labels: None, or integers [N] or [N, 1] with ``0 <= label < num_classes``, of an integer or floating dtype; or
            one-hot [N, K].
        num_classes: None takes the largest label + 1, or K.
        value_range: (low, high) that float ``images`` lie in; not guessed, for a dark picture in [-1, 1] and one in
            [0, 255] can look alike.
        name: what run folders and messages call this data; what is not printable is escaped.
        captions: a text for each class, or, without ``num_classes``, texts that ``labels`` are the numbers of; without
            labels one for each image.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N] or None.
        image_size: (H, W).
        channels: 1, 3 or 4.
        num_classes: int, or None without classes.
        name: str.
        captions: the texts, or None.

    Raises:
        DataError: anything else than the above, naming the first item that is wrong.
    """

    def __init__(
        self,
        images: Tensor | np.ndarray,
        labels: Tensor | np.ndarray | Sequence[int] | None = None,
        *,
        num_classes: int | None = None,
        value_range: tuple[float, float] | None = None,
        name: str = "images",
        captions: Captions | None = None,
    ):
        self.name = printable(name)
        self.images = _as_bytes(images, value_range, self.name)
        self.captions = captions
        self.labels: Tensor | None = None
        self.num_classes: int | None = None
        if labels is not None:
            limit = num_classes if captions is None else len(captions)
            self.labels, self.num_classes = _as_labels(labels, len(self.images), limit, self.name)
        if captions is not None:
            if num_classes not in (None, len(captions)) or (labels is None and len(captions) != len(self.images)):
                count = f"{len(self.images):,} images" if num_classes is None else f"{num_classes:,} classes"
                raise DataError(
                    f"{self.name}: {len(captions):,} captions came with {count}, there must be one for each"
                )
            self.num_classes = num_classes
            self.labels = torch.arange(len(self.images)) if self.labels is None else self.labels

    @property
    def image_size(self) -> tuple[int, int]:
        return self.images.shape[2], self.images.shape[3]

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int | str]:
        """(float32 [C, H, W] in [-1, 1], caption or label), the label -1 when there are none."""
        label = -1 if self.labels is None else int(self.labels[index])
        return to_float(self.images[index]), label_or_caption(label, self.captions)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int | str]]:
        """The items of ``indices`` in one go: what torch's DataLoader asks for when it can."""
        return as_items(*self.batch(torch.as_tensor(indices, dtype=torch.int64)), self.captions)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B] -> (float32 [B, C, H, W] in [-1, 1], int64 [B]), the labels -1 when there are none."""
        images = to_float(self.images[indices])
        return images, torch.full((len(indices),), -1) if self.labels is None else self.labels[indices]

    def fitted(
        self,
        image_size: int | Sequence[int] | None = None,
        channels: int | None = None,
        background: str | Sequence[int] | None = None,
    ) -> ImageDataset:
        """These images at another size and channel count (see :func:`fit_images`); itself when nothing changes.

        Warns:
            UserWarning: alpha is put over white, and ``background`` does not say so.
        """
        if self.channels == 4 and channels in (1, 3) and background is None:
            warnings.warn(f"{self.name}: {OVER_WHITE}", stacklevel=2)
        images = fit_images(self.images, image_size, channels, background)
        if images is self.images:
            return self
        return ImageDataset(images, self.labels, num_classes=self.num_classes, name=self.name, captions=self.captions)

    def __repr__(self) -> str:
        count, channels, height, width = self.images.shape
        classes = "no labels" if self.num_classes is None else f"{self.num_classes} classes"
        return f"ImageDataset({self.name!r}, {count:,} images {channels}x{height}x{width}, {classes})"


def labelled(dataset: ImageDataset, read: Callable[[], Tensor | np.ndarray | None], need_labels: bool) -> ImageDataset:
    """``dataset``, which has none, with the labels that ``read`` gives.

    Args:
        need_labels: False: labels that cannot be read or used are left out, with a warning that says why.

    Raises:
        DataError: they cannot, and are needed.
    """
    try:
        labels = read()
        return dataset if labels is None else ImageDataset(dataset.images, labels, name=dataset.name)
    except DataError as error:
        if need_labels:
            raise
        warnings.warn(f"{error}; the labels are left out, the model has no use for them", stacklevel=4)
        return dataset


def fit_images(
    images: Tensor,
    image_size: int | Sequence[int] | None = None,
    channels: int | None = None,
    background: str | Sequence[int] | None = None,
) -> Tensor:
    """Centre-crop to the aspect of ``image_size``, resize to it (bicubic, antialiased), convert to ``channels``.

    Args:
        images: uint8 [N, C, H, W].
        image_size: side, (height, width), or None to leave the size.
        channels: 1, 3, 4, or None to leave them; see :func:`convert_channels`.
        background: what alpha is put over where ``channels`` has none: a colour's name, "#rrggbb" or (red, green,
            blue); None is white.

    Returns:
        uint8 [N, channels, height, width]; ``images`` itself when nothing changes.
    """
    colour = read_colour(background)
    if images.shape[1] == 4:  # before the resizing: the colour of what is transparent must not reach what is not
        images = convert_channels(images, channels, colour)
    if image_size is not None:
        height, width = check_image_size(image_size)
        if (height, width) != tuple(images.shape[2:]):
            check_memory(f"{len(images):,} images of {width}x{height}", images.shape[:2].numel() * height * width)
            images = resize_images(_centre_crop(images, height / width), height, width)
    return convert_channels(images, channels, colour)


def convert_channels(images: Tensor, channels: int | None, background: tuple[int, int, int] = _WHITE) -> Tensor:
    """uint8 [..., C, H, W] from C to ``channels``: grey by ITU-R 601 luma, alpha put over ``background`` or added
    opaque."""
    have = images.shape[-3]
    if channels is None or channels == have:
        return images
    if channels not in CHANNELS:
        raise DataError(f"channels must be 1 (grey), 3 (RGB) or 4 (RGBA), {channels!r} came")
    if have == 4:
        wide = images.to(torch.int32)
        alpha = wide[..., 3:, :, :]
        under = torch.tensor(background, dtype=torch.int32)[:, None, None]
        over = (wide[..., :3, :, :] * alpha + under * (255 - alpha) + 127) // 255
        return convert_channels(over.to(torch.uint8), channels)
    if channels == 1:
        red, green, blue = torch.split(images.to(torch.int32), 1, dim=-3)
        luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
        return luma.to(torch.uint8)
    colour = images.expand(*images.shape[:-3], 3, *images.shape[-2:])
    if channels == 4:
        return torch.cat([colour, torch.full_like(colour[..., :1, :, :], 255)], dim=-3)
    return colour.contiguous()


def read_colour(background: str | Sequence[int] | None) -> tuple[int, int, int]:
    """(red, green, blue) of a colour's name, "#rrggbb" or such a triple; None is white.

    Raises:
        DataError: it is none of them.
    """
    if background is None:
        return _WHITE
    try:
        values = ImageColor.getrgb(background) if isinstance(background, str) else tuple(background)
        red, green, blue = (int(value) for value in values)
    except (TypeError, ValueError):
        red = green = blue = -1
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise DataError(f"background must be a colour such as white, '#ff8800' or (255, 136, 0), {background!r} came")
    return red, green, blue


def check_image_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    """A side or (height, width) as (height, width), or a DataError."""
    pair: Any = (image_size, image_size) if isinstance(image_size, Integral) else image_size
    try:
        height, width = (int(side) for side in pair)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise DataError(f"image_size must be a positive side or (height, width), {image_size!r} came")
    return height, width


def _centre_crop(images: Tensor, aspect: float) -> Tensor:
    height, width = images.shape[2:]
    new_height, new_width = min(height, round(width * aspect)), min(width, round(height / aspect))
    new_height, new_width = max(new_height, 1), max(new_width, 1)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return images[:, :, top : top + new_height, left : left + new_width]


def resize_images(images: Tensor, height: int, width: int) -> Tensor:
    """uint8 [N, C, H, W] -> [N, C, height, width], bicubic and antialiased."""
    resized = images.new_empty(*images.shape[:2], height, width)
    for part, target in zip(torch.split(images, 1024), torch.split(resized, 1024), strict=True):
        resize = torch.nn.functional.interpolate
        target.copy_(resize(part.contiguous(), (height, width), mode="bicubic", antialias=True))
    return resized


def _as_bytes(images: Tensor | np.ndarray, value_range: tuple[float, float] | None, name: str) -> Tensor:
    if not isinstance(images, (Tensor, np.ndarray)):
        raise DataError(f"{name}: images must be a tensor or array [N, C, H, W], {type(images).__name__} came")
    shape = tuple(images.shape)
    if len(shape) not in (3, 4):
        raise DataError(f"{name}: images must have the shape [N, C, H, W] or [N, H, W], {list(shape)} came")
    dtype = str(images.dtype).removeprefix("torch.")
    floating = images.is_floating_point() if isinstance(images, Tensor) else images.dtype.kind == "f"
    if dtype != "uint8" and not floating:
        raise DataError(f"{name}: images must be uint8 in [0, 255], or floating point with a value_range, {dtype} came")
    if 0 in shape:
        raise DataError(f"{name}: images has the shape {list(shape)}, at least one image and one pixel must be there")
    images = images[:, None] if len(shape) == 3 else images
    if images.shape[1] not in CHANNELS:
        fix = ", move the channels to the second place" if shape[-1] in CHANNELS else ""
        raise DataError(
            f"{name}: images must have 1, 3 or 4 channels in the shape [N, C, H, W], {list(shape)} came{fix}"
        )
    if floating:
        return _quantise(images, value_range, name)
    if value_range is not None and tuple(value_range) != (0, 255):
        raise DataError(f"{name}: uint8 images have the range (0, 255), value_range={value_range} came: leave it out")
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    return images.detach().cpu().contiguous()


def _quantise(images: Tensor | np.ndarray, value_range: tuple[float, float] | None, name: str) -> Tensor:
    if value_range is None:
        raise DataError(
            f"{name}: {str(images.dtype).removeprefix('torch.')} images need value_range=(low, high), such as (0, 1) "
            "or (-1, 1), for it is not guessed"
        )
    low, high = (float(bound) for bound in value_range)
    if not low < high:
        raise DataError(f"{name}: value_range must be (low, high) with low < high, {value_range} came")
    out = torch.empty(tuple(images.shape), dtype=torch.uint8)
    for start in range(0, len(images), 256):
        part = images[start : start + 256]
        part = part.detach().cpu() if isinstance(part, Tensor) else torch.from_numpy(part.astype(np.float64))
        part = part.double()
        index = _first(~torch.isfinite(part))
        if index is not None:
            raise DataError(f"{name}: image {start + index} holds NaN or infinity, every pixel must be finite")
        index = _first((part < low) | (part > high))
        if index is not None:
            least, most = part[index].min().item(), part[index].max().item()
            raise DataError(
                f"{name}: image {start + index} has values from {least:g} to {most:g}, "
                f"value_range allows {low:g} to {high:g}"
            )
        out[start : start + 256] = ((part - low) * (255.0 / (high - low))).round_()
    return out


def _first(bad: Tensor) -> int | None:
    """The first index of the leading dimension where anything is bad."""
    rows = bad.flatten(1).any(dim=1)
    return int(rows.nonzero()[0]) if rows.any() else None


def _as_labels(
    labels: Tensor | np.ndarray | Sequence[int], count: int, num_classes: int | None, name: str
) -> tuple[Tensor, int]:
    """int64 [N], and the number of classes."""
    try:
        array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    except ValueError:
        raise DataError(f"{name}: labels must be one integer per image, a ragged list came") from None
    if array.ndim not in (1, 2):
        raise DataError(f"{name}: labels must have the shape [N], [N, 1] or, one-hot, [N, K], {list(array.shape)} came")
    if len(array) != count:
        raise DataError(f"{name}: {len(array):,} labels came with {count:,} images, there must be one label per image")
    if num_classes is not None and num_classes < 1:
        raise DataError(f"{name}: num_classes must be at least 1, {num_classes} came")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        array, num_classes = _from_one_hot(array, name), num_classes or array.shape[1]
    elif array.dtype.kind == "f":
        wrong = np.flatnonzero(array != np.rint(array))  # NaN too
        if len(wrong):
            first = wrong[0]
            raise DataError(f"{name}: label {array[first]} of image {first} is no integer, labels must be integers")
    elif array.dtype.kind not in "iu":
        raise DataError(f"{name}: labels must be integers, {array.dtype} came")
    limit = _MAX_LABEL if num_classes is None else int(num_classes)
    wrong = np.flatnonzero((array < 0) | (array >= limit))
    if len(wrong):
        first = wrong[0]
        raise DataError(f"{name}: label {array[first]} of image {first} is out of range, 0 to {limit - 1} is allowed")
    numbers = torch.from_numpy(array.astype(np.int64))
    return numbers, int(numbers.max()) + 1 if num_classes is None else limit


def _from_one_hot(array: np.ndarray, name: str) -> np.ndarray:
    """int64 [N] of [N, K], each row a single 1 among zeros."""
    one_hot = array.shape[1] > 0 and array.dtype.kind in "iufb"
    wrong = np.flatnonzero((array != 0).sum(1) != 1) if one_hot else [0]
    if len(wrong) == 0:
        wrong = np.flatnonzero(array.max(1) != 1)
    if len(wrong):
        raise DataError(
            f"{name}: labels of the shape {list(array.shape)} must be one-hot, a single 1 among zeros for each image, "
            f"which image {wrong[0]} has not"
        )
    return array.argmax(1)
