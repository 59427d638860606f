"""Data that have a name and no files of the user's: ``NAME`` or ``NAME:KEY=VALUE,KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sdgan_ext._errors import DataError, nearest, shown
from sdgan_ext.data.captions import class_captions
from sdgan_ext.data.digits import RenderedDigits
from sdgan_ext.data.download import cache_root, download_mnist
from sdgan_ext.data.emoji import EMOJI_LANGUAGES, open_emoji
from sdgan_ext.data.idx import find_mnist
from sdgan_ext.data.images import check_image_size
from sdgan_ext.data.lazy import LazyImages
from sdgan_ext.data.scenes import ATTRIBUTES, LANGUAGES, SPLITS, DigitScenes
from sdgan_ext.data.sources import data_path

__all__ = ["DIGIT_NAMES", "NAMES", "OF_DIGITS", "Named", "open_rendered", "read_name", "resolve_name"]

NAMES = ("mnist", "digits", "digits-scenes", "emoji")

OF_DIGITS = ("mnist", "digits", "digits-scenes")
"""Those that show digits, which have one way up and one way to read."""

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_TEST_DIGITS = 2**40  # far beyond any training index


class Named(NamedTuple):
    """
    Attributes:
        name: of :data:`NAMES`.
        options: by their keys.
    """

    name: str
    options: dict[str, Any]


def read_name(spec: object) -> Named | None:
    """What ``spec`` names; None: it is no name.

    Raises:
        DataError: an option that there is not, or a value that it does not take.
    """
    name, _, text = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if name not in NAMES:
        return None
    readers = _READERS.get(name, {})
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in readers:
            allowed = f"{', '.join(readers)} are allowed" if readers else "it has none"
            raise DataError(f"{name} has no option {shown(part)}, {allowed}{nearest(key, readers)}")
        try:
            options[key] = readers[key](value)
        except ValueError as error:
            raise DataError(f"{name}: {key} is {shown(value)}, it must be {error}") from None
    return Named(name, options)


def resolve_name(spec: object) -> str | None:
    """``spec`` such that it means the same from another working folder too; None: it is no name."""
    if read_name(spec) is None:
        return None
    assert isinstance(spec, str)
    name, colon, text = spec.partition(":")
    parts = []
    for part in text.split(","):
        key, _, value = part.partition("=")
        parts.append(f"{key}={data_path(value).resolve()}" if key == "digits" and value != "mnist" else part)
    return name + colon + ",".join(parts)


def open_rendered(
    named: Named,
    split: str,
    image_size: int | Sequence[int] | None,
    channels: int | None,
    seed: int,
    background: str | Sequence[int] | None,
    captions: str | None,
) -> RenderedDigits | DigitScenes | LazyImages:
    """The images of a name, other than "mnist", at ``image_size``; as of :func:`sdgan_ext.data.open_dataset`."""
    name, options = named
    side = _side(name, image_size, options.pop("size", None))
    if name == "digits":
        length, first = (60_000, 0) if split == "train" else (10_000, _TEST_DIGITS)
        digits = RenderedDigits(seed, length, side or 28, 1 if channels is None else channels, first_index=first)
        digits.captions = None if captions is None else class_captions(captions, DIGIT_NAMES)
        return digits
    if name == "emoji":
        return open_emoji(side or 64, channels, background, split, **options)
    if channels not in (None, 3):
        raise DataError(f"digits-scenes have 3 channels, channels={channels} came")
    if options.get("digits") == "mnist":
        root = cache_root() / "mnist"
        options["digits"] = find_mnist(root) or download_mnist(root)
    split = options.pop("split", split)
    return DigitScenes(seed, 60_000 if split in ("train", "judge") else 10_000, side or 32, split=split, **options)


def _side(name: str, image_size: int | Sequence[int] | None, option: int | None) -> int | None:
    if image_size is None:
        return option
    height, width = check_image_size(image_size)
    if height != width:
        raise DataError(f"{name} are square, image_size={image_size!r} came")
    if option not in (None, height):
        raise DataError(f"{name}: size is {option}, but the images are to have {height} (image_size): leave one out")
    return height


def _integer(value: str) -> int:
    if not (value.isascii() and value.isdecimal() and 16 <= int(value[:9]) <= 512):
        raise ValueError("an integer from 16 to 512")
    return int(value)


def _counts(value: str) -> tuple[int, ...]:
    first, _, last = value.partition("-")
    if not (first in "123" and (last or first) in "123" and first and first <= (last or first)):
        raise ValueError("1, 2, 3 or a range such as 1-3")
    return tuple(range(int(first), int(last or first) + 1))


def _some_of(*allowed: str) -> Callable[[str], tuple[str, ...]]:
    def read(value: str) -> tuple[str, ...]:
        words = tuple(value.split("+"))
        if not set(words) <= set(allowed):
            raise ValueError(f"some of {', '.join(allowed)} with + between")
        return words

    return read


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return value

    return read


def _attributes(value: str) -> tuple[str, ...]:
    if value == "none":
        return ()
    try:
        return _some_of(*ATTRIBUTES)(value)
    except ValueError as error:
        raise ValueError(f"none, or {error}") from None


def _folder(value: str) -> str:
    if not value:
        raise ValueError("a folder with the files of MNIST, or mnist")
    return value


_READERS: dict[str, dict[str, Callable[[str], Any]]] = {
    "digits-scenes": {
        "size": _integer,
        "objects": _counts,
        "languages": _some_of(*LANGUAGES),
        "attributes": _attributes,
        "split": _one_of(*SPLITS),
        "digits": _folder,
    },
    "emoji": {
        "size": _integer,
        "languages": _some_of(*EMOJI_LANGUAGES),
        "tones": lambda value: _one_of("yes", "no")(value) == "yes",
    },
}
