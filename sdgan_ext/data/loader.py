"""Batches without end, in an order that (seed, step) determines."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from sdgan_ext._errors import DataError
from sdgan_ext.data._seeds import seeded
from sdgan_ext.data.augment import augment_images, check_kinds, draw_augmentation
from sdgan_ext.data.items import Items, name_of
from sdgan_ext.data.lazy import LazyImages
from sdgan_ext.data.part import Part
from sdgan_ext.data.protocols import MapDataset
from sdgan_ext.data.workers import Taken, in_processes, in_threads

__all__ = ["Batch", "batches", "orders"]

Batch = tuple[Tensor, Tensor]


def batches(
    dataset: MapDataset,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    drop_last: bool = True,
    rows: slice = slice(None),
    augment: Sequence[str] | None = None,
    random_crop: bool = False,
    workers: int = 0,
) -> Iterator[Batch]:
    """Endless (images, labels) from shuffled epochs.

    The order of epoch e is a permutation drawn from (seed, e) alone, so ``start=k`` goes on exactly as a run that
    has taken k batches would, without reading those again. Batch k has the same bits whatever ``start``, ``rows`` and
    ``workers`` are. So it has where a dataset of others transforms its items at random, by torch's, NumPy's or Python's
    global generator: these are seeded for each item by (seed, k, index), and left as they were. Generators of its own
    are out of this promise; so is, over ``rows``, what a ``__getitems__`` draws, which is seeded once a batch.

    Args:
        dataset: an ``ImageDataset``, ``LazyImages`` or ``RenderedDigits``, or any map-style torch Dataset whose items
            are an image or (image, label, ...), the image a tensor or array [C, H, W] of 1, 3 or 4 channels, floating
            point in [-1, 1] or uint8. A label that is not an integer (3.0 is one) counts as none.
        batch_size: images in a batch.
        seed: any integer.
        start: the number of the first batch.
        drop_last: leave out an epoch's last, smaller batch; a smaller one is given otherwise.
        rows: of every batch, what this process takes; nothing else is read.
        augment: names of :data:`~sdgan_ext.data.augment.AUGMENTATIONS`; each image in its own way, drawn from
            (seed, number of the batch).
        random_crop: parts from anywhere in the images, drawn in the same way, of a dataset that was opened with
            ``crop="random"``.
        workers: what reads ahead: threads for images in memory and rendered ones, else processes, in which a dataset
            must be picklable where Python starts them anew. 0: the batch is read when it is asked for.

    Returns:
        Iterator of (float32 [B, C, H, W] in [-1, 1], int64 [B]), on the CPU; labels are -1 where there are none.

    Raises:
        DataError: at once for a dataset that is iterable-style, smaller than a batch or of unfit items, and for an
            unknown augmentation; from the iterator for a later item that is out of range, NaN, of another size or
            cannot be read, and for a worker that was killed.
    """
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{name_of(dataset)} has no length or no indices, batches need a map-style dataset "
            "with __len__ and __getitem__, for its order is shuffled and resumed"
        )
    for name, value, least in (("batch_size", batch_size, 1), ("start", start, 0), ("workers", workers, 0)):
        if not isinstance(value, Integral) or value < least:
            raise DataError(f"{name} must be an integer of at least {least}, {value!r} came")
    count = len(dataset)
    if count == 0 or (drop_last and count < batch_size):
        fix = f", lower batch_size to at most {count:,}" if count else ""
        raise DataError(f"{name_of(dataset)} holds {count:,} images, fewer than one batch of {batch_size:,}{fix}")
    check_kinds(augment or ())
    wanted = orders(count, batch_size, seed, start, drop_last)
    if isinstance(dataset, Part):
        wanted = _mapped(wanted, dataset.indices)
        dataset = dataset.dataset
    if random_crop and not (isinstance(dataset, LazyImages) and dataset.frame.random):
        raise DataError(f"{name_of(dataset)} was not opened with crop='random', so there is nothing to crop at random")
    own = isinstance(dataset, Dataset) and callable(getattr(dataset, "batch", None))  # HuggingFace's is another
    read: Callable[[int, Tensor, Tensor | None], Taken]
    if isinstance(dataset, LazyImages):
        read, threads = functools.partial(_read_lazy, dataset), dataset.held
    elif own:
        read, threads = functools.partial(_read_own, dataset), True
    else:
        read, threads = functools.partial(_read_items, Items(dataset, seed)), False
    take = functools.partial(_take, read, seed, rows, tuple(augment or ()), random_crop)
    taken: Iterator[Taken]
    if not workers:
        taken = (take(*batch) for batch in wanted)
    else:
        taken = in_threads(take, wanted, workers) if threads else in_processes(take, wanted, workers, name_of(dataset))
    return _noted(taken, dataset)


def _noted(taken: Iterator[Taken], dataset: Any) -> Iterator[Batch]:
    """The batches, once this process, which is the one that counts, knows what was unreadable."""
    with contextlib.closing(taken):  # type: ignore[type-var]
        for images, labels, bad in taken:
            if bad:
                dataset.note(bad)
            yield images, labels


def orders(count: int, batch_size: int, seed: int, start: int, drop_last: bool) -> Iterator[tuple[int, Tensor]]:
    """The number of each batch and its indices."""
    per_epoch = count // batch_size if drop_last else -(-count // batch_size)
    for number in itertools.count(start):
        epoch, place = divmod(number, per_epoch)
        if place == 0 or number == start:
            order = torch.split(torch.randperm(count, generator=seeded(seed, epoch)), batch_size)
        yield number, order[place]


def _mapped(wanted: Iterator[tuple[int, Tensor]], chosen: Tensor) -> Iterator[tuple[int, Tensor]]:
    return ((number, chosen[indices]) for number, indices in wanted)


def _read_own(dataset: Any, number: int, indices: Tensor, places: Tensor | None) -> Taken:
    images, labels = dataset.batch(indices)
    return images, labels, {}


def _read_lazy(dataset: LazyImages, number: int, indices: Tensor, places: Tensor | None) -> Taken:
    return dataset.read(indices, places)


def _read_items(items: Items, number: int, indices: Tensor, places: Tensor | None) -> Taken:
    return *items.read(number, indices), {}


def _take(
    read: Callable[[int, Tensor, Tensor | None], Taken],
    seed: int,
    rows: slice,
    augment: Sequence[str],
    random_crop: bool,
    number: int,
    indices: Tensor,
) -> Taken:
    places = torch.rand(len(indices), 2, generator=seeded("crop", seed, number))[rows] if random_crop else None
    images, labels, bad = read(number, indices[rows], places)
    if augment:
        images = augment_images(images, draw_augmentation(len(indices), seed, number)[rows], augment)
    return images, labels, bad
