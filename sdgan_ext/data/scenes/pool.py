"""The images of digits that scenes are made of, by split: no image of one is in another's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sdgan_ext._errors import DataError
from sdgan_ext.data.digits import RenderedDigits
from sdgan_ext.data.idx import load_idx_folder
from sdgan_ext.data.images import ImageDataset
from sdgan_ext.data.values import to_uint8

__all__ = ["SPLITS", "DigitPool"]

SPLITS = ("train", "judge", "test", "unseen")
_SIDE = 28
_RENDERED = 20_000  # in the pool of a split
_FIRST = {"train": 0, "judge": 2**41, "test": 2**40, "unseen": 2**40}  # of the endless sequence


class DigitPool:
    """Images of digits, to be asked for by the digit.

    Args:
        folder: of MNIST's IDX files, or of others of their kind; None: rendered digits.
        split: "train": of the folder's training images every other one; "judge": those between; "test", "unseen": its
            test images. Rendered ones are of other stretches of their endless sequence.
        seed: of rendered digits.

    Raises:
        DataError: the folder holds no images of ten digits, 28x28.
    """

    def __init__(self, folder: str | Path | None, split: str, seed: int):
        self._images: ImageDataset | RenderedDigits
        if folder is None:
            self._images = RenderedDigits(seed, _RENDERED, _SIDE, first_index=_FIRST[split])
            labels = self._images.labels_of(torch.arange(_RENDERED))
            taken = slice(None)
        else:
            self._images = load_idx_folder(folder, "train" if split in ("train", "judge") else "test")
            if self._images.num_classes != 10 or self._images.image_size != (_SIDE, _SIDE):
                height, width = self._images.image_size
                raise DataError(
                    f"digits-scenes: digits is {self._images.name}, with {self._images.num_classes} classes of "
                    f"{width}x{height} pixels; MNIST's are needed, ten of 28x28"
                )
            assert self._images.labels is not None
            labels = self._images.labels
            taken = {"train": slice(0, None, 2), "judge": slice(1, None, 2)}.get(split, slice(None))
        numbers = np.arange(len(labels))[taken]
        self._by_digit = [numbers[labels.numpy()[taken] == digit] for digit in range(10)]
        if not all(map(len, self._by_digit)):
            missing = next(digit for digit in range(10) if not len(self._by_digit[digit]))
            raise DataError(f"digits-scenes: {self._images.name} has no image of a {missing} for the split {split!r}")

    def numbers(self, digits: np.ndarray, places: np.ndarray) -> np.ndarray:
        """int64 [M], which image is taken of each of ``digits``.

        Args:
            digits: int64 [M].
            places: float64 [M] in [0, 1), where among the images of that digit.
        """
        pairs = zip(digits, places, strict=True)
        return np.array([self._by_digit[digit][int(u * len(self._by_digit[digit]))] for digit, u in pairs], np.int64)

    def images(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [M] -> uint8 [M, 28, 28]."""
        images, _ = self._images.batch(torch.from_numpy(numbers))
        drawn: np.ndarray = to_uint8(images)[:, 0].numpy()
        return drawn
