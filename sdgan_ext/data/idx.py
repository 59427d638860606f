"""IDX, the file format of MNIST: two zero bytes, a dtype byte, a rank byte, big-endian uint32 sizes, the values.

Source: http://yann.lecun.com/exdb/mnist/, "the IDX file format".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sdgan_ext._errors import DataError
from sdgan_ext.data.images import ImageDataset

__all__ = ["find_idx_file", "find_mnist", "load_idx_folder", "read_idx", "write_idx"]

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(dtype).newbyteorder("="): code for code, dtype in _DTYPES.items()}
_PREFIXES = {"train": "train", "test": "t10k"}
_KINDS = {"images": "idx3", "labels": "idx1"}
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file, plain or gzip (by its content, not by its name), in native byte order.

    Raises:
        DataError: the file is missing, unreadable, of another format, damaged, shorter or longer than its header says.
    """
    path = Path(path)
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == _GZIP_MAGIC
            plain.seek(0)
            if not zipped:
                return _parse(plain, path)
            with gzip.GzipFile(fileobj=plain) as unzipped:
                return _parse(unzipped, path)
    except EOFError:
        raise DataError(f"{path} is a gzip file that ends too early, fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}), fetch it again") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _parse(file: BinaryIO | gzip.GzipFile, path: Path) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4:
        raise DataError(f"{path} holds {len(magic)} bytes, an IDX file starts with a header of at least 8")
    zeros, code, rank = struct.unpack(">HBB", magic)
    if zeros != 0 or code not in _DTYPES or rank == 0:
        raise DataError(
            f"{path} is not an IDX file: it starts with 0x{magic.hex()}, "
            "allowed are 0x00000803 (images), 0x00000801 (labels) and their like"
        )
    header = file.read(4 * rank)
    if len(header) < 4 * rank:
        raise DataError(f"{path} ends inside its IDX header, fetch it again")
    shape = struct.unpack(f">{rank}I", header)
    dtype = np.dtype(_DTYPES[code])
    expected = math.prod(shape) * dtype.itemsize
    # In chunks: a damaged header may promise more than the machine has, and read(n) would allocate it all.
    values = bytearray()
    while len(values) <= expected:
        chunk = file.read(min(_CHUNK, expected + 1 - len(values)))
        if not chunk:
            break
        values += chunk
    if len(values) != expected:
        came = f"only {len(values):,} follow" if len(values) < expected else "more follow"
        sizes = "x".join(map(str, shape))
        raise DataError(f"{path} is damaged: its header says {sizes} = {expected:,} bytes of values, {came}")
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


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


def find_idx_file(folder: str | Path, kind: str, split: str = "train") -> Path | None:
    """The file of ``kind`` ("images" or "labels") in ``folder`` or its ``MNIST/raw``, under any of its usual names."""
    prefix = _PREFIXES[split]
    rank = _KINDS[kind]
    for place in (Path(folder), Path(folder) / "MNIST" / "raw"):
        for separator in "-.":
            for suffix in ("", ".gz"):
                path = place / f"{prefix}-{kind}{separator}{rank}-ubyte{suffix}"
                if path.is_file():
                    return path
    return None


def find_mnist(*candidates: str | Path) -> Path | None:
    """The first of ``candidates`` that holds all four IDX files (it, or its ``MNIST/raw``), or None."""
    for folder in candidates:
        if all(find_idx_file(folder, kind, split) for kind in _KINDS for split in _PREFIXES):
            return Path(folder)
    return None


def load_idx_folder(folder: str | Path, split: str = "train") -> ImageDataset:
    """The images of ``split`` ("train" or "test") in a folder of IDX files, labelled where there is a label file.

    Looks for ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte`` (test: ``t10k-...``), plain or with ``.gz``,
    also spelled ``train-images.idx3-ubyte``, in the folder or in its ``MNIST/raw``.

    Raises:
        DataError: no image file, a damaged file, or images and labels that do not belong together.
    """
    if split not in _PREFIXES:
        raise DataError(f"split must be 'train' or 'test', {split!r} came")
    if not Path(folder).is_dir():
        raise DataError(f"the folder {folder} does not exist")
    image_file, label_file = (find_idx_file(folder, kind, split) for kind in _KINDS)
    if image_file is None:
        raise DataError(f"{folder} holds no {_PREFIXES[split]}-images-idx3-ubyte or .gz, the {split} images as IDX")
    images = read_idx(image_file)
    if images.ndim != 3 or images.dtype != np.uint8:
        raise DataError(f"{image_file} holds {_describe(images)}, images are uint8 [N, H, W]")
    labels = None
    if label_file is not None:
        labels = read_idx(label_file)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DataError(f"{label_file} holds {_describe(labels)}, labels are integers [N]")
        if len(labels) != len(images):
            raise DataError(
                f"{label_file} holds {len(labels):,} labels and {image_file.name} {len(images):,} images, "
                "there must be one label per image"
            )
    return ImageDataset(images, labels, name=Path(folder).resolve().name)


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
