"""Images by index: each is decoded when it is asked for.

A source knows how many images there are and reads one by its number; a folder, archives and a Hugging Face dataset are
sources. :func:`open_source` decides whether its images are held in memory or read lazily. Either way an image is the
same bits, and so is a training.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm  # type: ignore[import-untyped]

from sdgan_ext._errors import DataError
from sdgan_ext.data.captions import TEMPLATE, Captions, as_items, class_captions
from sdgan_ext.data.decode import Decoded, Header, read_header, read_image
from sdgan_ext.data.frame import Frame
from sdgan_ext.data.images import OVER_WHITE, ImageDataset, convert_channels
from sdgan_ext.data.index import Headers, Index
from sdgan_ext.data.sources import available_memory, check_memory
from sdgan_ext.data.spans import ChangedError
from sdgan_ext.data.values import to_float

__all__ = ["CACHES", "FileSource", "LazyImages", "Options", "Source", "fit_held", "open_source"]

CACHES = ("auto", "memory", "none")
_MOST_HELD = 1_000_000_000  # decoded bytes of images that "auto" holds, at most: seconds of decoding
_SHARE_HELD = 1 / 4  # of the memory that is available


class Source(Protocol):
    """Images by index, as they are in their files.

    Attributes:
        name: of the dataset, for run folders; what is not printable is escaped.
        shown: what messages call the whole of it.
        labels: int64 [N], or None.
        num_classes: None without classes.
        captions: the texts that the labels are the numbers of, or None.
        index: of the files, or None.
    """

    name: str
    shown: str
    labels: np.ndarray | None
    num_classes: int | None
    captions: Captions | None

    @property
    def index(self) -> Index | None: ...

    def __len__(self) -> int: ...

    def entry(self, index: int) -> str:
        """What messages call the image."""

    def header(self, index: int) -> Header: ...

    def decode(self, index: int) -> Decoded: ...


class FileSource:
    """A :class:`Source` of the images of an :class:`~sdgan_ext.data.index.Index`.

    Args:
        template: of the captions where the index has names of classes alone.
    """

    def __init__(self, index: Index, name: str, shown: str, template: str = TEMPLATE):
        self.index, self.name, self.shown = index, name, shown
        self.labels, self.num_classes = index.labels, index.num_classes
        self.captions: Captions | None = index.texts
        if index.texts is not None and index.num_classes is not None:
            self.captions = class_captions(template, list(index.texts))

    def __len__(self) -> int:
        return len(self.index.spans)

    def entry(self, index: int) -> str:
        return self.index.spans.entry(index)

    def header(self, index: int) -> Header:
        with self.index.spans.open(index, header=True) as file:
            return read_header(file, self.entry(index))

    def decode(self, index: int) -> Decoded:
        with self.index.spans.open(index) as file:
            return read_image(file, self.entry(index))


class LazyImages(Dataset[tuple[Tensor, int | str]]):
    """Images of one size that are decoded as they are asked for; the interface of ``ImageDataset`` but for ``images``.

    An image that cannot be read is an error, or, where ``max_bad`` allows, the next one that can stands in its place:
    the same for any number of workers and after a resume. Each is warned about once, with its name.

    Args:
        source: the images, or those that are held, uint8 [C, H, W], brought to scale by ``frame``.
        frame: of a known channel count.
        image_size: (H, W).
        labels, num_classes, name, captions: as of ``ImageDataset``.
        max_bad: how many images may be unreadable.

    Attributes:
        labels: int64 [N] or None.
        image_size: (H, W).
        channels: 1, 3 or 4.
        num_classes: int, or None without classes.
        name: str.
        captions: the texts that the labels are the numbers of, or None.
        index: what is known of the files, or None.
        bad: why images cannot be read, by their numbers; as far as this process has met them.
    """

    def __init__(
        self,
        source: Source | Sequence[Tensor],
        frame: Frame,
        image_size: tuple[int, int],
        *,
        labels: np.ndarray | Tensor | None = None,
        num_classes: int | None = None,
        name: str = "images",
        max_bad: int = 0,
        captions: Captions | None = None,
    ):
        assert frame.channels is not None
        self.source, self.frame, self.max_bad, self.name = source, frame, max_bad, name
        self.image_size, self.channels, self.num_classes = image_size, frame.channels, num_classes
        self.labels = None if labels is None else torch.as_tensor(labels)
        self.captions = captions
        self.index: Index | None = getattr(source, "index", None)
        self.bad: dict[int, str] = {}

    @property
    def held(self) -> bool:
        """Whether the images are in memory, in more than the part that a crop takes."""
        return isinstance(self.source, Sequence)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int | str]:
        """(float32 [C, H, W] in [-1, 1], caption or label), the label -1 when there are none."""
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int | str]]:
        """The items of ``indices`` in one go: what torch's DataLoader asks for when it can."""
        return as_items(*self.batch(torch.as_tensor(indices, dtype=torch.int64)), self.captions)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B] -> (float32 [B, C, H, W] in [-1, 1], int64 [B]), the labels -1 when there are none.

        Raises:
            DataError: an image cannot be read, or more of them than ``max_bad``.
        """
        images, labels, bad = self.read(indices)
        self.note(bad)
        return images, labels

    def read(self, indices: Tensor, places: Tensor | None = None) -> tuple[Tensor, Tensor, dict[int, str]]:
        """The same for a worker, and what was unreadable: :meth:`note` takes that, in the process that counts.

        Args:
            places: [B, 2] in [0, 1), where each image is cropped; None: in the middle.
        """
        bad: dict[int, str] = {}
        images, taken = [], []
        for row, index in enumerate(indices.tolist()):
            image, used = _whole(self._scaled, index, len(self), self.max_bad, bad, self.name)
            image = self.frame.crop(image, None if places is None else places[row].tolist())
            if image.shape[1:] != self.image_size:
                raise DataError(
                    f"{self._entry(used)} is {_size(image)}, the others are {_size(self.image_size)}: images must have "
                    "one size, or give --image-size (image_size=) to crop and resize them"
                )
            images.append(image)
            taken.append(used)
        labels = torch.full((len(taken),), -1) if self.labels is None else self.labels[taken]
        return to_float(torch.stack(images)), labels, bad

    def note(self, bad: Mapping[int, str]) -> None:
        """Counts unreadable images, and warns of those that are new.

        Raises:
            DataError: there are more than ``max_bad``.
        """
        for index, reason in bad.items():
            if index not in self.bad:
                self.bad[index] = reason
                check_bad(self.bad, self.max_bad, self.name)
                count = f"{len(self.bad):,} of at most {self.max_bad:,}"
                warnings.warn(f"{reason}; the next image stands in its place ({count})", stacklevel=3)

    def _scaled(self, index: int) -> Tensor:
        if isinstance(self.source, Sequence):
            image: Tensor = self.source[index]
            return image
        return self.frame.scale(self.source.decode(index).image, self._entry(index))

    def _entry(self, index: int) -> str:
        return f"{self.name}'s image {index}" if isinstance(self.source, Sequence) else self.source.entry(index)

    def __repr__(self) -> str:
        height, width = self.image_size
        classes = "no labels" if self.num_classes is None else f"{self.num_classes} classes"
        how = "in memory" if self.held else "decoded as they are asked for"
        return f"LazyImages({self.name!r}, {len(self):,} images {self.channels}x{height}x{width}, {classes}, {how})"


class Options(NamedTuple):
    """How a source is opened.

    Attributes:
        frame: of the images; its channels may be None: the most that any image has.
        background: what was given for it, or None.
        cache: of :data:`CACHES`.
        max_bad: how many images may be unreadable.
    """

    frame: Frame
    background: Any = None
    cache: str = "auto"
    max_bad: int = 0


def open_source(source: Source, options: Options) -> ImageDataset | LazyImages:
    """The images of ``source``: in memory or lazily.

    Warns:
        UserWarning: that they are read lazily, and why; what a user may not expect of them.

    Raises:
        DataError: an image is unreadable beyond ``max_bad``, they have several sizes and ``frame`` none, or the memory
            cannot hold them.
    """
    if options.cache == "memory":
        return _hold(source, options)
    if options.cache == "none":
        return _index(source, options)
    need = _decoded_size(source, options)
    limit = min(_MOST_HELD, int(available_memory() * _SHARE_HELD))
    if need <= limit:
        return _hold(source, options)
    warnings.warn(
        f"{source.shown}: {len(source):,} images take {need / 1e9:.1f} GB decoded, more than the {limit / 1e9:.1f} GB "
        f"that are held (a quarter of the free memory, at most {_MOST_HELD / 1e9:.0f} GB): each is decoded when it is "
        "its turn; --workers 2 reads ahead, --cache memory holds them all",
        stacklevel=4,
    )
    return _index(source, options)


def fit_held(dataset: ImageDataset, frame: Frame, background: Any = None) -> ImageDataset | LazyImages:
    """Images that are in memory anyway, at another size; ready for crops where ``frame.random`` says so."""
    if frame.size is None or (frame.resize is None and not frame.random):
        return dataset.fitted(frame.size, frame.channels, background)
    if dataset.channels == 4 and frame.channels in (1, 3) and background is None:
        warnings.warn(f"{dataset.name}: {OVER_WHITE}", stacklevel=2)
    channels = frame.channels or dataset.channels
    entry = dataset.name + "'s image {}"
    images = [frame.scale(image, entry.format(index)) for index, image in enumerate(dataset.images)]
    labels, classes = dataset.labels, dataset.num_classes
    names: dict[str, Any] = {"name": dataset.name, "captions": dataset.captions}
    if frame.random:
        held = frame._replace(channels=channels)
        return LazyImages(images, held, frame.size, labels=labels, num_classes=classes, **names)
    stacked = torch.stack([frame.crop(image) for image in images])
    return ImageDataset(stacked, labels, num_classes=classes, **names)


def check_bad(bad: Mapping[int, str], most: int, name: str) -> None:
    if len(bad) > most:
        last = list(bad.values())[-1]
        if most == 0:
            raise DataError(last)
        raise DataError(f"{name}: {len(bad):,} images cannot be read, --max-bad (max_bad=) allows {most:,}; {last}")


def _whole(
    read: Callable[[int], Any], index: int, count: int, max_bad: int, bad: dict[int, str], name: str
) -> tuple[Any, int]:
    """The image ``index``, or the next one that can be read, and its number; why others cannot is added to ``bad``."""
    for step in range(count):
        number = (index + step) % count
        if number in bad:
            continue
        try:
            return read(number), number
        except ChangedError:
            raise
        except DataError as error:
            bad[number] = str(error)
            check_bad(bad, max_bad, name)
    raise DataError(f"{name}: none of its {count:,} images can be read")


def _decoded_size(source: Source, options: Options) -> int:
    """Bytes of all images, as large as the first one is: in its file or once it is scaled, whichever is more."""
    first, _ = _whole(source.header, 0, len(source), options.max_bad, {}, source.shown)
    frame, scaled = options.frame, options.frame.scaled_size(first.height, first.width)
    pixels = max(first.height * first.width, math.prod(scaled if frame.random else frame.size or scaled))
    return len(source) * pixels * (frame.channels or first.channels)


def _hold(source: Source, options: Options) -> ImageDataset | LazyImages:
    frame, count = options.frame, len(source)
    facts = _Facts(source)
    scaled: dict[int, Tensor] = {}
    bad: dict[int, str] = {}

    def read(index: int) -> Tensor:
        if index not in scaled:
            decoded = source.decode(index)
            image = frame.scale(decoded.image, source.entry(index))
            scaled[index] = image if frame.random else frame.crop(image)
            facts.add(index, decoded.header)
        return scaled[index]

    numbers: list[int] = []
    for index in range(count):
        image, number = _whole(read, index, count, options.max_bad, bad, source.shown)
        if not numbers:  # all of them, and the tensor of all
            first = image.shape[1:]
            check_memory(f"{source.shown}: {count:,} images of {_size(image)}", 2 * count * image.numel())
        _check_same(source, number, image.shape[1:], first, frame)
        numbers.append(number)
    for reason in bad.values():
        warnings.warn(f"{reason}; the next image stands in its place", stacklevel=5)
    facts.report(frame.channels, options.background)
    channels = frame.channels or max(facts.channels)
    labels = None if source.labels is None else source.labels[numbers]
    images = [convert_channels(scaled[number], channels) for number in numbers]
    names: dict[str, Any] = {"name": source.name, "captions": source.captions}
    if not frame.random:
        return ImageDataset(torch.stack(images), labels, num_classes=source.num_classes, **names)
    assert frame.size is not None
    options = options._replace(frame=frame._replace(channels=channels))
    return LazyImages(images, options.frame, frame.size, labels=labels, num_classes=source.num_classes, **names)


def _index(source: Source, options: Options) -> LazyImages:
    """The images read lazily, once every header has been looked at."""
    headers = None if source.index is None else source.index.headers
    bad: dict[int, str] = {}
    if headers is None:
        headers = _read_headers(source, options.max_bad, bad)
        if source.index is not None:
            source.index.headers = headers
    facts, frame = _Facts(source), options.frame
    first: tuple[int, int] | None = None
    for index, header in enumerate(headers):
        if header is None:
            bad.setdefault(index, f"cannot read the image {source.entry(index)}")
            check_bad(bad, options.max_bad, source.shown)
            continue
        facts.add(index, header)
        size = frame.scaled_size(header.height, header.width)
        if first is None:
            first = size
        _check_same(source, index, size, first, frame)
        if frame.resize is not None:
            try:
                frame.check_size(*size, source.entry(index))
            except DataError as error:
                bad[index] = str(error)
                check_bad(bad, options.max_bad, source.shown)
    if first is None:
        raise DataError(f"{source.shown}: none of its {len(source):,} images can be read")
    facts.report(frame.channels, options.background)
    dataset = LazyImages(
        source,
        frame._replace(channels=frame.channels or max(facts.channels)),
        frame.size or first,
        labels=source.labels,
        num_classes=source.num_classes,
        name=source.name,
        captions=source.captions,
        max_bad=options.max_bad,
    )
    dataset.note(bad)
    return dataset


def _read_headers(source: Source, max_bad: int, bad: dict[int, str]) -> Headers:
    bar = tqdm(
        total=len(source), desc="reading headers", unit=" images", delay=2, leave=False, disable=not sys.stderr.isatty()
    )

    def header(index: int) -> Header | None:
        bar.update()
        try:
            return source.header(index)
        except ChangedError:
            raise
        except DataError as error:
            bad[index] = str(error)
            check_bad(bad, max_bad, source.shown)
            return None

    with bar:
        return Headers.read(len(source), header)


def _check_same(source: Source, index: int, size: Sequence[int], first: Sequence[int], frame: Frame) -> None:
    if frame.size is None and tuple(size) != tuple(first):
        raise DataError(
            f"{source.entry(index)} is {_size(size)}, {os.path.basename(source.entry(0))} is {_size(first)}: "
            "images must have one size, or give --image-size (image_size=) to crop and resize them"
        )


class _Facts:
    """What a user may not expect of the images, a line for each."""

    def __init__(self, source: Source):
        self.source = source
        self.channels: Counter[int] = Counter()
        self.first: dict[int | str, int] = {}  # the image that has so many channels, or what is counted
        self.counts: Counter[str] = Counter()

    def add(self, index: int, header: Header) -> None:
        self.channels[header.channels] += 1
        self.first.setdefault(header.channels, index)
        for fact in ("sixteen_bits", "frames"):
            if getattr(header, fact):
                self.counts[fact] += 1
                self.first.setdefault(fact, index)

    def report(self, channels: int | None, background: object) -> None:
        most, alphas = max(self.channels), self.channels[4]
        fewer = sum(self.channels.values()) - self.channels[most]
        if channels is None and fewer:
            self._warn(
                f"the images have {most} channels for {self._name(most)} has them, {fewer:,} have fewer; --channels "
                "(channels=) decides otherwise"
            )
        if channels in (1, 3) and alphas and background is None:
            self._warn(f"of {alphas:,} images ({self._name(4)}) {OVER_WHITE}")
        if count := self.counts["sixteen_bits"]:
            self._warn(
                f"{count:,} images of 16 bits a channel ({self._name('sixteen_bits')}) are scaled to 8, 65,535 to 255"
            )
        if count := self.counts["frames"]:
            self._warn(f"{count:,} files of several frames ({self._name('frames')}), the first of each is read")

    def _name(self, fact: int | str) -> str:
        return os.path.basename(self.source.entry(self.first[fact]))

    def _warn(self, fact: str) -> None:
        warnings.warn(f"{self.source.shown}: {fact}", stacklevel=6)


def _size(image: Tensor | Sequence[int]) -> str:
    height, width = (image.shape[1:] if isinstance(image, Tensor) else image)[-2:]
    return f"{width}x{height}"
