"""What is known of the images of a folder or of archives before they are decoded, kept in a file.

It is made once: every header is read. Later it holds as long as the files have the names, sizes and times of change
that it was made of; nothing of it is believed where one differs.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sdgan_ext._errors import DataError, printable
from sdgan_ext._files import open_regular, replacing
from sdgan_ext.data.decode import Header
from sdgan_ext.data.spans import Names, Spans, Stamp

__all__ = ["INDEX_NAME", "Headers", "Index"]

INDEX_NAME = "data-index.npz"
"""In a run's folder."""

_VERSION = 1
_MOST_BYTES = 1 << 30


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
        num_classes: None without labels.
        headers: None: not read yet.
    """

    def __init__(
        self,
        split: str,
        spans: Spans,
        labels: np.ndarray | None,
        num_classes: int | None,
        headers: Headers | None = None,
    ):
        self.split, self.spans, self.labels, self.num_classes = split, spans, labels, num_classes
        self.headers = headers

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
        if self.labels is not None:
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
            with open_regular(path) as file:
                index = cls._read(np.load(file, allow_pickle=False), stamp.root)
        except (OSError, ValueError, TypeError, KeyError, IndexError, zipfile.BadZipFile, EOFError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            warnings.warn(f"the index {path} cannot be read ({reason}), it is made anew", stacklevel=2)
            return None
        if index.split != split:
            return None
        if index.spans.stamp.same(stamp):
            return index
        warnings.warn(f"{_difference(index.spans.stamp, stamp)} since {path} was made: it is made anew", stacklevel=2)
        return None

    @classmethod
    def _read(cls, arrays: np.lib.npyio.NpzFile, root: Path) -> Index:
        """Raises KeyError, ValueError or IndexError where an array is missing or does not fit the others."""
        if int(arrays["version"][0]) != _VERSION:
            raise ValueError("version")
        stamp = Stamp(root, _names(arrays, "files", "file_ends"), arrays["sizes"], arrays["times"])
        names, table = None, None
        if "spans" in arrays:
            names, table = _names(arrays, "names", "name_ends"), arrays["spans"]
            _check(table, np.int64, (5, len(names)))
        spans = Spans(stamp, names, table)
        labels, classes, headers = None, None, None
        if "labels" in arrays:
            labels, classes = arrays["labels"], int(arrays["num_classes"][0])
            _check(labels, np.int64, (len(spans),))
        if "headers" in arrays:
            headers = Headers(arrays["headers"])
            _check(headers.table, np.int32, (len(Header._fields), len(spans)))
        for numbers in (stamp.sizes, stamp.times):
            _check(numbers, np.int64, (len(stamp.files),))
        return cls(str(arrays["split"][0]), spans, labels, classes, headers)


def _names(arrays: np.lib.npyio.NpzFile, text: str, ends: str) -> Names:
    names = Names(arrays[text], arrays[ends])
    _check(names.text, np.uint8, names.text.shape[:1])
    _check(names.ends, np.int64, names.ends.shape[:1])
    return names


def _check(array: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError("shape")


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
