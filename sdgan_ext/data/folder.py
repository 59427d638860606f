"""A folder of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sdgan_ext._errors import DataError
from sdgan_ext.data.images import CHANNELS, ImageDataset, check_image_size, convert_channels, fit_images

__all__ = ["EXTENSIONS", "has_images", "load_image_folder"]

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""The files that count as images, in lower or upper case; others are passed over."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def load_image_folder(
    folder: str | Path, image_size: int | Sequence[int] | None = None, channels: int | None = None
) -> ImageDataset:
    """Every image below ``folder``, in the order of the sorted paths, with class folders as labels.

    Images directly in the folder have no labels. Images in subfolders, at any depth, are labelled by the number of
    the first-level subfolder in sorted order. Hidden files and folders are passed over. A photo's EXIF orientation
    is applied; an animation gives its first frame.

    Args:
        folder: where the images are.
        image_size: side or (height, width): every image is centre-cropped to this aspect and resized (bicubic,
            antialiased). None: all images must have one size already.
        channels: 1, 3 or 4. None: the most that any of the images has, so grey among colour becomes colour.

    Returns:
        ImageDataset of uint8 [N, C, H, W].

    Raises:
        DataError: a missing or empty folder, an unreadable image (named), mixed sizes without ``image_size`` (the
            first that differs is named), images both in the folder and in its subfolders.
    """
    folder = Path(folder)
    if channels not in (None, *CHANNELS):
        raise DataError(f"channels must be 1 (grey), 3 (RGB) or 4 (RGBA), {channels!r} came")
    size = None if image_size is None else check_image_size(image_size)
    files, labels, num_classes = _list(folder)
    images: list[Tensor] = []
    for file in files:
        image = _read(file)
        if size is not None:
            image = fit_images(image[None], size)[0]
        elif images and image.shape[1:] != images[0].shape[1:]:
            raise DataError(
                f"{file} is {_size(image)}, {files[0].name} is {_size(images[0])}: images must have one size, "
                "or give --image-size (image_size=) to crop and resize them"
            )
        images.append(image)
    channels = channels or max(len(image) for image in images)
    stacked = torch.stack([convert_channels(image, channels) for image in images])
    return ImageDataset(stacked, labels, num_classes=num_classes, name=folder.resolve().name)


def has_images(folder: str | Path) -> bool:
    """Whether an image file lies in ``folder`` or below it."""
    return next(_walk(Path(folder)), None) is not None


def _list(folder: Path) -> tuple[list[Path], list[int] | None, int | None]:
    """The files, their labels and the number of classes."""
    if not folder.exists():
        raise DataError(f"the folder {folder} does not exist")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file, a folder of images is needed")
    files = list(_walk(folder))
    if not files:
        raise DataError(f"the folder {folder} holds no images, files that end in {', '.join(EXTENSIONS)} count")
    flat = [file for file in files if file.parent == folder]
    if len(flat) == len(files):
        return files, None, None
    if flat:
        nested = next(file for file in files if file.parent != folder)
        raise DataError(
            f"{folder} holds images itself ({flat[0].name}) and in subfolders ({nested.relative_to(folder)}): "
            "put all of them in class folders or none"
        )
    names = [file.relative_to(folder).parts[0] for file in files]
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    empty = sorted(set(classes) - set(names))
    if empty:
        raise DataError(f"the class folder {folder / empty[0]} holds no images, remove it or fill it")
    return files, [classes.index(name) for name in names], len(classes)


def _walk(folder: Path) -> Iterator[Path]:
    """The image files below ``folder`` in sorted order, without hidden ones."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot list the folder {error.filename}: {error.strerror}") from None

    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS):
                yield Path(place) / name


def _read(file: Path) -> Tensor:
    """uint8 [C, H, W], C from the file."""
    try:
        with Image.open(file) as opened:
            mode = opened.mode
            if mode not in ("F", "I") and not mode.startswith("I;"):
                image = ImageOps.exif_transpose(opened)
                array = np.array(image.convert(_MODES[_natural_channels(image)]))
                return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).contiguous()
    except UnidentifiedImageError:
        raise DataError(f"cannot read the image {file}: it is damaged or of a format Pillow does not know") from None
    # Pillow's decoders raise almost anything on a damaged file: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot read the image {file}: {reason}") from None
    raise DataError(f"{file} has more than 8 bits a channel (Pillow mode {mode}), save it with 8")


def _natural_channels(image: Image.Image) -> int:
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return 1
    return 4 if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info else 3


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"
