"""Pictures of a run as data URIs: decoded and encoded anew, so that the page holds pixels and nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TypeVar

from .._files import read_bytes

__all__ = ["embedded", "evenly", "moving"]

_MOST_BYTES = 2**26  # of a file
_MOST_MOVING = 3 * 2**20  # of interpolation.gif in the page
_LARGE = 400_000  # bytes of a PNG from which it becomes a JPEG
_SIDE = 1024  # pixels of a picture in the page, at most
_SMALL = 320  # pixels of a width up to which a picture is enlarged

_Item = TypeVar("_Item")


def embedded(path: Path, words: str) -> str:
    """An ``<img>``.

    Raises:
        OSError: the file cannot be read, or is no picture.
    """
    from PIL import Image

    content = io.BytesIO(read_bytes(path, _MOST_BYTES))
    try:
        with Image.open(content, formats=("PNG",)) as picture:
            picture.load()
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error
    picture.thumbnail((_SIDE, _SIDE))
    buffer, kind = io.BytesIO(), "png"
    picture.save(buffer, format="PNG")
    if buffer.tell() > _LARGE:
        buffer, kind = io.BytesIO(), "jpeg"
        picture.convert("RGB").save(buffer, format="JPEG", quality=88)
    return _image(kind, buffer.getvalue(), picture.size, words)


def moving(path: Path, words: str) -> str:
    """An ``<img>`` of a GIF as it is.

    Raises:
        OSError: the file cannot be read, is no GIF, or too large for the page.
    """
    from PIL import Image

    content = read_bytes(path, _MOST_MOVING)
    try:
        with Image.open(io.BytesIO(content), formats=("GIF",)) as picture:
            return _image("gif", content, picture.size, words)
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error


def evenly(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most ``most`` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _image(kind: str, content: bytes, size: tuple[int, int], words: str) -> str:
    width, height = size
    shape = f'width="{width}" height="{height}"' + (' class="small"' if width <= _SMALL else "")
    data = base64.b64encode(content).decode()
    return f'<img {shape} alt="{escape(words)}" src="data:image/{kind};base64,{data}">'
