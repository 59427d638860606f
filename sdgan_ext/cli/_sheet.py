"""The picture of ``sdgan-ext evaluate --sheet``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..data import to_float
from ..data.images import convert_channels
from ..evaluation.image_errors import psnr_of_each
from ..pictures import differences_grid, save_png

__all__ = ["TIMES", "save_sheet"]

TIMES = 4  # as large as they are, the differences are shown
_WIDTH, _MOST_COLUMNS = 2048, 8


def save_sheet(path: Path, images: Tensor, images_hat: Tensor) -> str:
    """Writes images over their reconstructions over the differences, and returns a line that says which they are.

    First come those with the lowest PSNR, then those about the median, then others, as many of each as fit in a row.

    Args:
        images, images_hat: uint8 [N, C, H, W].
    """
    psnr = psnr_of_each(images_hat, images)
    count = len(psnr)
    columns = min(count, _MOST_COLUMNS, max(2, _WIDTH // images.shape[3]))
    order = psnr.argsort().tolist()
    middle = max(columns, (count - columns) // 2)
    worst, median = order[:columns], order[middle : middle + columns]
    others = [i for i in range(count) if i not in {*worst, *median}][:columns]
    picked = worst + median + others
    channels = min(3, images.shape[1])
    shown, shown_hat = (to_float(convert_channels(kind[picked], channels)) for kind in (images, images_hat))
    save_png(path, differences_grid(shown, shown_hat, columns, times=TIMES))
    groups = ((worst, "with the lowest PSNR"), (median, "about the median"), (others, "others"))
    words = ", ".join(
        f"{len(rows)} {kind} ({psnr[rows].min():.1f} to {psnr[rows].max():.1f} dB)" for rows, kind in groups if rows
    )
    return f"images, reconstructions, differences times {TIMES}; {words}: {path}"
