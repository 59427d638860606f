"""Which subfolders are splits: train, validation and test, under their usual names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Literal

from sdgan_ext._errors import DataError, MissingSplitError, printable
from sdgan_ext.data.walk import EXTENSIONS, has_images

__all__ = ["check_no_splits", "choose_split", "find_splits", "split_of"]

Split = Literal["train", "test", "validation"]

_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}
# What follows the word: of trainA and trainB (CycleGAN), train2017 (COCO), training_set.
_NAME = re.compile(rf"({'|'.join(sorted(_WORDS, key=len, reverse=True))})([ab]|[-_ ]?(\d{{4}}|set|images|data))?")


def split_of(name: str) -> Split | None:
    """The split that a folder's name means, in any letter case; None: it means none."""
    match = _NAME.fullmatch(name.lower())
    return _WORDS[match[1]] if match else None


def find_splits(folder: Path, wanted: Literal["train", "test"]) -> dict[Split, Path]:
    """The subfolders that are splits, by which they are; empty where ``folder`` holds none.

    A training folder beside one for test or validation is a split, whatever else lies beside them; alone it is one
    unless other folders hold images: those are classes, and so is it, as a "train" among "car" and "ship".

    Raises:
        DataError: two folders are the split ``wanted``; or there are test images beside folders of others, and no
            training folder: whether those are to be trained on cannot be seen.
    """
    folders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    named = _named(entry.name for entry in folders)
    if not named:
        return {}
    images = (entry for entry in folder.iterdir() if entry.name.lower().endswith(EXTENSIONS) and entry.name[0] != ".")
    beside = [entry for entry in folders if split_of(entry.name) is None and has_images(entry)] + sorted(images)[:1]
    chosen = _chosen(folder, named, [entry.name for entry in beside], wanted)
    return {split: folder / name for split, name in chosen.items()}


def choose_split(place: Path, names: Sequence[PurePath], wanted: Literal["train", "test"]) -> str:
    """The same of the files in an archive: the first folder of those that are meant, or "" where there are no splits.

    Args:
        place: what to call the archive.
        names: of the images in it.

    Raises:
        DataError: as of :func:`find_splits`.
        MissingSplitError: a DataError too; the split is not there.
    """
    folders = sorted({name.parts[0] for name in names if len(name.parts) > 1})
    flat = sorted(name.parts[0] for name in names if len(name.parts) == 1)
    named = _named(folders)
    beside = [folder for folder in folders if split_of(folder) is None] + flat[:1]
    splits = _chosen(place, named, beside, wanted) if named else {}
    if wanted in splits:
        return splits[wanted]
    if splits or wanted == "test":
        raise MissingSplitError(f"{printable(place)} has no {wanted} split")
    return ""


def _named(folders: Iterable[str]) -> dict[Split, list[str]]:
    named: dict[Split, list[str]] = {}
    for folder in folders:
        if (split := split_of(folder)) is not None:
            named.setdefault(split, []).append(folder)
    return named


def _chosen(
    folder: Path, named: dict[Split, list[str]], beside: list[str], wanted: Literal["train", "test"]
) -> dict[Split, str]:
    """Of the folders ``named`` after splits, with others ``beside`` them, the one for each split."""
    held_out = [*named.get("test", ()), *named.get("validation", ())]
    if "train" in named and not held_out and beside:
        warnings.warn(
            f"{printable(folder)}: {_list(named['train'])} is taken for a class like {_list(beside)}, for no test or "
            "validation folder lies beside it",
            stacklevel=5,
        )
        return {}
    if "train" not in named and beside and wanted == "train":
        raise DataError(
            f"{printable(folder)} holds {_list(held_out)}, images that are not trained on, beside {_list(beside)}: "
            f"put the training images into {printable(folder / 'train')}, or give one of the folders"
        )
    if len(named.get(wanted, ())) > 1:
        first = folder / named[wanted][0]
        raise DataError(
            f"{printable(folder)} holds {_list(named[wanted])}, give the one that is meant, as {printable(first)}"
        )
    if beside and wanted in named:
        warnings.warn(
            f"{printable(folder)}: {_list(named[wanted])} is the {wanted} split, {_list(beside)} beside it left out",
            stacklevel=5,
        )
    return {split: names[0] for split, names in named.items()}


def check_no_splits(folder: Path, files: Iterable[Path]) -> None:
    """Refuses to mix training and test folders, at any depth.

    Args:
        folder: where they are looked for.
        files: the images below it.

    Raises:
        DataError: some folder holds both.
    """
    found: dict[Path, dict[Split, str]] = {}
    for parent in {parent.relative_to(folder) for parent in {file.parent for file in files}}:
        for depth, name in enumerate(parent.parts):
            if (split := split_of(name)) is not None:
                found.setdefault(Path(*parent.parts[:depth]), {})[split] = name
    for place, splits in sorted(found.items()):
        if "train" in splits and len(splits) > 1:
            names = ", ".join(sorted(printable(place / name) for name in splits.values()))
            raise DataError(
                f"{printable(folder)} holds splits ({names}), which are not mixed: give one of them, or "
                f"{printable(folder / place)} to --data (open_dataset), which takes one"
            )


def _list(folders: list[str]) -> str:
    names = [printable(entry) for entry in folders]
    return ", ".join([*names[:4], *(["..."] if len(names) > 4 else [])])
