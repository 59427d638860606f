"""The image files below a folder: each once, whatever links there are, and what is left out.

A real folder or file goes before a link to it, so that an image has the label of the class folder where it lies. A
file is known by its device and inode, and so is a folder; the ancestors of the folder count as visited.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sdgan_ext._errors import DataError, printable

__all__ = ["EXTENSIONS", "NO_IMAGE", "Listing", "begins_like_an_image", "has_images", "list_images", "order_of"]

EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff"),
    ".webp",
)
"""The files that count as images by their name, in lower or upper case; others by their content."""

# Beginnings that no text has by chance. TIFF's is missing: it is that of camera raw files as well, whose first image is
# a thumbnail.
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")

NO_IMAGE = "no image by name or content"
_HIDDEN = "hidden"
_NOT_REGULAR = "a pipe, socket or device"
_VISITED = "another name of a folder that is read already"
_SAME_FILE = "another name of a file that is read already"
_UNREADABLE = "neither an image by name nor readable"

_Identity = tuple[int, int] | str


@dataclass
class Listing:
    """What is below a folder.

    Attributes:
        folder: as it was given.
        files: the images; in each folder its files come first, then its subfolders, each sorted by name.
        left_out: the other entries, by the reason.
    """

    folder: Path
    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def leave_out(self, reason: str, path: Path) -> None:
        self.left_out.setdefault(reason, []).append(path)

    def describe_left_out(self) -> str:
        """One sentence, or "" where nothing is left out."""
        parts = []
        for reason, paths in self.left_out.items():
            paths = sorted(paths)
            example = printable(paths[0].relative_to(self.folder)) + (", ..." if len(paths) > 1 else "")
            parts.append(f"{len(paths):,} {reason} ({example})")
        if not parts:
            return ""
        count = sum(map(len, self.left_out.values()))
        return f"{printable(self.folder)}: {count:,} of its entries left out: {'; '.join(parts)}"


def list_images(folder: Path, avoid: Iterable[Path] = ()) -> Listing:
    """Every image below ``folder``, once.

    Args:
        folder: an existing one.
        avoid: folders that no link may lead into, such as the other split's.

    Raises:
        DataError: a folder that cannot be listed.
    """
    listing = Listing(folder)
    depth = len(folder.parts)
    listing.files = sorted(_walk(listing, avoid), key=lambda file: order_of(file.parts[depth:]))
    return listing


def has_images(folder: str | Path) -> bool:
    """Whether an image file lies in ``folder`` or below it."""
    return next(_walk(Listing(Path(folder)), ()), None) is not None


def order_of(parts: Sequence[str]) -> list[tuple[bool, str]]:
    """A key to sort paths by, from their parts: files before folders, as os.walk goes. The order of the images decides
    the bits of a training."""
    return [*((True, name) for name in parts[:-1]), (False, parts[-1])]


def _walk(listing: Listing, avoid: Iterable[Path]) -> Iterator[Path]:
    folder = listing.folder
    real = folder.resolve()
    seen = {_identity(path, path.stat()) for path in (real, *real.parents, *avoid)}
    pending = [folder]
    while pending:
        links: list[Path] = []
        for start in pending:
            yield from _walk_real(start, listing, seen, links)
        pending = []
        for link in sorted(links):
            if os.path.isdir(link):
                if _is_new(link, listing, seen):
                    pending.append(link)
            elif _is_image(link, listing, seen):
                yield link


def _walk_real(start: Path, listing: Listing, seen: set[_Identity], links: list[Path]) -> Iterator[Path]:
    """The images below ``start`` without following links, which are added to ``links``."""
    stack = [start]
    while stack:
        place = stack.pop()
        try:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"cannot list the folder {printable(place)}: {error.strerror}") from None
        folders = []
        for entry in found:
            path = place / entry.name
            if entry.name.startswith("."):
                listing.leave_out(_HIDDEN, path)
            elif entry.is_symlink():
                links.append(path)
            elif entry.is_dir():
                if _is_new(path, listing, seen):
                    folders.append(path)
            elif _is_image(path, listing, seen):
                yield path
        stack += reversed(folders)


def _is_new(folder: Path, listing: Listing, seen: set[_Identity]) -> bool:
    known = _known(folder, folder.stat(), seen)
    if known:
        listing.leave_out(_VISITED, folder)
    return not known


def _is_image(path: Path, listing: Listing, seen: set[_Identity]) -> bool:
    """Whether it is to be read; if not, it is left out with the reason."""
    named = path.name.lower().endswith(EXTENSIONS)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            reason = _NOT_REGULAR
        elif not named and not _is_image_by_content(path):
            reason = NO_IMAGE
        else:
            reason = _SAME_FILE if _known(path, status, seen) else ""
    except OSError:
        reason = "" if named else _UNREADABLE  # an image that is missing is an error when it is read
    if reason:
        listing.leave_out(reason, path)
    return not reason


def _is_image_by_content(path: Path) -> bool:
    with path.open("rb") as file:
        return begins_like_an_image(file.read(12))


def begins_like_an_image(beginning: bytes) -> bool:
    """Whether 12 bytes are the first of an image of a common format."""
    boxed = beginning[4:] == b"ftypavif" or (beginning[:4], beginning[8:]) == (b"RIFF", b"WEBP")
    return boxed or beginning.startswith(_BEGINNINGS)


def _known(path: Path, status: os.stat_result, seen: set[_Identity]) -> bool:
    """Whether it was visited under another name; from now on it was."""
    identity = _identity(path, status)
    known = identity in seen
    seen.add(identity)
    return known


def _identity(path: Path, status: os.stat_result) -> _Identity:
    return (status.st_dev, status.st_ino) if status.st_ino else str(path.resolve())
