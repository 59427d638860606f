"""Images to train on: files, folders, arrays, rendered digits, MNIST, any torch Dataset.

Every float image lies in ``VALUE_RANGE`` = [-1, 1]; bytes become floats and back in ``values`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from torch.utils.data import Dataset

from sdgan_ext._errors import DataError, nearest
from sdgan_ext.data.arrays import load_array_file
from sdgan_ext.data.digits import RenderedDigits
from sdgan_ext.data.download import DEFAULT_MIRRORS, cache_root, download_mnist
from sdgan_ext.data.folder import has_images, load_image_folder
from sdgan_ext.data.idx import find_idx_file, find_mnist, load_idx_folder, read_idx, write_idx
from sdgan_ext.data.images import ImageDataset, check_image_size, fit_images
from sdgan_ext.data.loader import batches
from sdgan_ext.data.part import Part, hold_out
from sdgan_ext.data.protocols import MapDataset
from sdgan_ext.data.values import VALUE_RANGE, to_float, to_uint8

__all__ = [
    "DEFAULT_MIRRORS",
    "NAMES",
    "VALUE_RANGE",
    "ImageDataset",
    "MapDataset",
    "Part",
    "RenderedDigits",
    "batches",
    "cache_root",
    "download_mnist",
    "find_mnist",
    "fit_images",
    "hold_out",
    "load_array_file",
    "load_idx_folder",
    "load_image_folder",
    "open_dataset",
    "read_idx",
    "to_float",
    "to_uint8",
    "write_idx",
]

NAMES = ("mnist", "digits")
_SPLIT_NAMES = {"train", "test", "val", "valid", "validation"}
_TEST_DIGITS = 2**40  # far beyond any training index


_Given = TypeVar("_Given", bound=Dataset[Any])


@overload
def open_dataset(
    spec: str | Path,
    *,
    split: Literal["train", "test"] = "train",
    image_size: int | Sequence[int] | None = None,
    channels: int | None = None,
    seed: int = 0,
) -> ImageDataset | RenderedDigits: ...


@overload
def open_dataset(
    spec: _Given,
    *,
    split: Literal["train", "test"] = "train",
    image_size: int | Sequence[int] | None = None,
    channels: int | None = None,
    seed: int = 0,
) -> _Given: ...


def open_dataset(
    spec: str | Path | Dataset[Any],
    *,
    split: Literal["train", "test"] = "train",
    image_size: int | Sequence[int] | None = None,
    channels: int | None = None,
    seed: int = 0,
) -> Dataset[Any]:
    """What ``--data`` names, as a dataset.

    Args:
        spec: ``"mnist"``: from ``mnist`` in :func:`cache_root`, downloaded if absent. ``"digits"``: rendered ones,
            60,000 to train and 10,000 others to test. A folder of IDX files or of images; where its subfolders are
            named train, test, validation, the one named ``split`` is meant. A ``.npz`` or ``.npy`` file. A torch
            Dataset comes back as it is.
        split: "train" or "test".
        image_size: side or (height, width) to centre-crop and resize to; None leaves the size.
        channels: 1, 3 or 4 to convert to; None leaves them.
        seed: of the rendered digits.

    Returns:
        ``ImageDataset``, ``RenderedDigits``, or ``spec`` itself.

    Raises:
        DataError: an unknown name, a path that is missing or holds no usable data, a split that is not there.
    """
    if isinstance(spec, Dataset):
        return spec
    if not isinstance(spec, (str, Path)):
        raise DataError(
            f"data must be a name ({', '.join(NAMES)}), a folder, a .npz or .npy file or a torch Dataset, "
            f"a {type(spec).__name__} came"
        )
    if split not in ("train", "test"):
        raise DataError(f"split must be 'train' or 'test', {split!r} came")
    if spec == "digits":
        return _open_digits(split, image_size, channels, seed)
    if spec == "mnist":
        root = cache_root() / "mnist"
        return load_idx_folder(find_mnist(root) or download_mnist(root), split).fitted(image_size, channels)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(path, split, image_size, channels)
    if not path.exists():
        raise DataError(
            f"data {str(spec)!r} is neither a name ({', '.join(NAMES)}) nor a folder or file that exists"
            + nearest(str(spec), NAMES)
        )
    if path.suffix.lower() not in (".npz", ".npy"):
        raise DataError(f"data {str(spec)!r} is a file of unknown kind, a .npz or .npy file or a folder is needed")
    return load_array_file(path, split).fitted(image_size, channels)


def _open_folder(
    path: Path, split: Literal["train", "test"], image_size: int | Sequence[int] | None, channels: int | None
) -> ImageDataset:
    if find_idx_file(path, "images", split):
        return load_idx_folder(path, split).fitted(image_size, channels)
    splits = _split_folders(path)
    if split in splits:
        return load_image_folder(path / split, image_size, channels)
    other: Literal["train", "test"] = "test" if split == "train" else "train"
    if find_idx_file(path, "images", other) or other in splits or (split == "test" and has_images(path)):
        raise DataError(f"{path} has no {split} split, add a subfolder {split!r} or use split={other!r}")
    if not has_images(path):
        raise DataError(f"the folder {path} holds neither IDX files (train-images-idx3-ubyte or .gz) nor images")
    return load_image_folder(path, image_size, channels)


def _split_folders(path: Path) -> set[str]:
    """The subfolders, if they are splits: a "train" among classes such as "car" and "ship" is a class too."""
    folders = {entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    return folders if folders <= _SPLIT_NAMES else set()


def _open_digits(split: str, image_size: int | Sequence[int] | None, channels: int | None, seed: int) -> RenderedDigits:
    height, width = check_image_size(28 if image_size is None else image_size)
    if height != width:
        raise DataError(f"digits are square, image_size={image_size!r} came")
    length, first = (60_000, 0) if split == "train" else (10_000, _TEST_DIGITS)
    return RenderedDigits(seed, length, height, 1 if channels is None else channels, first_index=first)
