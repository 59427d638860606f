"""A folder of image files, or archives of them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal

import numpy as np

from sdgan_ext._errors import DataError, MissingCaptionsError, printable
from sdgan_ext._errors import shown as shown_value
from sdgan_ext._files import open_regular
from sdgan_ext.data.archives import check_shards, clean, read_members
from sdgan_ext.data.captions import METADATA, TEMPLATE, find_captions
from sdgan_ext.data.frame import make_frame
from sdgan_ext.data.images import ImageDataset
from sdgan_ext.data.index import Index
from sdgan_ext.data.lazy import FileSource, Options, open_source
from sdgan_ext.data.sources import check_memory, check_regular
from sdgan_ext.data.spans import Member, Names, Spans, Stamp
from sdgan_ext.data.splits import check_no_splits, choose_split, split_of
from sdgan_ext.data.walk import EXTENSIONS, NO_IMAGE, Listing, begins_like_an_image, list_images, order_of

__all__ = ["listed_source", "load_image_folder", "shard_source"]

_Sample = tuple[int, PurePosixPath]  # WebDataset's key: the number of the shard, the name up to its first dot
_Classes = tuple[np.ndarray | None, int | None, list[str] | None]
_LONGEST_CLASS = 18  # digits


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
    frame = make_frame(image_size, channels, background)
    dataset = open_source(listed_source(list_images(folder)), Options(frame, background, cache="memory"))
    assert isinstance(dataset, ImageDataset)
    return dataset


def listed_source(
    listing: Listing, split: str = "train", index_file: Path | None = None, template: str | None = None
) -> FileSource:
    """The images of ``listing``, with class folders as labels.

    Args:
        split: which one of the folder's it is.
        index_file: where an index of them may be.
        template: captions are wanted: those of files beside the images, or this with the names of the classes.

    Warns:
        UserWarning: what was left out.
    """
    folder, files = listing.folder, listing.files
    captions = None if template is None else _captions_beside(listing)
    if left_out := listing.describe_left_out():
        warnings.warn(left_out, stacklevel=3)
    check_no_splits(folder, files)
    labels, num_classes, names = (None, None, None) if captions else _classes(listing)
    stamp = Stamp.of(folder, files)
    index = None if index_file is None else Index.load(index_file, split, stamp)
    index = index or Index(split, Spans(stamp), None, None)
    # Not those of an index that was loaded, which is checked against the images' files alone.
    index.labels, index.num_classes, index.texts = labels, num_classes, None
    if template is not None:
        _set_texts(index, captions, labels, names, printable(folder))
    return FileSource(index, printable(folder.resolve().name), printable(folder), template or TEMPLATE)


def _captions_beside(listing: Listing) -> list[str] | None:
    """The caption of each file, whose files then count as read."""
    rest = listing.left_out.get(NO_IMAGE, [])
    readers: dict[PurePath, Callable[[], bytes]] = {path: functools.partial(_read_file, path) for path in rest}
    found = find_captions(listing.files, readers, printable(listing.folder))
    if found is None:
        return None
    captions, used = found
    listing.left_out[NO_IMAGE] = [path for path in rest if path not in used]
    if not listing.left_out[NO_IMAGE]:
        del listing.left_out[NO_IMAGE]
    return captions


def _read_file(path: Path) -> bytes:
    check_memory(printable(path), path.stat().st_size)
    with open_regular(path) as file:
        return file.read()


def _set_texts(
    index: Index, captions: Sequence[str] | None, labels: np.ndarray | None, names: Sequence[str] | None, shown: str
) -> None:
    """Captions, or else classes with their names, into ``index``."""
    texts = names if captions is None else captions
    if texts is None:
        raise MissingCaptionsError(
            f"{shown} has no captions, neither {METADATA} nor .txt files beside the images nor class folders"
        )
    index.labels = np.arange(len(texts)) if captions is not None else labels
    index.num_classes = None if captions is not None else len(texts)
    index.texts = Names.of(texts)


def shard_source(
    paths: Sequence[Path],
    shown: Path,
    split: Literal["train", "test"] = "train",
    need_labels: bool = True,
    index_file: Path | None = None,
    template: str | None = None,
) -> FileSource:
    """The images in archives: in their order, in each sorted as those of a folder are.

    Folders in them are classes or splits as in a folder on the disk; one that holds all the rest is passed over. In tar
    archives a label may also stand in a file beside its image, ``0001.cls`` beside ``0001.jpg``, as WebDataset has it.

    Args:
        paths: the archives, at least one, of one folder.
        shown: what to call them together.
        split: which one of theirs is wanted.
        need_labels: False: ``.cls`` files that cannot be used are left out, with a warning; True: they are refused.
        index_file: where an index of them may be.
        template: captions are wanted; as of :func:`listed_source`.

    Warns:
        UserWarning: what was left out.

    Raises:
        DataError: an archive is missing, cut short or damaged, or holds no images or labels for some of them alone.
        MissingSplitError: a DataError too; the split is not there.
    """
    check_shards(paths)
    for path in paths:
        check_regular(path)
    stamp = Stamp.of(paths[0].parent, paths)
    index = None if index_file is None else Index.load(index_file, split, stamp)
    if index is None or (index.texts is None) != (template is None):
        index = _index_of_archives(paths, shown, split, need_labels, stamp, template is not None)
    return FileSource(index, printable(shown.resolve().name), printable(shown), template or TEMPLATE)


def _index_of_archives(
    paths: Sequence[Path],
    shown: Path,
    split: Literal["train", "test"],
    need_labels: bool,
    stamp: Stamp,
    captioned: bool,
) -> Index:
    found: list[tuple[int, PurePosixPath, Member]] = []
    classes: dict[_Sample, bytes] = {}
    texts: dict[PurePath, Callable[[], bytes]] = {}
    listing = Listing(shown)
    for number, path in enumerate(paths):
        images = []
        with path.open("rb") as file:
            for member in read_members(path):
                name = clean(member.name)
                file.seek(member.offset)
                if not name.parts or any(part.startswith(".") or part == "__MACOSX" for part in name.parts):
                    listing.leave_out("hidden", shown / name)
                elif name.suffix.lower() in EXTENSIONS:
                    images.append((name, member))
                elif name.suffix == ".cls" and path.suffix == ".tar":
                    classes[_sample(number, name)] = file.read(min(member.length, _LONGEST_CLASS))
                elif captioned and (name.name == METADATA or name.suffix == ".txt"):
                    read = functools.partial(_read_member, Spans.of_members(stamp, [(number, member)]))
                    texts[_in_shard(number, name)] = read
                elif begins_like_an_image(file.read(min(member.length, 12))):
                    images.append((name, member))
                else:
                    listing.leave_out("no image by name or content", shown / name)
        found += [(number, name, member) for name, member in sorted(images, key=lambda image: order_of(image[0].parts))]
    if left_out := listing.describe_left_out():
        warnings.warn(left_out, stacklevel=4)
    if not found:
        raise DataError(f"{printable(shown)} holds no images, files that end in {', '.join(EXTENSIONS)} count")
    top = _common_folder([name for _, name, _ in found])
    names = [PurePosixPath(*name.parts[top:]) for _, name, _ in found]
    chosen = choose_split(shown, names, split)
    if chosen:
        kept = [k for k, name in enumerate(names) if name.parts[0] == chosen and len(name.parts) > 1]
        found = [found[k] for k in kept]
        names = [PurePosixPath(*names[k].parts[1:]) for k in kept]
    check_no_splits(shown, [shown / name for name in names])
    captions = find_captions([_in_shard(number, name) for number, name, _ in found], texts, printable(shown))
    spans = Spans.of_members(stamp, [(number, member) for number, _, member in found])
    index = Index(split, spans, None, None)
    if captions is not None:
        _set_texts(index, captions[0], None, None, printable(shown))
        return index
    class_names: list[str] | None = None
    if classes:
        try:
            index.labels = _read_classes(spans, [_sample(number, name) for number, name, _ in found], classes)
            index.num_classes = int(index.labels.max()) + 1
            class_names = [str(number) for number in range(index.num_classes)]
        except DataError as error:
            if need_labels:
                raise
            warnings.warn(f"{error}; the labels are left out, the model has no use for them", stacklevel=4)
    else:
        index.labels, index.num_classes, class_names = _labels(shown, [shown / name for name in names])
    if captioned:
        _set_texts(index, None, index.labels, class_names, printable(shown))
    return index


def _in_shard(number: int, name: PurePosixPath) -> PurePosixPath:
    """A path that no other shard has."""
    return PurePosixPath(str(number), name)


def _read_member(spans: Spans) -> bytes:
    with spans.open(0) as file:
        return file.read()


def _sample(number: int, name: PurePosixPath) -> _Sample:
    return number, name.with_name(name.name.partition(".")[0])


def _read_classes(spans: Spans, samples: Sequence[_Sample], classes: Mapping[_Sample, bytes]) -> np.ndarray:
    labels = np.zeros(len(samples), np.int64)
    for index, sample in enumerate(samples):
        text = classes.get(sample)
        if text is None or not text.strip().isdigit():
            came = "no .cls file beside it, others have one" if text is None else f"the class {shown_value(text)}"
            raise DataError(f"{spans.entry(index)} has {came}; each needs a number from 0 up")
        labels[index] = int(text)
    return labels


def _common_folder(names: Sequence[PurePosixPath]) -> int:
    """How many folders, one in the other, hold all ``names``; a split is none of them."""
    count = 0
    while all(len(name.parts) > count + 1 for name in names) and len({name.parts[count] for name in names}) == 1:
        if split_of(names[0].parts[count]) is not None:
            break
        count += 1
    return count


def _classes(listing: Listing) -> _Classes:
    """The classes of a folder; one of a class that is empty is refused."""
    folder, files = listing.folder, listing.files
    if not files:
        raise DataError(
            f"the folder {printable(folder)} holds no images, files that end in {', '.join(EXTENSIONS)} count, or "
            "whose content is an image"
        )
    found = _labels(folder, files)
    if found[0] is not None:
        passed = {path for paths in listing.left_out.values() for path in paths}  # hidden, or read under another name
        classes = {entry.name for entry in folder.iterdir() if entry.is_dir() and entry not in passed}
        empty = sorted(classes - {file.relative_to(folder).parts[0] for file in files})
        if empty:
            raise DataError(f"the class folder {printable(folder / empty[0])} holds no images, remove it or fill it")
    return found


def _labels(folder: Path, files: Sequence[Path]) -> _Classes:
    """The number of the first folder below ``folder`` that each of ``files`` lies in, among the sorted ones; how many
    there are, and their names."""
    flat = [file for file in files if len(file.parts) == len(folder.parts) + 1]
    if len(flat) == len(files):
        return None, None, None
    if flat:
        nested = next(file for file in files if file.parent != folder)
        raise DataError(
            f"{printable(folder)} holds images itself ({printable(flat[0].name)}) and in subfolders "
            f"({printable(nested.relative_to(folder))}): put all of them in class folders or none"
        )
    names = [file.relative_to(folder).parts[0] for file in files]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([numbers[name] for name in names], np.int64), len(numbers), list(numbers)
