"""Where the bytes of images lie: each is a stretch of a file, the whole of it in a folder, a member in an archive.

So every image is read by its number, from any process and thread, without a list of members or an open archive. A file
is opened for each image, and its size and time of change are compared with those of when it was listed.
"""

from __future__ import annotations

import contextlib
import io
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from sdgan_ext._errors import DataError, printable
from sdgan_ext._files import open_regular
from sdgan_ext.data.sources import check_memory

__all__ = ["ChangedError", "Member", "Names", "Spans", "Stamp"]

_NONE = -1
_LARGE = 1 << 26


class ChangedError(DataError):
    """A file is not the one that was listed: no single image is at fault, and none is skipped for it."""


class Names:
    """Strings, in two arrays: worker processes share arrays with the process that forked them, lists of objects not,
    for each look at an object writes to its count of references."""

    def __init__(self, text: np.ndarray, ends: np.ndarray):
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.text[start : int(self.ends[index])].tobytes())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Names) and np.array_equal(self.ends, other.ends) and np.array_equal(self.text, other.text)
        )


class Stamp(NamedTuple):
    """Files as they were when they were listed.

    Attributes:
        root: the folder that their names are relative to.
        files: their names.
        sizes: int64 [F] in bytes; -1: it could not be looked at.
        times: int64 [F], of their last change, in nanoseconds.
    """

    root: Path
    files: Names
    sizes: np.ndarray
    times: np.ndarray

    @classmethod
    def of(cls, root: Path, paths: Sequence[Path]) -> Stamp:
        numbers = np.full((2, len(paths)), _NONE, np.int64)
        for index, path in enumerate(paths):
            with contextlib.suppress(OSError):
                status = os.stat(path)
                numbers[:, index] = status.st_size, status.st_mtime_ns
        start = len(str(root / "x")) - 1
        return cls(root, Names.of(str(path)[start:] for path in paths), *numbers)

    def same(self, other: Stamp) -> bool:
        """Whether the files are the same, wherever they are."""
        return (
            self.files == other.files
            and np.array_equal(self.sizes, other.sizes)
            and np.array_equal(self.times, other.times)
        )

    @contextlib.contextmanager
    def open(self, number: int, what: str) -> Iterator[BinaryIO]:
        """The file ``number``, to read ``what`` from.

        Raises:
            ChangedError: it is gone or another one.
            DataError: it cannot be opened.
        """
        path = self.root / self.files[number]
        try:
            file = open_regular(path)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self.sizes[number] != _NONE:
                raise ChangedError(f"{printable(path)} is gone: it was there when the images were listed") from None
            raise DataError(f"cannot read {what}: {error.strerror}") from None
        with file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) != (self.sizes[number], self.times[number]):
                raise ChangedError(
                    f"{printable(path)} has changed since the images were listed: it has {status.st_size:,} bytes, and "
                    f"had {self.sizes[number]:,}; start again, or put it back"
                )
            yield file


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        name: its path there.
        offset, length: where its bytes are in the archive.
        unpacked: its size once unpacked (deflate); -1: its bytes are as they are.
        crc: of its bytes, unpacked; -1: the archive has none.
    """

    name: str
    offset: int
    length: int
    unpacked: int = _NONE
    crc: int = _NONE


class Spans:
    """The stretches of the images.

    Args:
        stamp: the files.
        names: of the images in their archive; None: each file is an image.
        table: int64 [5, N]: number of the file, offset, length, unpacked, crc, as of :class:`Member`.
    """

    def __init__(self, stamp: Stamp, names: Names | None = None, table: np.ndarray | None = None):
        self.stamp, self.names, self.table = stamp, names, table

    @classmethod
    def of_members(cls, stamp: Stamp, members: Sequence[tuple[int, Member]]) -> Spans:
        """Of (number of the file, member)."""
        rows = [(number, *member[1:]) for number, member in members]
        table = np.array(rows, np.int64).reshape(-1, 5).T
        return cls(stamp, Names.of(member.name for _, member in members), np.ascontiguousarray(table))

    def __len__(self) -> int:
        return len(self.stamp.files if self.names is None else self.names)

    def entry(self, index: int) -> str:
        """What to call the image in a message."""
        if self.names is None or self.table is None:
            return printable(self.stamp.root / self.stamp.files[index])
        archive = self.stamp.root / self.stamp.files[int(self.table[0, index])]
        return f"{printable(archive)}'s {printable(self.names[index])}"

    def name(self, index: int) -> str:
        """Its path below the folder, or in its archive."""
        return self.stamp.files[index] if self.names is None else self.names[index]

    @contextlib.contextmanager
    def open(self, index: int, *, header: bool = False) -> Iterator[BinaryIO]:
        """The image's bytes as a file.

        Args:
            header: its beginning will do: a checksum of all is not taken.

        Raises:
            ChangedError: the file with the image is gone or another one.
            DataError: it cannot be opened, or the checksum is wrong.
        """
        what = f"the image {self.entry(index)}"
        if self.table is None:
            with self.stamp.open(index, what) as file:
                yield file
            return
        number, offset, length, unpacked, crc = (int(value) for value in self.table[:, index])
        with self.stamp.open(number, what) as file:
            if unpacked == _NONE and (header or crc == _NONE):
                yield io.BufferedReader(_Window(file, offset, length))
            else:
                file.seek(offset)
                yield io.BytesIO(_unpacked(file, length, unpacked, crc, what))


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int):
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._start + self._at)
        got = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(got)] = got
        self._at += len(got)
        return len(got)


def _unpacked(file: BinaryIO, length: int, unpacked: int, crc: int, what: str) -> bytes:
    size = length if unpacked == _NONE else unpacked
    if length + size > _LARGE:
        check_memory(what, length + size)
    content = file.read(length)
    if unpacked != _NONE:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, unpacked + 1)
        except zlib.error:
            content = b""
    if len(content) != size or (crc != _NONE and zlib.crc32(content) != crc):
        raise DataError(f"cannot read {what}: its bytes do not have the size and the checksum that the archive says")
    return content
