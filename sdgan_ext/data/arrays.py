"""Images in NumPy's .npz and .npy files."""

from __future__ import annotations

import contextlib
import math
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from sdgan_ext._errors import DataError, MissingSplitError, printable
from sdgan_ext._files import open_regular
from sdgan_ext.data.images import CHANNELS, ImageDataset, labelled
from sdgan_ext.data.sources import check_memory, check_regular

__all__ = ["load_array_file", "member_names", "read_member"]

_LAYOUTS = ("NHW", "NHWC", "NCHW")
_MAX_RANK = 4
_ZIP_MAGIC = b"PK"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes
_OTHER_SPLITS = re.compile(r"(^|[^a-z])(test|testing|val|valid|validation)($|[^a-z])")


def load_array_file(
    path: str | Path, split: str = "train", *, layout: str | None = None, need_labels: bool = True
) -> ImageDataset:
    """The images, and labels if any, of a .npz or .npy file.

    Keys, in any letter case: a .npy, and a .npz with one array, need none. Otherwise the images are ``images``, ``x``
    or ``arr_0``, the labels ``labels``, ``y`` or ``arr_1`` (as guided-diffusion writes its samples); a file of several
    splits has ``x_train``, ``train_images`` and so on, test alike.

    Layout: three dimensions are [N, H, W]; four are [N, H, W, C] or [N, C, H, W], by where a 1, 3 or 4 stands.
    Where that leaves a doubt the file is refused, unless ``layout`` ("NHW", "NHWC", "NCHW") settles it.

    Values: uint8 as they are. Floats lie in [0, 1], or in [-1, 1] when any is negative; others are refused.

    Labels: integers, of a floating dtype too, [N] or [N, 1]; or one-hot [N, K].

    Args:
        path: the file; what it is says its content.
        split: "train" or "test".
        layout: see above.
        need_labels: False: labels that cannot be used are left out, with a warning; True: they are refused.

    Raises:
        DataError: a missing or damaged file, pickled objects, unknown keys, a layout or range in doubt, NaN, more than
            the memory holds.
        MissingSplitError: a DataError too; the file has no such split.
    """
    path = Path(path)
    if layout not in (None, *_LAYOUTS):
        raise DataError(f"layout must be one of {', '.join(_LAYOUTS)} or None, {layout!r} came")
    if split not in ("train", "test"):
        raise DataError(f"split must be 'train' or 'test', {split!r} came")
    check_regular(path)
    shown = printable(path)
    label_key = None
    with _damage_named(shown), path.open("rb") as file:
        zipped = file.read(2) == _ZIP_MAGIC
        file.seek(0)
        if zipped:
            image_key, label_key = _keys(zipfile.ZipFile(file).namelist(), split, shown)
            images = read_member(path, image_key)
        elif split == "train":
            images = _read_array(file, os.fstat(file.fileno()).st_size, shown)
        else:
            raise MissingSplitError(f"{shown} holds one array and so no {split} split, use split='train'")
    images = _to_nchw(images, layout, shown)
    dataset = ImageDataset(images, value_range=_value_range(images, shown), name=path.name)
    return dataset if label_key is None else labelled(dataset, lambda: read_member(path, label_key), need_labels)


@contextlib.contextmanager
def _damage_named(shown: str) -> Iterator[None]:
    """What is raised for a damaged file as a DataError: zipfile and NumPy, which parses a header with Python's own
    tokenizer, raise almost anything."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {shown}: {error.strerror or error}") from None
    except MemoryError:
        raise DataError(f"{shown} takes more memory than there is") from None
    except Exception:
        raise _damaged(shown) from None


def _damaged(shown: str) -> DataError:
    return DataError(f"{shown} is not a readable .npz or .npy file, it is damaged or of another format")


def member_names(path: Path) -> list[str]:
    """The arrays in the .npz file ``path``.

    Raises:
        DataError: it cannot be read.
    """
    with _damage_named(printable(path)), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        return archive.namelist()


def read_member(path: Path, name: str) -> np.ndarray:
    """The array in the file ``name`` of the archive ``path``."""
    shown = f"{printable(path)}'s {printable(name)}"
    with _damage_named(shown), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
        if info.compress_type not in _COMPRESSIONS:
            raise DataError(f"{shown} is compressed by a method that NumPy does not write, save it with np.savez")
        with archive.open(info) as member:
            return _read_array(member, info.file_size, shown)


def _read_array(file: IO[bytes], size: int, shown: str) -> np.ndarray:
    """The array in NumPy's format, of a file of ``size`` bytes; nothing is read before the header is judged."""
    start = file.read(6)
    if start != np.lib.format.MAGIC_PREFIX:
        raise _damaged(shown)
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{shown} holds pickled Python objects, only plain numeric arrays are read")
    if len(shape) > _MAX_RANK or any(size < 0 for size in shape):
        raise DataError(f"{shown} holds an array of shape {_shape(shape)}, images have 3 or 4 dimensions")
    expected, follow = math.prod(shape) * dtype.itemsize, size - file.tell()
    if expected > follow:
        raise DataError(
            f"{shown} is damaged: its header says {_shape(shape)} = {expected:,} bytes of values, only {follow:,} "
            "follow"
        )
    check_memory(f"{shown}: values of shape {_shape(shape)}", expected)
    file.seek(0)
    array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape[:6]))}{', ...' if len(shape) > 6 else ''}]"


def _keys(members: list[str], split: str, shown: str) -> tuple[str, str | None]:
    """The members that are the images and the labels; a member's key is its name without ".npy", in lower case."""
    shared = split == "train"
    image_keys = [f"x_{split}", f"{split}_images", f"images_{split}"] + ["images", "x", "arr_0"] * shared
    label_keys = [f"y_{split}", f"{split}_labels", f"labels_{split}"] + ["labels", "y", "arr_1"] * shared
    found = {name.removesuffix(".npy").lower(): name for name in members}
    images = next((found[key] for key in image_keys if key in found), None)
    labels = next((found[key] for key in label_keys if key in found), None)
    if images is None and shared and len(found) == 1:
        [(key, images)] = found.items()
        if _OTHER_SPLITS.search(key):
            raise MissingSplitError(f"{shown} holds {printable(key)} alone, and so no {split} split")
    if images is None:
        listed = [printable(name.removesuffix(".npy")) for name in members[:8]] + ["..."] * (len(members) > 8)
        came = ", ".join(listed) or "no array"
        error = DataError if shared else MissingSplitError
        raise error(f"{shown} holds {came}, the {split} images must be one of the keys {', '.join(image_keys)}")
    return images, labels


def _to_nchw(images: np.ndarray, layout: str | None, shown: str) -> np.ndarray:
    shape = list(images.shape)
    if images.ndim not in (3, 4):
        raise DataError(f"{shown}: images of shape {shape} came, allowed are [N, H, W], [N, H, W, C] and [N, C, H, W]")
    if layout is None:
        layout = _infer_layout(shape, shown)
    elif len(layout) != images.ndim:
        raise DataError(f"{shown}: images of shape {shape} came, layout={layout!r} needs {len(layout)} dimensions")
    if layout == "NHW":
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if layout == "NHWC" else images


def _infer_layout(shape: list[int], shown: str) -> str:
    last = shape[-1] in CHANNELS
    if len(shape) == 3:
        if last:
            raise DataError(
                f"{shown}: images of shape {shape} could be one image [H, W, C] or [N, H, W], "
                "save it as [N, H, W, C] or [N, C, H, W]"
            )
        return "NHW"
    second = shape[1] in CHANNELS
    if second and last:
        raise DataError(
            f"{shown}: images of shape {shape} could be [N, C, H, W] or [N, H, W, C], "
            "give layout='NCHW' or layout='NHWC' to load_array_file"
        )
    if not second and not last:
        raise DataError(f"{shown}: images of shape {shape} have no dimension of 1, 3 or 4 channels, second or last")
    return "NCHW" if second else "NHWC"


def _value_range(images: np.ndarray, shown: str) -> tuple[float, float] | None:
    if images.dtype.kind != "f" or images.size == 0:
        return None
    least, most = float(images.min()), float(images.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(axis=1))[0]
        raise DataError(f"{shown}: image {bad} holds NaN or infinity, every pixel must be finite")
    if least < -1 or most > 1:
        raise DataError(
            f"{shown}: {images.dtype} images from {least:g} to {most:g} came, floats must lie in [0, 1] or [-1, 1], "
            "or save them as uint8 in [0, 255]"
        )
    return (-1.0, 1.0) if least < 0 else (0.0, 1.0)
