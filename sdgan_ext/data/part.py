"""A part of a dataset, and the split of one in two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sdgan_ext._errors import DataError
from sdgan_ext.data._seeds import seeded
from sdgan_ext.data.captions import Captions
from sdgan_ext.data.items import name_of
from sdgan_ext.data.lazy import LazyImages
from sdgan_ext.data.protocols import MapDataset

__all__ = ["Part", "hold_out", "lazy_images"]


class Part(Dataset[Any]):
    """Some images of a dataset, under its name. ``batches`` reads them as it reads the dataset.

    Args:
        dataset: map-style.
        indices: int64 [N] into it.

    Attributes:
        image_size, channels, num_classes, captions: the dataset's, where it has them.
    """

    dataset: MapDataset
    indices: Tensor
    image_size: tuple[int, int]
    channels: int
    num_classes: int | None
    captions: Captions | None

    def __init__(self, dataset: MapDataset, indices: Tensor):
        if isinstance(dataset, Part):
            indices = dataset.indices[indices]
            dataset = dataset.dataset
        self.dataset = dataset
        self.indices = indices
        self.name = name_of(dataset)
        for name in ("image_size", "channels", "num_classes", "captions"):
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]


def hold_out(dataset: MapDataset, count: int) -> tuple[Part, Part]:
    """``dataset`` without ``count`` of its images, and these.

    Which they are follows from the number of images alone: no seed of a training changes it, and of two counts the
    smaller's are among the larger's. The rest keeps its order.

    Raises:
        DataError: ``count`` is not from 1 to one less than there are.
    """
    if not 0 < count < len(dataset):
        raise DataError(
            f"{count:,} images cannot be held out of the {len(dataset):,} of {name_of(dataset)}: at least one must be, "
            "and one left"
        )
    order = torch.randperm(len(dataset), generator=seeded("held out"))
    return Part(dataset, order[count:].sort().values), Part(dataset, order[:count])


def lazy_images(dataset: object) -> LazyImages | None:
    """``dataset``, or what it is a part of, if its images are decoded as they are asked for."""
    whole = dataset.dataset if isinstance(dataset, Part) else dataset
    return whole if isinstance(whole, LazyImages) and not whole.held else None
