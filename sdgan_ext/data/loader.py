"""Batches without end, in an order that (seed, step) determines."""

from __future__ import annotations

import hashlib
import itertools
import operator
import warnings
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from sdgan_ext._errors import DataError
from sdgan_ext.data.images import CHANNELS
from sdgan_ext.data.values import VALUE_RANGE, to_float

__all__ = ["batches"]

_Fetch = Callable[[Tensor], tuple[Tensor, Tensor]]  # int64 [B] indices -> images, labels
_TOLERANCE = 1e-3  # what a chain of float16 normalisations may miss the range by
_SAMPLE = 8


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    drop_last: bool = True,
    rows: slice = slice(None),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (images, labels) from shuffled epochs.

    The order of epoch e is a permutation drawn from (seed, e) alone, so ``start=k`` goes on exactly as a run that
    has taken k batches would, without reading those again.

    Args:
        dataset: an ``ImageDataset`` or ``RenderedDigits``, or any map-style torch Dataset whose items are an image or
            (image, label, ...), the image a tensor or array [C, H, W] of 1, 3 or 4 channels, floating point in
            [-1, 1] or uint8. A label that is not an integer counts as none.
        batch_size: images in a batch.
        seed: any integer.
        start: the number of the first batch.
        drop_last: leave out an epoch's last, smaller batch; a smaller one is given otherwise.
        rows: of every batch, what this process takes; nothing else is read.

    Returns:
        Iterator of (float32 [B, C, H, W] in [-1, 1], int64 [B]), on the CPU; labels are -1 where there are none.

    Raises:
        DataError: at once for a dataset that is iterable-style, smaller than a batch or of unfit items; from the
            iterator for a later item that is out of range, NaN or of another size.
    """
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{_name(dataset)} has no length or no indices, batches need a map-style dataset "
            "with __len__ and __getitem__, for its order is shuffled and resumed"
        )
    for name, value, least in (("batch_size", batch_size, 1), ("start", start, 0)):
        if not isinstance(value, Integral) or value < least:
            raise DataError(f"{name} must be an integer of at least {least}, {value!r} came")
    count = len(dataset)
    if count == 0 or (drop_last and count < batch_size):
        fix = f", lower batch_size to at most {count:,}" if count else ""
        raise DataError(f"{_name(dataset)} holds {count:,} images, fewer than one batch of {batch_size:,}{fix}")
    return _iterate(_fetcher(dataset), count, batch_size, seed, start, drop_last, rows)


def _iterate(
    fetch: _Fetch, count: int, batch_size: int, seed: int, start: int, drop_last: bool, rows: slice
) -> Iterator[tuple[Tensor, Tensor]]:
    per_epoch = count // batch_size if drop_last else -(-count // batch_size)
    first_epoch, skip = divmod(start, per_epoch)
    for epoch in itertools.count(first_epoch):
        order = _permutation(count, seed, epoch)
        for indices in order.split(batch_size)[skip:per_epoch]:
            yield fetch(indices[rows])
        skip = 0


def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    # Hashed: torch's CPU generator keeps 32 bits of its seed, and seed + epoch would repeat another seed's epochs.
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    return torch.randperm(count, generator=torch.Generator().manual_seed(int.from_bytes(digest[:4], "little")))


def _fetcher(dataset: Dataset) -> _Fetch:
    # HuggingFace's datasets have a `batch` of another meaning, and are no torch Datasets.
    if isinstance(dataset, Dataset) and callable(getattr(dataset, "batch", None)):
        return dataset.batch
    name = _name(dataset)
    _check_sample(dataset, name)

    def fetch(indices: Tensor) -> tuple[Tensor, Tensor]:
        wanted = indices.tolist()
        whole = getattr(dataset, "__getitems__", None)
        items = whole(wanted) if whole else [dataset[index] for index in wanted]
        images = _collate([_image(item) for item in items], wanted, name)
        return _checked(images, wanted, name), torch.tensor([_label(item) for item in items])

    return fetch


def _check_sample(dataset: Dataset, name: str) -> None:
    """Looks at a few items spread over the dataset before the first step."""
    count = len(dataset)
    indices = sorted({count * k // _SAMPLE for k in range(_SAMPLE)})
    raw = [_image(dataset[index]) for index in indices]
    images = _checked(_collate(raw, indices, name), indices, name)
    as_floats = getattr(raw[0], "dtype", None) is not None and "uint8" not in str(raw[0].dtype)
    if as_floats and images.min() >= 0 and images.max() > 0:
        warnings.warn(
            f"{name}: no value of {len(indices)} sampled images is negative, images in [0, 1] look like that: "
            "map them to [-1, 1] with 2 * x - 1",
            stacklevel=4,
        )


def _image(item: Any) -> Any:
    return item[0] if isinstance(item, (tuple, list)) and len(item) else item


def _label(item: Any) -> int:
    label = item[1] if isinstance(item, (tuple, list)) and len(item) > 1 else None
    try:
        return operator.index(label)
    except (TypeError, ValueError):
        return -1


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
    return default_collate(images)


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


def _name(dataset: object) -> str:
    name = getattr(dataset, "name", None)
    return name if isinstance(name, str) else type(dataset).__name__
