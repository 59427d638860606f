"""Datasets of others: any map-style one, item by item, each checked."""

from __future__ import annotations

import contextlib
import math
import operator
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from sdgan_ext._errors import DataError, printable
from sdgan_ext.data._seeds import hashed
from sdgan_ext.data.images import CHANNELS
from sdgan_ext.data.values import VALUE_RANGE, to_float

__all__ = ["Items", "name_of"]

_TOLERANCE = 1e-3  # what a chain of float16 normalisations may miss the range by
_SAMPLE = 8


class Items:
    """Reads batches. What items draw from torch's, NumPy's and Python's global generators follows from (seed, number of
    the batch, index): it does not depend on who reads them, and leaves those generators as they were.

    Args:
        dataset: map-style; see :func:`sdgan_ext.data.batches`.
        seed: of what items draw.

    Raises:
        DataError: one of a few items, spread over the dataset, is no image.
    """

    def __init__(self, dataset: Any, seed: int):
        self.dataset = dataset
        self.seed = seed
        self.name = name_of(dataset)
        with _generators_kept():
            self._check_sample()

    def read(self, number: int, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The batch ``number``: int64 [B] -> (float32 [B, C, H, W] in [-1, 1], int64 [B])."""
        wanted = indices.tolist()
        whole = getattr(self.dataset, "__getitems__", None)
        with _generators_kept():
            if whole:
                _seed_generators(self.seed, number, wanted[0])
                items = whole(wanted)
            else:
                items = []
                for index in wanted:
                    _seed_generators(self.seed, number, index)
                    items.append(self.dataset[index])
        images = _collate([_image(item) for item in items], wanted, self.name)
        return _checked(images, wanted, self.name), torch.tensor([_label(item) for item in items])

    def _check_sample(self) -> None:
        count = len(self.dataset)
        indices = sorted({count * k // _SAMPLE for k in range(_SAMPLE)})
        raw = [_image(self.dataset[index]) for index in indices]
        images = _checked(_collate(raw, indices, self.name), indices, self.name)
        as_floats = getattr(raw[0], "dtype", None) is not None and "uint8" not in str(raw[0].dtype)
        if as_floats and images.min() >= 0 and images.max() > 0:
            warnings.warn(
                f"{self.name}: no value of {len(indices)} sampled images is negative, images in [0, 1] look like that: "
                "map them to [-1, 1] with 2 * x - 1",
                stacklevel=4,
            )


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _seed_generators(*key: int) -> None:
    seed = hashed("item", *key)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds every device's as well
    np.random.seed(seed)
    random.seed(seed)


def _image(item: Any) -> Any:
    return item[0] if isinstance(item, (tuple, list)) and len(item) else item


def _label(item: Any) -> int:
    label: Any = item[1] if isinstance(item, (tuple, list)) and len(item) > 1 else None
    try:
        return operator.index(label)
    except (TypeError, ValueError):
        pass
    try:
        number = math.nan if isinstance(label, str) else float(label)
    except (TypeError, ValueError, RuntimeError):  # torch raises the last of several values
        number = math.nan
    return int(number) if number.is_integer() else -1


def _collate(images: list[Any], indices: list[int], name: str) -> Tensor:
    fit = "a tensor or array [C, H, W] of 1, 3 or 4 channels"
    for image, index in zip(images, indices, strict=True):
        shape = getattr(image, "shape", None)
        if shape is None or not hasattr(image, "dtype"):
            raise DataError(
                f"{name}: the image of item {index} is a {type(image).__name__}, {fit} is needed: "
                "convert it in the dataset's transform"
            )
        if len(shape) != 3 or shape[0] not in CHANNELS or 0 in shape:
            raise DataError(f"{name}: the image of item {index} has the shape {list(shape)}, {fit} is needed")
        if tuple(shape) != tuple(images[0].shape):
            raise DataError(
                f"{name}: item {index} has the shape {list(shape)} and item {indices[0]} {list(images[0].shape)}, "
                "all images must have one size"
            )
    stacked: Tensor = default_collate(images)
    return stacked


def _checked(images: Tensor, indices: list[int], name: str) -> Tensor:
    if images.dtype == torch.uint8:
        return to_float(images)
    dtype = str(images.dtype).removeprefix("torch.")
    if not images.is_floating_point():
        raise DataError(f"{name}: images are {dtype}, floating point in [-1, 1] or uint8 is needed")
    images = images.to(torch.float32)
    low, high = VALUE_RANGE[0] - _TOLERANCE, VALUE_RANGE[1] + _TOLERANCE
    inside = (images >= low) & (images <= high)  # false for NaN
    if not inside.all():
        bad = int((~inside).flatten(1).any(1).nonzero()[0])
        least, most = images[bad].min().item(), images[bad].max().item()
        came = "holds NaN" if images[bad].isnan().any() else f"has values from {least:g} to {most:g}"
        raise DataError(f"{name}: the image of item {indices[bad]} {came}, floats must lie in [-1, 1]")
    return images


def name_of(dataset: object) -> str:
    name = getattr(dataset, "name", None)
    return printable(name) if isinstance(name, str) else type(dataset).__name__
