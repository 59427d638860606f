"""Datasets of Hugging Face's ``datasets``, known by what they offer: the package is imported to open a folder alone."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdgan_ext._errors import DataError, MissingSplitError, printable, shown
from sdgan_ext.data.captions import Captions, class_captions
from sdgan_ext.data.decode import Decoded, Header, read_header, read_image

__all__ = ["HuggingSource", "hugging_source", "is_hugging", "is_hugging_folder", "load_hugging_folder"]

_CAPTIONS = ("text", "caption", "prompt")
_LABELS = ("label", "labels", "fine_label", "class")
_FILES = ("dataset_dict.json", "state.json")  # of save_to_disk


class HuggingSource:
    """A :class:`~sdgan_ext.data.lazy.Source` of the rows of a dataset: its first column of images, and its labels, a
    ``ClassLabel`` or a column of integers called so.

    Args:
        dataset: a ``datasets.Dataset``.
        name: what to call it.
        template: captions are wanted: a column of strings called so, or this with the names of the classes.

    Raises:
        DataError: it has no column of images, no length, or a transform of its own.
    """

    index = None

    def __init__(self, dataset: Any, name: str, template: str | None = None):
        self.name = self.shown = printable(name)
        columns = dict(dataset.features or {})
        image = next((column for column, feature in columns.items() if type(feature).__name__ == "Image"), None)
        if image is None or not hasattr(dataset, "__len__"):
            what = f"the columns {', '.join(columns)}, of which none is of images" if image is None else "no length"
            raise DataError(f"{self.name} has {what}: a Dataset with an Image column is needed, no IterableDataset")
        if dataset.format.get("type") == "custom":
            raise DataError(
                f"{self.name} has a transform of its own, which is not applied: take it off (reset_format()), or hand "
                "out (image [C, H, W], label) by a torch Dataset around it"
            )
        self.labels, self.num_classes, names = _labels(dataset, columns)
        self.captions: Captions | None = None
        if template is not None:
            self._set_captions(dataset, columns, names, template)
        self._column = image
        plain = dataset.with_format(None).select_columns([image])
        self._rows = plain.cast_column(image, type(columns[image])(decode=False))

    def _set_captions(self, dataset: Any, columns: Mapping[str, Any], names: list[str] | None, template: str) -> None:
        column = next((column for column in _CAPTIONS if column in columns), None)
        if column is not None:
            texts = list(dataset.with_format(None)[column])
            wrong = next((row for row, text in enumerate(texts) if not isinstance(text, str) or not text.strip()), None)
            if wrong is not None:
                raise DataError(f"{self.entry(wrong)} has {column} {shown(texts[wrong])}, each row needs a caption")
            self.labels, self.num_classes, self.captions = np.arange(len(texts)), None, texts
        elif names is not None:
            self.captions = class_captions(template, names)
        else:
            raise DataError(f"{self.name} has no captions, no column {' or '.join(_CAPTIONS)}, and no classes")

    def __len__(self) -> int:
        return len(self._rows)

    def entry(self, index: int) -> str:
        return f"{self.name}'s row {index}"

    def header(self, index: int) -> Header:
        return read_header(io.BytesIO(self._bytes(index)), self.entry(index))

    def decode(self, index: int) -> Decoded:
        return read_image(io.BytesIO(self._bytes(index)), self.entry(index))

    def _bytes(self, index: int) -> bytes:
        stored = self._rows[index][self._column] or {}
        try:
            content = stored.get("bytes") or Path(stored["path"]).read_bytes()
        except (OSError, KeyError, TypeError) as error:
            reason = getattr(error, "strerror", None) or "it is empty"
            raise DataError(f"cannot read the image {self.entry(index)}: {reason}") from None
        return bytes(content)


def _labels(dataset: Any, columns: Mapping[str, Any]) -> tuple[np.ndarray | None, int | None, list[str] | None]:
    """Labels, how many classes there are, and their names."""
    typed = [column for column, feature in columns.items() if type(feature).__name__ == "ClassLabel"]
    column = next(iter(typed or [column for column in _LABELS if column in columns]), None)
    if column is None:
        return None, None, None
    try:
        labels = np.asarray(list(dataset.with_format(None)[column]))
    except ValueError:
        return None, None, None
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:  # -1: of an unlabelled test set
        return None, None, None
    classes = getattr(columns[column], "num_classes", None) or int(labels.max(initial=0)) + 1
    names = getattr(columns[column], "names", None) or map(str, range(classes))
    return labels.astype(np.int64), classes, list(names)


def is_hugging(spec: Any) -> bool:
    """Whether it is a ``datasets.Dataset`` or ``DatasetDict``."""
    if isinstance(spec, Mapping):
        return bool(spec) and all(map(is_hugging, spec.values()))
    return all(hasattr(spec, name) for name in ("features", "column_names", "cast_column", "with_format"))


def hugging_source(spec: Any, split: str, name: str | None = None, template: str | None = None) -> HuggingSource:
    """
    Raises:
        DataError: as of :class:`HuggingSource`.
        MissingSplitError: a DataError too; a DatasetDict has no ``split``, or a Dataset is of another.
    """
    own = name or "huggingface"
    if isinstance(spec, Mapping):
        if split not in spec:
            raise MissingSplitError(f"{printable(own)} has the splits {', '.join(map(str, spec))}, {split} is missing")
        spec = spec[split]
    elif split == "test":
        raise MissingSplitError(f"{printable(own)} is one dataset and so has no test split, give it by a DatasetDict")
    return HuggingSource(spec, name or getattr(getattr(spec, "info", None), "dataset_name", None) or own, template)


def is_hugging_folder(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote it."""
    return any((folder / name).is_file() for name in _FILES)


def load_hugging_folder(folder: Path, split: str, template: str | None = None) -> HuggingSource:
    """
    Raises:
        DataError: ``datasets`` is not installed, or cannot read the folder; or as of :func:`hugging_source`.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise DataError(
            f"{printable(folder)} is a Hugging Face dataset, which the package datasets reads: "
            "pip install 'sdgan_ext[datasets]'"
        ) from None
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(f"{printable(folder)} cannot be read as a Hugging Face dataset: {printable(error)}") from None
    return hugging_source(found, split, folder.resolve().name, template)
