"""What this package takes for a dataset."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["MapDataset"]


class MapDataset(Protocol):
    """Map-style: it has a length and takes an index. :func:`sdgan_ext.data.batches` says what an item must be."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...
