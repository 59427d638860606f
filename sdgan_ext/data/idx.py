"""IDX, the file format of MNIST: two zero bytes, a dtype byte, a rank byte, big-endian uint32 sizes, the values.

Source: http://yann.lecun.com/exdb/mnist/, "the IDX file format".
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sdgan_ext._errors import DataError, MissingSplitError, printable
from sdgan_ext.data.images import ImageDataset, labelled
from sdgan_ext.data.sources import check_memory, check_regular

__all__ = ["find_idx_file", "find_idx_sets", "find_mnist", "idx_set_of", "load_idx_folder", "read_idx", "write_idx"]

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(dtype).newbyteorder("="): code for code, dtype in _DTYPES.items()}
_PREFIXES = {"train": ("train",), "test": ("t10k", "test")}
_KINDS = {"images": "idx3", "labels": "idx1"}
_EMNIST = "emnist-"
_NAME = re.compile(rf"({_EMNIST}[a-z]+-)?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
_MAX_RANK = 32  # of every NumPy
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file, plain or gzip (by its content, not by its name), in native byte order.

    Raises:
        DataError: the file is missing, unreadable, of another format, damaged, shorter or longer than its header says.
    """
    path = Path(path)
    check_regular(path)
    shown = printable(path)
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == _GZIP_MAGIC
            plain.seek(0)
            if not zipped:
                return _parse(plain, shown)
            with gzip.GzipFile(fileobj=plain) as unzipped:
                return _parse(unzipped, shown)
    except EOFError:
        raise DataError(f"{shown} is a gzip file that ends too early, fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{shown} is a damaged gzip file ({error}), fetch it again") from None
    except OSError as error:
        raise DataError(f"cannot read {shown}: {error.strerror or error}") from None
    except MemoryError:
        raise DataError(f"{shown} takes more memory than there is") from None


def _parse(file: BinaryIO | gzip.GzipFile, shown: str) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4:
        raise DataError(f"{shown} holds {len(magic)} bytes, an IDX file starts with a header of at least 8")
    zeros, code, rank = struct.unpack(">HBB", magic)
    if zeros != 0 or code not in _DTYPES or rank == 0:
        raise DataError(
            f"{shown} is not an IDX file: it starts with 0x{magic.hex()}, "
            "allowed are 0x00000803 (images), 0x00000801 (labels) and their like"
        )
    if rank > _MAX_RANK:
        raise DataError(f"{shown} holds an array of rank {rank}, up to {_MAX_RANK} are read")
    header = file.read(4 * rank)
    if len(header) < 4 * rank:
        raise DataError(f"{shown} ends inside its IDX header, fetch it again")
    shape = struct.unpack(f">{rank}I", header)
    dtype = np.dtype(_DTYPES[code])
    expected = math.prod(shape) * dtype.itemsize
    sizes = "x".join(map(str, shape))
    # In chunks: a damaged header may promise more than the file has, and read(n) would allocate it all.
    values = bytearray(file.read(min(_CHUNK, expected + 1)))
    if len(values) == _CHUNK:
        check_memory(f"{shown} is damaged or too large: the {sizes} values of its header", expected)
    while chunk := file.read(min(_CHUNK, expected + 1 - len(values))):
        values += chunk
    if len(values) != expected:
        came = f"only {len(values):,} follow" if len(values) < expected else "more follow"
        raise DataError(f"{shown} is damaged: its header says {sizes} = {expected:,} bytes of values, {came}")
    try:
        array = np.frombuffer(values, dtype).reshape(shape)
    except ValueError:  # a size of 0 beside sizes whose product NumPy cannot hold
        raise DataError(f"{shown} is damaged: its header says {sizes}, which is no array") from None
    return array.astype(dtype.newbyteorder("="), copy=False)


def write_idx(path: str | Path, array: np.ndarray) -> None:
    """Writes ``array`` as IDX, gzip if the name ends in .gz.

    Raises:
        DataError: another dtype than uint8, int8, int16, int32, float32, float64, or a rank outside 1 to 255.
    """
    array = np.asarray(array)
    code = _CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        names = ", ".join(str(dtype) for dtype in _CODES)
        raise DataError(f"an IDX file holds {names}, an array of {array.dtype} came")
    if not 1 <= array.ndim <= 255:
        raise DataError(f"an IDX file holds an array of rank 1 to 255, one of rank {array.ndim} came")
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    contents = header + array.astype(_DTYPES[code]).tobytes()
    path = Path(path)
    # Without a time stamp the same array gives the same file.
    path.write_bytes(gzip.compress(contents, mtime=0) if path.suffix == ".gz" else contents)


def find_idx_file(folder: str | Path, kind: str, split: str = "train", subset: str = "") -> Path | None:
    """The file of ``kind`` ("images" or "labels") directly in ``folder``, under any of its usual names.

    Args:
        subset: what stands before "train" or "test", as in "emnist-letters".
    """
    start = f"{subset}-" if subset else ""
    for prefix in _PREFIXES[split]:
        for separator in "-.":
            for suffix in ("", ".gz"):
                path = Path(folder) / f"{start}{prefix}-{kind}{separator}{_KINDS[kind]}-ubyte{suffix}"
                if path.is_file():
                    return path
    return None


def idx_set_of(path: Path) -> str | None:
    """What stands before "train" or "test" in the name of an IDX file of images, "" for nothing; None for another."""
    match = _NAME.fullmatch(path.name)
    return None if match is None or match[3] != "images" else (match[1] or "").rstrip("-")


def find_idx_sets(folder: str | Path, split: str = "train") -> dict[tuple[Path, str], Path]:
    """The image files of ``split``, by their folder and subset: in ``folder``, else in ``raw`` below it or below its
    subfolders, where torchvision puts them (``MNIST/raw``, ``EMNIST/raw``)."""
    folder = Path(folder)
    for places in ([folder, folder / "raw"], sorted(folder.glob("*/raw"))):
        found = {}
        for place in places:
            names = sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []
            subsets = {idx_set_of(place / name) for name in names}
            for subset in sorted(name for name in subsets if name is not None):
                if file := find_idx_file(place, "images", split, subset):
                    found[place, subset] = file
        if found:
            return found
    return {}


def find_mnist(*candidates: str | Path) -> Path | None:
    """The first of ``candidates`` whose ``train`` and ``t10k`` files are all there (in it, in ``raw`` or in ``*/raw``),
    or None."""
    for folder in candidates:
        sets = [place for place, subset in find_idx_sets(folder) if not subset]
        if sets and all(find_idx_file(sets[0], kind, split) for kind in _KINDS for split in _PREFIXES):
            return Path(folder)
    return None


def load_idx_folder(
    folder: str | Path, split: str = "train", *, subset: str | None = None, need_labels: bool = True
) -> ImageDataset:
    """The images of ``split`` ("train" or "test") in a folder of IDX files, labelled where there is a label file.

    Looks for ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte`` (test: ``t10k-...`` or ``test-...``), plain or
    with ``.gz``, also spelled ``train-images.idx3-ubyte``, in the folder, in its ``raw`` or in a ``raw`` of its
    subfolders, as torchvision has it (``MNIST/raw``). EMNIST's have ``emnist-letters-`` or alike before that; they
    store an image by columns (its readme says so), and are transposed here.

    Args:
        folder: where the files are.
        split: "train" or "test".
        subset: of several in one folder, such as "emnist-letters"; "" is the one without such a name.
        need_labels: False: labels that cannot be used are left out, with a warning; True: they are refused.

    Raises:
        MissingSplitError: no image file.
        DataError: several, a damaged file, or images and labels that do not belong together.
    """
    if split not in _PREFIXES:
        raise DataError(f"split must be 'train' or 'test', {split!r} came")
    if not Path(folder).is_dir():
        raise DataError(f"the folder {printable(folder)} does not exist")
    sets = {key: file for key, file in find_idx_sets(folder, split).items() if subset in (None, key[1])}
    if not sets:
        start = f"{subset}-" if subset else ""
        name = f"{start}{_PREFIXES[split][bool(subset) and split == 'test']}"
        raise MissingSplitError(
            f"{printable(folder)} holds no {printable(name)}-images-idx3-ubyte or .gz, the {split} images as IDX"
        )
    if len(sets) > 1:
        files = ", ".join(printable(file.relative_to(folder)) for file in sets.values())
        raise DataError(f"{printable(folder)} holds several sets of IDX files, give one of the image files: {files}")
    [((place, subset), image_file)] = sets.items()
    label_file = find_idx_file(place, "labels", split, subset)
    images = read_idx(image_file)
    if images.ndim != 3 or images.dtype != np.uint8:
        raise DataError(f"{printable(image_file)} holds {_describe(images)}, images are uint8 [N, H, W]")
    if subset.startswith(_EMNIST):
        images = images.transpose(0, 2, 1)

    def labels() -> np.ndarray | None:
        return None if label_file is None else _read_labels(label_file, image_file, len(images))

    return labelled(ImageDataset(images, name=subset or Path(folder).resolve().name), labels, need_labels)


def _read_labels(file: Path, image_file: Path, count: int) -> np.ndarray:
    labels = read_idx(file)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{printable(file)} holds {_describe(labels)}, labels are integers [N]")
    if len(labels) != count:
        raise DataError(
            f"{printable(file)} holds {len(labels):,} labels and {image_file.name} {count:,} images, "
            "there must be one label per image"
        )
    return labels


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
