"""The files in zip and tar archives: their names, and where their bytes are."""

from __future__ import annotations

import os
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from sdgan_ext._errors import DataError, MissingSplitError, printable
from sdgan_ext.data.sources import check_regular
from sdgan_ext.data.spans import Member
from sdgan_ext.data.splits import split_of
from sdgan_ext.data.walk import has_images

__all__ = ["SUFFIXES", "check_shards", "clean", "expand_braces", "holds_shards", "read_members", "shards_of"]

SUFFIXES = (".tar", ".zip")

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 1
_BLOCK = 512
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUMBERED = re.compile(r"(.*?)(\d+)-of-(\d+)\.tar")


def read_members(path: Path) -> Iterator[Member]:
    """The regular files in the archive ``path``, of which a later one replaces an earlier of its name.

    Raises:
        DataError: it is no such archive, cut short or damaged; or a member is encrypted, or packed by another method
            than deflate.
    """
    check_regular(path)
    shown = printable(path)
    try:
        with path.open("rb") as file:
            yield from (_zip_members if path.suffix.lower() == ".zip" else _tar_members)(file, shown)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {shown}: {error.strerror or error}") from None
    except Exception as error:  # zipfile and tarfile raise almost anything on a damaged file
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"{shown} is cut short, damaged, or no {path.suffix[1:]} archive: {printable(reason)}"
        ) from None


def _zip_members(file: BinaryIO, shown: str) -> Iterator[Member]:
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        for info in {info.filename: info for info in archive.infolist()}.values():
            if info.is_dir():
                continue
            name = printable(info.filename)
            if info.flag_bits & _ENCRYPTED:
                raise DataError(f"{shown}'s {name} is encrypted, an archive without a password is needed")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{shown}'s {name} is compressed by another method than deflate, pack it anew")
            file.seek(info.header_offset)
            magic, name_size, extra_size = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            offset = info.header_offset + _LOCAL_HEADER.size + name_size + extra_size
            if magic != b"PK\3\4" or offset + info.compress_size > size:
                raise DataError(
                    f"{shown} is cut short or damaged: {printable(info.filename)} is not where it should be"
                )
            unpacked = info.file_size if info.compress_type == zipfile.ZIP_DEFLATED else -1
            yield Member(info.filename, offset, info.compress_size, unpacked, info.CRC)


def _tar_members(file: BinaryIO, shown: str) -> Iterator[Member]:
    size = os.fstat(file.fileno()).st_size
    end, members = 0, {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                end = max(end, info.offset_data + -(-info.size // _BLOCK) * _BLOCK if info.isreg() else archive.offset)
                if info.isreg() and not info.issparse():
                    members[info.name] = Member(info.name, info.offset_data, info.size)
    except tarfile.ReadError as error:
        file.seek(0)
        packed = file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))
        if packed:
            raise DataError(f"{shown} is compressed as a whole, unpack it: its images are read in any order") from None
        raise DataError(f"{shown} is cut short, damaged, or no tar archive: {printable(error)}") from None
    file.seek(end)
    if size < end or file.read(_BLOCK) != bytes(_BLOCK):
        raise DataError(f"{shown} is cut short: the end that a tar archive has is missing")
    yield from members.values()


def expand_braces(path: Path) -> list[Path]:
    """The shards that ``shard-{00000..00012}.tar`` means, WebDataset's way; ``path`` itself without braces."""
    match = _BRACES.search(path.name)
    if match is None:
        return [path]
    first, last = match[1], match[2]
    numbers = range(int(first), min(int(last), int(first) + 10**6) + 1)
    names = [f"{path.name[: match.start()]}{k:0{len(first)}}{path.name[match.end() :]}" for k in numbers]
    return [path.with_name(name) for name in names]


def holds_shards(folder: Path) -> bool:
    """Whether there are tar archives in ``folder``, and no images in it or below."""
    return next(folder.glob("*.tar"), None) is not None and not has_images(folder)


def shards_of(folder: Path, wanted: Literal["train", "test"]) -> tuple[list[Path], Literal["train", "test"]]:
    """The tar archives in ``folder``, sorted; where names such as ``photos-val-0003.tar`` say splits, those of one.

    Returns:
        The archives, and which split of what is in them is meant.

    Warns:
        UserWarning: others are left out.

    Raises:
        MissingSplitError: there are others alone.
    """
    by_split: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.tar")):
        words = re.split(r"[-_.]", path.stem)
        by_split.setdefault(next(filter(None, map(split_of, words)), ""), []).append(path)
    if by_split.keys() == {""}:
        return by_split[""], wanted
    paths = by_split.pop(wanted, []) or (by_split.pop("", []) if wanted == "train" else [])
    if not paths:
        raise MissingSplitError(f"{printable(folder)} has no shards of the {wanted} split")
    for split, others in by_split.items():
        what = f"shards of the {split} split" if split else "shards of no split by their names"
        example = printable(others[0].name)
        warnings.warn(f"{printable(folder)}: {len(others):,} {what} left out ({example})", stacklevel=4)
    return paths, "train"


def check_shards(paths: Sequence[Path]) -> None:
    """Refuses shards of which some are missing by their own names, ``NAME-00003-of-00012.tar``.

    Raises:
        DataError: naming the first one.
    """
    there = {path.name for path in paths}
    for path in paths:
        if match := _NUMBERED.fullmatch(path.name):
            start, number, count = match.groups()
            for k in range(min(int(count), len(paths) + 1)):
                name = f"{start}{k:0{len(number)}}-of-{count}.tar"
                if name not in there:
                    raise DataError(
                        f"the shard {printable(path.with_name(name))} is missing: there are {len(paths):,} of its "
                        f"{int(count):,}"
                    )


def clean(name: str) -> PurePosixPath:
    """A member's name as a relative path: "./a//b.png" is "a/b.png"."""
    return PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", ".", "..")))
