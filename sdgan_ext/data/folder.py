"""A folder of image files."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdgan_ext._errors import DataError, printable
from sdgan_ext.data.decode import Decoded, read_image
from sdgan_ext.data.images import (
    CHANNELS,
    OVER_WHITE,
    ImageDataset,
    check_image_size,
    convert_channels,
    fit_images,
    read_colour,
)
from sdgan_ext.data.sources import check_memory
from sdgan_ext.data.splits import check_no_splits
from sdgan_ext.data.walk import EXTENSIONS, Listing, list_images

__all__ = ["load_image_folder", "load_listing"]


def load_image_folder(
    folder: str | Path,
    image_size: int | Sequence[int] | None = None,
    channels: int | None = None,
    background: str | Sequence[int] | None = None,
) -> ImageDataset:
    """Every image below ``folder``, in the order of the sorted paths, with class folders as labels.

    Images directly in the folder have no labels. Images in subfolders, at any depth, are labelled by the number of
    the first-level subfolder in sorted order. Links are followed, each file counts once, under its real folder. Hidden
    files and folders, what is no image by name or content, and what is no regular file are left out. A photo's EXIF
    orientation is applied; an animation gives its first frame; 16 bits a channel are scaled to 8. Training and test
    folders side by side are refused: :func:`sdgan_ext.data.open_dataset` takes one of them.

    Args:
        folder: where the images are.
        image_size: side or (height, width): every image is centre-cropped to this aspect and resized (bicubic,
            antialiased). None: all images must have one size already.
        channels: 1, 3 or 4. None: the most that any of the images has, so grey among colour becomes colour.
        background: what alpha is put over where ``channels`` has none: a colour's name, "#rrggbb" or (red, green,
            blue); None is white.

    Returns:
        ImageDataset of uint8 [N, C, H, W].

    Warns:
        UserWarning: what was left out and why; what the channels became, and because of which file; that alpha was put
        over white; that 16 bits were scaled, or frames left out.

    Raises:
        DataError: a missing or empty folder, an unreadable image (named), one of more pixels than Pillow's limit,
            mixed sizes without ``image_size`` (the first that differs is named), images both in the folder and in its
            subfolders, more than the memory holds.
    """
    folder = Path(folder)
    if not folder.exists():
        raise DataError(f"the folder {printable(folder)} does not exist")
    if not folder.is_dir():
        raise DataError(f"{printable(folder)} is a file, a folder of images is needed")
    return load_listing(list_images(folder), image_size, channels, background)


def load_listing(
    listing: Listing,
    image_size: int | Sequence[int] | None,
    channels: int | None,
    background: str | Sequence[int] | None,
) -> ImageDataset:
    """The images of ``listing``; see :func:`load_image_folder`."""
    if channels not in (None, *CHANNELS):
        raise DataError(f"channels must be 1 (grey), 3 (RGB) or 4 (RGBA), {channels!r} came")
    size = None if image_size is None else check_image_size(image_size)
    colour = read_colour(background)
    if left_out := listing.describe_left_out():
        warnings.warn(left_out, stacklevel=3)
    check_no_splits(listing.folder, listing.files)
    labels, num_classes = _classes(listing)
    images: list[Tensor] = []
    facts = _Facts(listing.folder)
    for file in listing.files:
        decoded = read_image(file)
        facts.add(file, decoded)
        image = fit_images(decoded.image[None], size, channels, colour)[0]
        if images and image.shape[1:] != images[0].shape[1:]:
            raise DataError(
                f"{printable(file)} is {_size(image)}, {printable(listing.files[0].name)} is {_size(images[0])}: "
                "images must have one size, or give --image-size (image_size=) to crop and resize them"
            )
        if not images:  # all of them, and the tensor of all
            what = f"{printable(listing.folder)}: {len(listing.files):,} images of {_size(image)}"
            check_memory(what, 2 * len(listing.files) * image.numel())
        images.append(image)
    facts.report(channels, background)
    channels = channels or max(facts.channels)
    stacked = torch.stack([convert_channels(image, channels) for image in images])
    return ImageDataset(stacked, labels, num_classes=num_classes, name=listing.folder.resolve().name)


class _Facts:
    """What a user may not expect of the images, a line for each."""

    def __init__(self, folder: Path):
        self.name = printable(folder)
        self.channels: Counter[int] = Counter()
        self.first: dict[int | str, str] = {}  # the file that has so many channels, or what is counted
        self.counts: Counter[str] = Counter()

    def add(self, file: Path, decoded: Decoded) -> None:
        self.channels[len(decoded.image)] += 1
        self.first.setdefault(len(decoded.image), printable(file.name))
        for fact in ("sixteen_bits", "frames"):
            if getattr(decoded, fact):
                self.counts[fact] += 1
                self.first.setdefault(fact, printable(file.name))

    def report(self, channels: int | None, background: object) -> None:
        most, alphas = max(self.channels), self.channels[4]
        fewer = sum(self.channels.values()) - self.channels[most]
        if channels is None and fewer:
            self._warn(
                f"the images have {most} channels for {self.first[most]} has them, {fewer:,} have fewer; --channels "
                "(channels=) decides otherwise"
            )
        if channels in (1, 3) and alphas and background is None:
            self._warn(f"of {alphas:,} images ({self.first[4]}) {OVER_WHITE}")
        if count := self.counts["sixteen_bits"]:
            self._warn(
                f"{count:,} images of 16 bits a channel ({self.first['sixteen_bits']}) are scaled to 8, 65,535 to 255"
            )
        if count := self.counts["frames"]:
            self._warn(f"{count:,} files of several frames ({self.first['frames']}), the first of each is read")

    def _warn(self, fact: str) -> None:
        warnings.warn(f"{self.name}: {fact}", stacklevel=4)


def _classes(listing: Listing) -> tuple[list[int] | None, int | None]:
    """The labels and the number of classes."""
    folder, files = listing.folder, listing.files
    if not files:
        raise DataError(
            f"the folder {printable(folder)} holds no images, files that end in {', '.join(EXTENSIONS)} count, or "
            "whose content is an image"
        )
    flat = [file for file in files if file.parent == folder]
    if len(flat) == len(files):
        return None, None
    if flat:
        nested = next(file for file in files if file.parent != folder)
        raise DataError(
            f"{printable(folder)} holds images itself ({printable(flat[0].name)}) and in subfolders "
            f"({printable(nested.relative_to(folder))}): put all of them in class folders or none"
        )
    names = [file.relative_to(folder).parts[0] for file in files]
    passed = {path for paths in listing.left_out.values() for path in paths}  # hidden, or read under another name
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry not in passed)
    empty = sorted(set(classes) - set(names))
    if empty:
        raise DataError(f"the class folder {printable(folder / empty[0])} holds no images, remove it or fill it")
    return [classes.index(name) for name in names], len(classes)


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"
