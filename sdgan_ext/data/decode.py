"""One image file as bytes."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sdgan_ext._errors import DataError, printable

__all__ = ["Decoded", "read_image"]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_SCALE = 65535 / 255
_WIDE = re.compile(";16[BLN]")  # of Pillow's raw modes; without a letter the 16 bits are those of a pixel

# What Pillow logs of a damaged file would stand on stderr beside our sentence, where nobody set up logging.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class Decoded(NamedTuple):
    """An image, and what of its file is not in it.

    Attributes:
        image: uint8 [C, H, W], C from the file.
        sixteen_bits: it had 16 bits a channel.
        frames: it had others after this one.
    """

    image: Tensor
    sixteen_bits: bool
    frames: bool


def read_image(file: Path) -> Decoded:
    """The first frame, upright by its EXIF orientation; 16 bits are scaled by 1/257.

    Raises:
        DataError: it cannot be read, has more pixels than Pillow's ``MAX_IMAGE_PIXELS``, or values that are neither 8
            nor 16 bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                # The modes of more than 8 bits; Pillow itself takes the high byte of each channel of a colour image.
                sixteen_bits = opened.mode[0] == "I" or any(_WIDE.search(str(tile[3])) for tile in opened.tile)
                frames = opened.format != "MPO" and getattr(opened, "is_animated", False)  # MPO: a preview follows
                return Decoded(_pixels(ImageOps.exif_transpose(opened), file), sixteen_bits, frames)
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(
            f"{printable(file)} has more pixels than Pillow's limit, {Image.MAX_IMAGE_PIXELS:,} "
            "(PIL.Image.MAX_IMAGE_PIXELS): make it smaller, or leave it out"
        ) from None
    except MemoryError:
        raise DataError(
            f"{printable(file)} takes more memory than there is: make it smaller, or leave it out"
        ) from None
    except UnidentifiedImageError:
        raise DataError(
            f"cannot read the image {printable(file)}: it is damaged or of a format Pillow does not know"
        ) from None
    # Pillow's decoders raise almost anything on a damaged file: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(f"cannot read the image {printable(file)}: {printable(reason)}") from None


def _pixels(image: Image.Image, file: Path) -> Tensor:
    if image.mode == "F":
        raise DataError(f"{printable(file)} has floating-point values (Pillow mode F), save it with 8 or 16 bits")
    if image.mode[0] == "I":
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise DataError(f"{printable(file)} has values from {low:,} to {high:,}, save it with 8 or 16 bits")
        return torch.from_numpy(np.rint(values / _SCALE).astype(np.uint8))[None]
    array = np.array(image.convert(_MODES[_natural_channels(image)]))
    return torch.from_numpy(np.ascontiguousarray(array.reshape(*array.shape[:2], -1).transpose(2, 0, 1)))


def _natural_channels(image: Image.Image) -> int:
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return 1
    return 4 if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info else 3
