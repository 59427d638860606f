"""Captions: of ``metadata.jsonl``, of text files beside images, or made of the names of classes.

An item of a dataset has a text; in a batch stands its number, which travels where a class does, and the dataset's
``captions[number]`` is the text.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Protocol

from torch import Tensor

from sdgan_ext._errors import DataError, printable, shown

__all__ = [
    "METADATA",
    "TEMPLATE",
    "Captions",
    "as_items",
    "captions_of",
    "check_template",
    "class_captions",
    "find_captions",
    "label_or_caption",
]

METADATA = "metadata.jsonl"
"""A line for each image, ``{"file_name": "a.jpg", "text": "a caption"}``: the convention of ``datasets``."""

TEMPLATE = "a photo of a {class}"

_TEXT = ".txt"
_NEEDED = 'a line must be an object such as {"file_name": "a.jpg", "text": "a caption"}'


class Captions(Protocol):
    """Texts by their numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> str: ...

    def __iter__(self) -> Iterator[str]: ...


def captions_of(dataset: Any) -> Captions:
    """The texts that the labels of ``dataset`` are the numbers of.

    Raises:
        DataError: it has none.
    """
    captions: Captions | None = getattr(dataset, "captions", None)
    if captions is None:
        name = printable(getattr(dataset, "name", type(dataset).__name__))
        raise DataError(
            f"{name} has no captions: give {METADATA} or .txt files beside the images, class folders with "
            "open_dataset(..., captions='a photo of a {class}'), or a dataset with an attribute captions"
        )
    return captions


def check_template(template: str) -> None:
    """
    Raises:
        DataError: ``template`` does not say where the name of a class stands.
    """
    if not isinstance(template, str) or "{class}" not in template:
        raise DataError(f"captions is {shown(template)}, it must have {{class}} in it, such as {TEMPLATE!r}")


def class_captions(template: str, names: Sequence[str]) -> list[str]:
    """A caption for each class; "_" in a name is a space."""
    return [template.replace("{class}", name.replace("_", " ")) for name in names]


def label_or_caption(label: int, captions: Captions | None) -> int | str:
    """What an item has beside its image."""
    return label if captions is None else captions[label]


def as_items(images: Tensor, labels: Tensor, captions: Captions | None) -> list[tuple[Tensor, int | str]]:
    """The items of a batch."""
    return [(image, label_or_caption(label, captions)) for image, label in zip(images, labels.tolist(), strict=True)]


def find_captions(
    images: Sequence[PurePath], others: Mapping[PurePath, Callable[[], bytes]], place: str
) -> tuple[list[str], set[PurePath]] | None:
    """The caption of each image, in files beside them.

    Args:
        images: their paths.
        others: what reads the other files, by their paths.
        place: where all of them are, for messages.

    Returns:
        Captions, and the files that they are from; None: there are no such files.

    Warns:
        UserWarning: metadata of images that are not there.

    Raises:
        DataError: an image without a caption; a file that cannot be read, or a line of it, which is named.
    """
    metadata = [path for path in others if path.name == METADATA]
    if metadata:
        named: dict[PurePath, str] = {}
        for path in metadata:
            named |= _read_metadata(others[path], path, printable(path.name) if len(metadata) == 1 else printable(path))
        captions = [_of(image, named.get(_normal(image)), f"no line of {METADATA} names it", place) for image in images]
        if extra := named.keys() - set(map(_normal, images)):
            example = printable(min(extra).name)
            warnings.warn(
                f"{place}: {len(extra):,} lines of {METADATA} are of images that are not there ({example})",
                stacklevel=4,
            )
        return captions, set(metadata)
    beside = [path.with_suffix(_TEXT) for path in images]
    used = {path for path in beside if path in others}
    if not used:
        return None
    captions = []
    for image, path in zip(images, beside, strict=True):
        text = _decoded(others[path](), printable(path)) if path in used else None
        captions.append(_of(image, text, f"no {printable(path.name)} is beside it", place))
    return captions, used


def _of(image: PurePath, text: str | None, why: str, place: str) -> str:
    caption = None if text is None else " ".join(text.split())
    if not caption:
        reason = why if text is None else "it is empty"
        raise DataError(f"{place}: {printable(image.name)} has no caption, {reason}; each image needs one")
    try:
        caption.encode()
    except UnicodeEncodeError:  # JSON has escapes for halves of a character
        raise DataError(f"{place}: the caption of {printable(image.name)} is no text: {shown(caption)}") from None
    return caption


def _read_metadata(read: Callable[[], bytes], path: PurePath, name: str) -> dict[PurePath, str]:
    found: dict[PurePath, str] = {}
    for number, line in enumerate(_decoded(read(), name).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply, or too long"
            raise DataError(f"{name}, line {number}, is no JSON ({reason}), {_NEEDED}") from None
        for key in ("file_name", "text"):
            value = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(value, str):
                what = f"is {shown(entry)}" if not isinstance(entry, dict) else f"has {key} {shown(value)}"
                came = what if not isinstance(entry, dict) or key in entry else f"has no {key!r}"
                raise DataError(f"{name}, line {number}, {came}, {_NEEDED}")
        image = _normal(path.parent / entry["file_name"])
        if image in found:
            raise DataError(f"{name}, line {number}, names {printable(image.name)} again, an image has one caption")
        found[image] = entry["text"]
    return found


def _normal(path: PurePath) -> PurePath:
    return type(path)(os.path.normpath(path))


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is no text in UTF-8, from byte {error.start:,} on") from None
