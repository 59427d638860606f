"""One image file as bytes, or what its header says."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from sdgan_ext._errors import DataError, printable

__all__ = ["Decoded", "Header", "read_header", "read_image"]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_SCALE = 65535 / 255
_WIDE = re.compile(";16[BLN]")  # of Pillow's raw modes; without a letter the 16 bits are those of a pixel

# What Pillow logs of a damaged file would stand on stderr beside our sentence, where nobody set up logging.
logging.getLogger("PIL").addHandler(logging.NullHandler())


_ORIENTATION = 0x0112  # of EXIF; from 5 on an image lies on its side


class Header(NamedTuple):
    """What a file says of its image.

    Attributes:
        channels: 1, 3 or 4.
        height, width: of the upright image.
        sixteen_bits: it has 16 bits a channel.
        frames: it has others after this one.
    """

    channels: int
    height: int
    width: int
    sixteen_bits: bool
    frames: bool


class Decoded(NamedTuple):
    """An image, uint8 [C, H, W], C from the file; and what of its file is not in it."""

    image: Tensor
    header: Header


def read_image(file: BinaryIO, name: str) -> Decoded:
    """The first frame, upright by its EXIF orientation; 16 bits are scaled by 1/257.

    Args:
        file: at its beginning; it can be searched.
        name: what to call it, printable.

    Raises:
        DataError: it cannot be read, has more pixels than Pillow's ``MAX_IMAGE_PIXELS``, or values that are neither 8
            nor 16 bits.
    """
    with _opened(file, name) as opened:
        facts = _facts(opened)  # first: what a file is written in is gone once it is decoded
        image = _pixels(ImageOps.exif_transpose(opened), name)
        channels, height, width = image.shape
        return Decoded(image, Header(channels, height, width, *facts))


def read_header(file: BinaryIO, name: str) -> Header:
    """The same without decoding, and without what stands after the pixels: of a PNG, the EXIF data that few have there.

    Raises:
        DataError: it cannot be read, or Pillow's limit, as above.
    """
    with _opened(file, name) as opened:
        _check_mode(opened, name)
        width, height = opened.size
        if opened.format != "PNG" or "exif" in opened.info:
            orientation = opened.getexif().get(_ORIENTATION, 1)
            if isinstance(orientation, int) and 5 <= orientation <= 8:
                width, height = height, width
        return Header(_natural_channels(opened), height, width, *_facts(opened))


def _facts(opened: ImageFile.ImageFile) -> tuple[bool, bool]:
    """Whether there are 16 bits a channel, and several frames."""
    # The modes of more than 8 bits; Pillow itself takes the high byte of each channel of a colour image.
    sixteen_bits = opened.mode[0] == "I" or any(_WIDE.search(str(tile[3])) for tile in opened.tile)
    frames = opened.format != "MPO" and getattr(opened, "is_animated", False)  # MPO: a preview follows
    return sixteen_bits, bool(frames)


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[ImageFile.ImageFile]:
    """The image in ``file``; whatever is raised meanwhile is a DataError that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                yield opened
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(
            f"{name} has more pixels than Pillow's limit, {Image.MAX_IMAGE_PIXELS:,} "
            "(PIL.Image.MAX_IMAGE_PIXELS): make it smaller, or leave it out"
        ) from None
    except MemoryError:
        raise DataError(f"{name} takes more memory than there is: make it smaller, or leave it out") from None
    except UnidentifiedImageError:
        raise DataError(f"cannot read the image {name}: it is damaged or of a format Pillow does not know") from None
    # Pillow's decoders raise almost anything on a damaged file: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(f"cannot read the image {name}: {printable(reason)}") from None


def _check_mode(image: Image.Image, name: str) -> None:
    if image.mode == "F":
        raise DataError(f"{name} has floating-point values (Pillow mode F), save it with 8 or 16 bits")


def _pixels(image: Image.Image, name: str) -> Tensor:
    _check_mode(image, name)
    if image.mode[0] == "I":
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise DataError(f"{name} has values from {low:,} to {high:,}, save it with 8 or 16 bits")
        return torch.from_numpy(np.rint(values / _SCALE).astype(np.uint8))[None]
    array = np.array(image.convert(_MODES[_natural_channels(image)]))
    return torch.from_numpy(np.ascontiguousarray(array.reshape(*array.shape[:2], -1).transpose(2, 0, 1)))


def _natural_channels(image: Image.Image) -> int:
    if image.mode[0] == "I":
        return 1
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return 1
    return 4 if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info else 3
