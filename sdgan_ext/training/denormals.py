"""Numbers too small to be worth their time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["flushed_denormals"]


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Within the context, numbers below 1e-38 count as 0 on the CPU, where arithmetic on them takes many times as long.

    The gradients of a decoder that has learnt its background are full of them. A thread inherits the setting from the
    one that starts it, so the context must begin before torch's first parallel operation.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
