"""Images to train on: files, folders, arrays, rendered digits, MNIST, any torch Dataset.

Every float image lies in ``VALUE_RANGE`` = [-1, 1]; bytes become floats and back in ``values`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, overload

from torch.utils.data import Dataset

from sdgan_ext._errors import DataError, MissingSplitError, nearest, printable
from sdgan_ext.data.archives import SUFFIXES, expand_braces, holds_shards, shards_of
from sdgan_ext.data.arrays import load_array_file
from sdgan_ext.data.captions import TEMPLATE, Captions, captions_of, check_template, class_captions
from sdgan_ext.data.digits import RenderedDigits
from sdgan_ext.data.download import DEFAULT_MIRRORS, cache_root, download_mnist
from sdgan_ext.data.folder import listed_source, load_image_folder, shard_source
from sdgan_ext.data.frame import make_frame
from sdgan_ext.data.hugging import hugging_source, is_hugging, is_hugging_folder, load_hugging_folder
from sdgan_ext.data.idx import find_idx_sets, find_mnist, idx_set_of, load_idx_folder, read_idx, write_idx
from sdgan_ext.data.images import ImageDataset, fit_images
from sdgan_ext.data.lazy import CACHES, LazyImages, Options, Source, fit_held, open_source
from sdgan_ext.data.loader import batches
from sdgan_ext.data.named import DIGIT_NAMES, NAMES, OF_DIGITS, open_rendered, read_name, resolve_name
from sdgan_ext.data.part import Part, hold_out
from sdgan_ext.data.protocols import MapDataset
from sdgan_ext.data.scenes import DigitScenes
from sdgan_ext.data.sources import check_regular, data_path
from sdgan_ext.data.splits import find_splits
from sdgan_ext.data.values import VALUE_RANGE, to_float, to_uint8
from sdgan_ext.data.walk import has_images, list_images

__all__ = [
    "DEFAULT_MIRRORS",
    "NAMES",
    "OF_DIGITS",
    "TEMPLATE",
    "VALUE_RANGE",
    "Captions",
    "DigitScenes",
    "ImageDataset",
    "LazyImages",
    "MapDataset",
    "Opened",
    "Part",
    "RenderedDigits",
    "batches",
    "cache_root",
    "captions_of",
    "download_mnist",
    "find_mnist",
    "fit_images",
    "hold_out",
    "load_array_file",
    "load_idx_folder",
    "load_image_folder",
    "open_dataset",
    "read_idx",
    "resolve_name",
    "to_float",
    "to_uint8",
    "write_idx",
]

Opened: TypeAlias = ImageDataset | LazyImages | RenderedDigits | DigitScenes
"""What a name, a folder or a file is opened as."""

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
    resize: int | None = None,
    crop: str = "centre",
    cache: str = "auto",
    max_bad: int = 0,
    index_file: Path | None = None,
    captions: str | None = None,
) -> Opened: ...


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
    resize: int | None = None,
    crop: str = "centre",
    cache: str = "auto",
    max_bad: int = 0,
    index_file: Path | None = None,
    captions: str | None = None,
) -> _Given: ...


def open_dataset(
    spec: str | Path | Dataset[Any] | Any,
    *,
    split: Literal["train", "test"] = "train",
    image_size: int | Sequence[int] | None = None,
    channels: int | None = None,
    seed: int = 0,
    background: str | Sequence[int] | None = None,
    need_labels: bool = True,
    resize: int | None = None,
    crop: str = "centre",
    cache: str = "auto",
    max_bad: int = 0,
    index_file: Path | None = None,
    captions: str | None = None,
) -> Dataset[Any]:
    """What ``--data`` names, as a dataset.

    Args:
        spec: ``"mnist"``: from ``mnist`` in :func:`cache_root`, downloaded if absent. ``"digits"``: rendered ones,
            60,000 to train and 10,000 others to test. ``"digits-scenes"``, ``"emoji"``: images with captions; a name
            may have options, as in ``"digits-scenes:size=64,languages=en+zh"``. A folder of IDX files or of images, or
            one of several sets of IDX files by its image file; where its subfolders are named train, test, validation
            or alike, in any letter case, the one that ``split`` names is meant. A ``.npz`` or ``.npy`` file. A
            ``.zip`` or ``.tar`` archive of images, a folder of ``.tar`` shards or a name of theirs with
            ``{00000..00012}`` in it. A Hugging Face ``Dataset`` or ``DatasetDict``, or the folder that its
            ``save_to_disk`` wrote. A torch Dataset comes back as it is.
        split: "train" or "test".
        image_size: side or (height, width) to crop and resize to; None leaves the size.
        channels: 1, 3 or 4 to convert to; None leaves them.
        seed: of the rendered digits.
        background: what alpha is put over where ``channels`` has none: a colour's name, "#rrggbb" or (red, green,
            blue); None is white.
        need_labels: False: labels that cannot be used are left out, with a warning; True: they are refused.
        resize: what the shorter side is resized to before ``image_size`` is cropped out of it; 0: nothing is resized;
            None: as far as ``image_size`` needs.
        crop: "centre", or "random": what is kept of an image is larger than ``image_size``, so that
            :func:`batches` with ``random_crop`` takes parts from anywhere in it; whatever else reads it takes the
            centre.
        cache: "memory": all images are decoded at once and held; "none": each is decoded when it is asked for; "auto":
            held where they take less than a quarter of the available memory and 1 GB decoded, both as they are and at
            ``image_size``. The bits are the same. Arrays and IDX files are held.
        max_bad: how many images of files may be unreadable; in the place of each stands the next one that can be read.
        index_file: an index of the files, of :attr:`LazyImages.index`; it is used where the files are still the same.
        captions: items are (image, caption): the captions are those of ``metadata.jsonl`` or ``.txt`` files beside the
            images, or this, such as "a photo of a {class}", with the names of the classes. None: items have labels.
            Scenes and emoji have captions in any case.

    Returns:
        ``ImageDataset``, ``LazyImages``, ``RenderedDigits``, ``DigitScenes``, or ``spec`` itself.

    Warns:
        UserWarning: what is left out, widened or scaled; see :func:`load_image_folder`.

    Raises:
        DataError: an unknown name, a path that is missing or holds no usable data.
        MissingSplitError: a DataError too; the split is not there.
    """
    if isinstance(spec, Dataset):
        return spec
    hugging = is_hugging(spec)
    if not isinstance(spec, (str, Path)) and not hugging:
        raise DataError(
            f"data must be a name ({', '.join(NAMES)}), a folder, an archive, a .npz or .npy file, a torch or a "
            f"Hugging Face Dataset, a {type(spec).__name__} came"
        )
    if split not in ("train", "test"):
        raise DataError(f"split must be 'train' or 'test', {split!r} came")
    if cache not in CACHES:
        raise DataError(f"cache must be one of {', '.join(map(repr, CACHES))}, {cache!r} came")
    frame = make_frame(image_size, channels, background, resize, crop)
    options = Options(frame, background, cache, max_bad)
    if captions is not None:
        check_template(captions)
    if hugging:
        return open_source(hugging_source(spec, split, template=captions), options)
    named = read_name(spec)
    if named is not None and named.name != "mnist":
        if resize is not None or frame.random:
            raise DataError(
                f"{named.name} are rendered at their image_size: there is nothing to resize or to crop at random"
            )
        return open_rendered(named, split, image_size, channels, seed, background, captions)
    if named is not None:
        root = cache_root() / "mnist"
        found: ImageDataset | Source = load_idx_folder(find_mnist(root) or download_mnist(root), split)
    else:
        found = find_images(spec, split, need_labels, index_file, captions)
    if not isinstance(found, ImageDataset):
        return open_source(found, options)
    if captions is not None:
        if found.num_classes is None:
            raise DataError(f"{found.name} has neither captions nor labels")
        names = DIGIT_NAMES if named else [str(number) for number in range(found.num_classes)]
        found.captions = class_captions(captions, names)
    return fit_held(found, frame, background)


_Split = Literal["train", "test"]


def find_images(
    spec: str | Path,
    split: _Split = "train",
    need_labels: bool = True,
    index_file: Path | None = None,
    captions: str | None = None,
) -> ImageDataset | Source:
    """What a folder or a file holds, as it is: arrays, or images that are not decoded yet; see :func:`open_dataset`."""
    path = data_path(spec)
    try:
        if path.is_dir():
            return _open_folder(path, split, need_labels, index_file, captions)
        return _open_file(path, str(spec), split, need_labels, index_file, captions)
    except OSError as error:
        raise DataError(f"cannot read {printable(error.filename or path)}: {error.strerror}") from None


def _open_file(
    path: Path, spec: str, split: _Split, need_labels: bool, index_file: Path | None, captions: str | None
) -> ImageDataset | Source:
    shards = expand_braces(path)
    if not path.exists() and len(shards) == 1:
        raise DataError(
            f"data {spec!r} is neither a name ({', '.join(NAMES)}) nor a folder or file that exists"
            + nearest(spec, NAMES)
        )
    if path.suffix.lower() in SUFFIXES:
        return shard_source(shards if not path.exists() else [path], path, split, need_labels, index_file, captions)
    check_regular(path)
    subset = idx_set_of(path)
    if subset is not None:
        return load_idx_folder(path.parent, split, subset=subset, need_labels=need_labels)
    if path.suffix.lower() not in (".npz", ".npy"):
        raise DataError(
            f"data {spec!r} is a file of unknown kind, a .npz or .npy file, an IDX file of images, a .zip or .tar "
            "archive of images or a folder is needed"
        )
    return load_array_file(path, split, need_labels=need_labels)


def _open_folder(
    path: Path, split: _Split, need_labels: bool, index_file: Path | None, captions: str | None
) -> ImageDataset | Source:
    if find_idx_sets(path, split):
        return load_idx_folder(path, split, need_labels=need_labels)
    if is_hugging_folder(path):
        return load_hugging_folder(path, split, captions)
    splits = find_splits(path, split)
    if split in splits:
        return _find_images(splits.pop(split), list(splits.values()), "train", need_labels, index_file, captions)
    if not splits and holds_shards(path):
        return _find_images(path, [], split, need_labels, index_file, captions)
    other: _Split = "test" if split == "train" else "train"
    if splits or find_idx_sets(path, other) or (split == "test" and has_images(path)):
        instead = f" or use split={other!r}" if other in splits or not splits else ""
        raise MissingSplitError(f"{printable(path)} has no {split} split, add a subfolder {split!r}{instead}")
    return _find_images(path, [], split, need_labels, index_file, captions)


def _find_images(
    folder: Path,
    avoid: Sequence[Path],
    split: _Split,
    need_labels: bool,
    index_file: Path | None,
    captions: str | None,
) -> Source:
    """The images in the files of ``folder`` or, where there are none, in its shards."""
    if holds_shards(folder):
        shards, inner = shards_of(folder, split)
        return shard_source(shards, folder, inner, need_labels, index_file, captions)
    listing = list_images(folder, avoid)
    if not listing.files and not avoid:
        raise DataError(
            f"the folder {printable(folder)} holds neither IDX files (train-images-idx3-ubyte or .gz) nor images"
        )
    return listed_source(listing, split, index_file, captions)
