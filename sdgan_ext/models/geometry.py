"""Sizes and margins that let stride-2 layers meet any image size exactly.

A down block halves a side and rounds up: 28 -> 14 -> 7 -> 4. The convolution from ``large`` to
``small = ceil(large / 2)`` pads, and the transposed convolution back crops, ``(small - 1) * 2 + kernel - large`` in
all, the smaller half first.
This is Keras's "same": (1, 2) for a kernel of 5 on an even side, (1, 1) for a kernel of 4.
"""

from __future__ import annotations

__all__ = ["level_sizes", "margins", "same_margins"]


def level_sizes(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """(height, width) of the image, and after each of ``levels`` down blocks."""
    sizes = [size]
    for _ in range(levels):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def margins(large: tuple[int, int], small: tuple[int, int], kernel: int) -> tuple[int, int, int, int]:
    """(top, bottom, left, right): what a stride-2 convolution pads and its transpose crops, between two levels."""
    rows, columns = (_split((few - 1) * 2 + kernel - many) for many, few in zip(large, small, strict=True))
    return *rows, *columns


def same_margins(kernel: int) -> tuple[int, int, int, int]:
    """(top, bottom, left, right): the pads with which a stride-1 convolution keeps the size."""
    return *_split(kernel - 1), *_split(kernel - 1)


def _split(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2
