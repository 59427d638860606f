"""Images to train on: files, folders, arrays, rendered digits, MNIST, any torch Dataset.

Every float image lies in ``VALUE_RANGE`` = [-1, 1]; bytes become floats and back in ``values`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from torch.utils.data import Dataset

from sdgan_ext._errors import DataError, MissingSplitError, nearest, printable
from sdgan_ext.data.arrays import load_array_file
from sdgan_ext.data.digits import RenderedDigits
from sdgan_ext.data.download import DEFAULT_MIRRORS, cache_root, download_mnist
from sdgan_ext.data.folder import load_image_folder, load_listing
from sdgan_ext.data.idx import find_idx_sets, find_mnist, idx_set_of, load_idx_folder, read_idx, write_idx
from sdgan_ext.data.images import ImageDataset, check_image_size, fit_images, read_colour
from sdgan_ext.data.loader import batches
from sdgan_ext.data.part import Part, hold_out
from sdgan_ext.data.protocols import MapDataset
from sdgan_ext.data.sources import check_regular, data_path
from sdgan_ext.data.splits import find_splits
from sdgan_ext.data.values import VALUE_RANGE, to_float, to_uint8
from sdgan_ext.data.walk import has_images, list_images

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
    background: str | Sequence[int] | None = None,
    need_labels: bool = True,
) -> ImageDataset | RenderedDigits: ...


@overload
def open_dataset(
    spec: _Given,
    *,
    split: Literal["train", "test"] = "train",
    image_size: int | Sequence[int] | None = None,
    channels: int | None = None,
    seed: int = 0,
    background: str | Sequence[int] | None = None,
    need_labels: bool = True,
) -> _Given: ...


def open_dataset(
    spec: str | Path | Dataset[Any],
    *,
    split: Literal["train", "test"] = "train",
    image_size: int | Sequence[int] | None = None,
    channels: int | None = None,
    seed: int = 0,
    background: str | Sequence[int] | None = None,
    need_labels: bool = True,
) -> Dataset[Any]:
    """What ``--data`` names, as a dataset.

    Args:
        spec: ``"mnist"``: from ``mnist`` in :func:`cache_root`, downloaded if absent. ``"digits"``: rendered ones,
            60,000 to train and 10,000 others to test. A folder of IDX files or of images, or one of several sets of
            IDX files by its image file; where its subfolders are named train, test, validation or alike, in any
            letter case, the one that ``split`` names is meant. A ``.npz`` or ``.npy`` file. A torch Dataset comes back
            as it is.
        split: "train" or "test".
        image_size: side or (height, width) to centre-crop and resize to; None leaves the size.
        channels: 1, 3 or 4 to convert to; None leaves them.
        seed: of the rendered digits.
        background: what alpha is put over where ``channels`` has none: a colour's name, "#rrggbb" or (red, green,
            blue); None is white.
        need_labels: False: labels that cannot be used are left out, with a warning; True: they are refused.

    Returns:
        ``ImageDataset``, ``RenderedDigits``, or ``spec`` itself.

    Warns:
        UserWarning: what is left out, widened or scaled; see :func:`load_image_folder`.

    Raises:
        DataError: an unknown name, a path that is missing or holds no usable data.
        MissingSplitError: a DataError too; the split is not there.
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
    read_colour(background)  # a mistake in it, whatever the data is
    if spec == "digits":
        return _open_digits(split, image_size, channels, seed)
    fit = (image_size, channels, background)
    if spec == "mnist":
        root = cache_root() / "mnist"
        return load_idx_folder(find_mnist(root) or download_mnist(root), split).fitted(*fit)
    path = data_path(spec)
    try:
        if path.is_dir():
            return _open_folder(path, split, fit, need_labels)
        missing = not path.exists()
    except OSError as error:
        raise DataError(f"cannot read {printable(error.filename or path)}: {error.strerror}") from None
    if missing:
        raise DataError(
            f"data {str(spec)!r} is neither a name ({', '.join(NAMES)}) nor a folder or file that exists"
            + nearest(str(spec), NAMES)
        )
    check_regular(path)
    subset = idx_set_of(path)
    if subset is not None:
        return load_idx_folder(path.parent, split, subset=subset, need_labels=need_labels).fitted(*fit)
    if path.suffix.lower() not in (".npz", ".npy"):
        raise DataError(
            f"data {str(spec)!r} is a file of unknown kind, a .npz or .npy file, an IDX file of images or a folder is "
            "needed"
        )
    return load_array_file(path, split, need_labels=need_labels).fitted(*fit)


_Fit = tuple[int | Sequence[int] | None, int | None, str | Sequence[int] | None]


def _open_folder(path: Path, split: Literal["train", "test"], fit: _Fit, need_labels: bool) -> ImageDataset:
    if find_idx_sets(path, split):
        return load_idx_folder(path, split, need_labels=need_labels).fitted(*fit)
    splits = find_splits(path, split)
    if split in splits:
        return _open_images(splits.pop(split), list(splits.values()), fit)
    other: Literal["train", "test"] = "test" if split == "train" else "train"
    if splits or find_idx_sets(path, other) or (split == "test" and has_images(path)):
        instead = f" or use split={other!r}" if other in splits or not splits else ""
        raise MissingSplitError(f"{printable(path)} has no {split} split, add a subfolder {split!r}{instead}")
    return _open_images(path, [], fit)


def _open_images(folder: Path, avoid: Sequence[Path], fit: _Fit) -> ImageDataset:
    listing = list_images(folder, avoid)
    if not listing.files and not avoid:
        raise DataError(
            f"the folder {printable(folder)} holds neither IDX files (train-images-idx3-ubyte or .gz) nor images"
        )
    return load_listing(listing, *fit)


def _open_digits(split: str, image_size: int | Sequence[int] | None, channels: int | None, seed: int) -> RenderedDigits:
    height, width = check_image_size(28 if image_size is None else image_size)
    if height != width:
        raise DataError(f"digits are square, image_size={image_size!r} came")
    length, first = (60_000, 0) if split == "train" else (10_000, _TEST_DIGITS)
    return RenderedDigits(seed, length, height, 1 if channels is None else channels, first_index=first)
