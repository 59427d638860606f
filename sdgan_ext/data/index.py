"""What is known of the images of a folder or of archives before they are decoded, kept in a file.

It is made once: every header is read. Later it holds as long as the files have the names, sizes and times of change
that it was made of; nothing of it is believed where one differs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from sdgan_ext._errors import DataError, printable
from sdgan_ext._files import replacing
from sdgan_ext.data.arrays import member_names, read_member
from sdgan_ext.data.decode import Header
from sdgan_ext.data.images import CHANNELS
from sdgan_ext.data.spans import Names, Spans, Stamp

__all__ = ["INDEX_NAME", "Headers", "Index"]

INDEX_NAME = "data-index.npz"
"""In a run's folder."""

_VERSION = 1


class Headers:
    """The header of each image, in one array.

    Args:
        table: int32 [5, N], the fields of :class:`~sdgan_ext.data.decode.Header`; zeros: it cannot be read.
    """

    def __init__(self, table: np.ndarray):
        self.table = table

    @classmethod
    def read(cls, count: int, header: Callable[[int], Header | None]) -> Headers:
        table = np.zeros((len(Header._fields), count), np.int32)
        for index in range(count):
            if (found := header(index)) is not None:
                table[:, index] = found
        return cls(table)

    def __iter__(self) -> Iterator[Header | None]:
        for channels, height, width, sixteen_bits, frames in self.table.T.tolist():
            yield Header(channels, height, width, bool(sixteen_bits), bool(frames)) if channels else None


class Index:
    """The images of files: where they lie, their labels, their headers.

    Args:
        split: which split of the files it is of.
        spans: where the images are.
        labels: int64 [N], or None.
        num_classes: None without classes.
        headers: None: not read yet.
        texts: the names of the classes or, without classes, a caption for each image; None: neither was asked for.
    """

    def __init__(
        self,
        split: str,
        spans: Spans,
        labels: np.ndarray | None,
        num_classes: int | None,
        headers: Headers | None = None,
        texts: Names | None = None,
    ):
        self.split, self.spans, self.labels, self.num_classes = split, spans, labels, num_classes
        self.headers, self.texts = headers, texts

    def save(self, path: Path) -> None:
        """
        Raises:
            CheckpointError: it cannot be written; what was there before still is.
        """
        stamp = self.spans.stamp
        arrays = {
            "version": np.array([_VERSION]),
            "split": np.array([self.split]),
            "files": stamp.files.text,
            "file_ends": stamp.files.ends,
            "sizes": stamp.sizes,
            "times": stamp.times,
        }
        if self.spans.names is not None and self.spans.table is not None:
            arrays |= {"names": self.spans.names.text, "name_ends": self.spans.names.ends, "spans": self.spans.table}
        if self.texts is not None:
            arrays |= {"texts": self.texts.text, "text_ends": self.texts.ends}
        if self.labels is not None and self.num_classes is not None:
            arrays |= {"labels": self.labels, "num_classes": np.array([self.num_classes])}
        if self.headers is not None:
            arrays["headers"] = self.headers.table
        with replacing(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path, split: str, stamp: Stamp) -> Index | None:
        """The index in ``path``, if it is of the files ``stamp``; None: it must be made anew, which is said unless
        there is none.

        Warns:
            UserWarning: it is damaged, or of files that have changed.

        Raises:
            DataError: files that it has are gone.
        """
        if not path.exists():
            return None
        try:
            index = cls._read(
                {name.removesuffix(".npy"): read_member(path, name) for name in member_names(path)}, stamp
            )
        except (DataError, ValueError, KeyError, IndexError) as error:
            reason = error if isinstance(error, DataError) else f"{printable(path)} holds no index"
            warnings.warn(f"{reason}; the index is made anew", stacklevel=2)
            return None
        if index.split != split:
            return None
        if index.spans.stamp.same(stamp):
            return index
        warnings.warn(
            f"{_difference(index.spans.stamp, stamp)} since {printable(path)} was made: it is made anew", stacklevel=2
        )
        return None

    @classmethod
    def _read(cls, arrays: Mapping[str, np.ndarray], now: Stamp) -> Index:
        """Raises KeyError, ValueError or IndexError where an array is missing or does not fit the others."""
        for name, kind in (("version", "i"), ("split", "U"), ("num_classes", "i")):
            if name in arrays and (arrays[name].dtype.kind != kind or arrays[name].shape != (1,)):
                raise ValueError(name)
        if arrays["version"][0] != _VERSION:
            raise ValueError("version")
        stamp = Stamp(now.root, _names(arrays, "files", "file_ends"), arrays["sizes"], arrays["times"])
        for numbers in (stamp.sizes, stamp.times):
            _check(numbers, np.int64, (len(stamp.files),))
        names, table = None, None
        if "spans" in arrays:
            names, table = _names(arrays, "names", "name_ends"), arrays["spans"]
            _check(table, np.int64, (5, len(names)))
            number, offset, length, unpacked, crc = table
            _check_range(number, 0, len(stamp.files) - 1)
            sizes = stamp.sizes[number]
            _check_range(offset, 0, sizes)
            _check_range(length, 0, sizes - offset)
            _check_range(unpacked, -1, 2**40)
            _check_range(crc, -1, 2**32 - 1)
        spans = Spans(stamp, names, table)
        labels, classes, headers, texts = None, None, None, None
        if "labels" in arrays:
            labels, classes = arrays["labels"], int(arrays["num_classes"][0])
            _check(labels, np.int64, (len(spans),))
            _check_range(labels, 0, classes - 1)
        if "texts" in arrays:
            texts = _names(arrays, "texts", "text_ends")
            labels = np.arange(len(spans)) if labels is None else labels
            if len(texts) != (len(spans) if classes is None else classes):
                raise ValueError("texts")
        if "headers" in arrays:
            headers = Headers(arrays["headers"])
            _check(headers.table, np.int32, (len(Header._fields), len(spans)))
            channels = headers.table[0]
            if not np.isin(channels, (0, *CHANNELS)).all():
                raise ValueError("channels")
            _check_range(headers.table[1:3], (channels > 0).astype(np.int32), 2**31 - 1)
        return cls(str(arrays["split"][0]), spans, labels, classes, headers, texts)


def _names(arrays: Mapping[str, np.ndarray], text: str, ends: str) -> Names:
    names = Names(arrays[text], arrays[ends])
    _check(names.text, np.uint8, names.text.shape[:1])
    _check(names.ends, np.int64, names.ends.shape[:1])
    return names


def _check(array: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError("shape")


def _check_range(array: np.ndarray, least: int | np.ndarray, most: int | np.ndarray) -> None:
    if ((array < least) | (array > most)).any():
        raise ValueError("range")


def _difference(before: Stamp, now: Stamp) -> str:
    """How the files differ, in words.

    Raises:
        DataError: some are gone.
    """
    old = {
        name: (int(size), int(time)) for name, size, time in zip(before.files, before.sizes, before.times, strict=True)
    }
    new = {name: (int(size), int(time)) for name, size, time in zip(now.files, now.sizes, now.times, strict=True)}
    if gone := [name for name in old if name not in new]:
        raise DataError(
            f"{printable(now.root)}: {_some(gone)} of the {len(old):,} files that the run was started on "
            f"{'is' if len(gone) == 1 else 'are'} gone; put back what is missing, or start a new run"
        )
    added, changed = [name for name in new if name not in old], [n for n in new if old.get(n, new[n]) != new[n]]
    words = [f"{_some(names)} {what}" for names, what in ((added, "came"), (changed, "changed")) if names]
    return f"{printable(now.root)}: {' and '.join(words) or 'the order of the files changed'}"


def _some(names: list[str]) -> str:
    return printable(names[0]) if len(names) == 1 else f"{len(names):,} files ({printable(names[0])}, ...)"
