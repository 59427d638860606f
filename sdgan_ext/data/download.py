"""MNIST from one of several mirrors: checked by md5, resumed, put in place in one piece."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdgan_ext import _env
from sdgan_ext._errors import DataError, printable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["DEFAULT_MIRRORS", "MNIST_MD5", "cache_root", "download_mnist"]

DEFAULT_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}

_CHUNK = 1 << 16
_log = logging.getLogger(__name__)


def cache_root() -> Path:
    """Where downloaded data lives: the environment's ``SDGAN_DATA``, else ``~/.cache/sdgan_ext``."""
    return _env.data_root()


def download_mnist(
    root: str | Path | None = None,
    mirrors: Sequence[str] = DEFAULT_MIRRORS,
    timeout: float = 30.0,
    *,
    md5: dict[str, str] = MNIST_MD5,
) -> Path:
    """Puts the four gzip files of MNIST into ``root`` and returns it.

    A file that is there with the right md5 is kept. Another comes from the first mirror that gives it whole: what
    a broken transfer left in ``<name>.part`` is continued, by the next mirror or the next call; a file appears
    under its name only when its md5 is right. Processes that download to one ``root`` at a time take turns.

    Args:
        root: folder, made if absent; None: ``mnist`` in :func:`cache_root`.
        mirrors: addresses of folders, tried in this order for each file.
        timeout: seconds to wait for a connection and for each piece of data.
        md5: file name -> md5, for tests.

    Raises:
        DataError: no mirror gave a file, or ``root`` cannot be written.
    """
    root = cache_root() / "mnist" if root is None else Path(root).expanduser()
    try:
        if all(_is_whole(root / name, digest) for name, digest in md5.items()):
            return root  # before anything is written: root may be read-only
        root.mkdir(parents=True, exist_ok=True)
        with _turn(root / ".download.lock"):
            for name, digest in md5.items():
                if not _is_whole(root / name, digest):
                    _fetch(root / name, digest, mirrors, timeout)
    except OSError as error:
        raise DataError(
            f"cannot write MNIST to {printable(root)} ({error.strerror or error}), set SDGAN_DATA to a folder that can "
            "be written, or use --data FOLDER or --data digits"
        ) from None
    return root


class _MirrorError(Exception):
    """What went wrong with one mirror, as a clause."""


def _fetch(path: Path, digest: str, mirrors: Sequence[str], timeout: float) -> None:
    part = path.with_name(path.name + ".part")
    failures = []
    for mirror in mirrors:
        address = mirror.rstrip("/") + "/" + path.name
        _log.info("downloading %s", address)
        try:
            _complete(part, address, digest, timeout)
        except _MirrorError as error:
            failures.append(f"{mirror}: {error}")
            _log.info("%s: %s", address, error)
        else:
            os.replace(part, path)
            return
    raise DataError(
        f"cannot download MNIST's {path.name} ({'; '.join(failures) or 'no mirror given'}), give a folder that has "
        "its files (--data FOLDER) or rendered digits (--data digits)"
    )


def _complete(part: Path, address: str, digest: str, timeout: float) -> None:
    """Makes ``part`` the whole file; where the beginning that was there was at fault, from scratch."""
    had_beginning = _size(part) > 0
    if had_beginning and _is_whole(part, digest):
        return
    _transfer(address, part, timeout)
    if _is_whole(part, digest):
        return
    part.unlink(missing_ok=True)
    if not had_beginning:
        raise _MirrorError("its md5 is wrong")
    _complete(part, address, digest, timeout)


def _transfer(address: str, part: Path, timeout: float) -> None:
    """Appends what is missing to ``part``, all that the server has or until it breaks off."""
    offset = _size(part)
    try:
        with _network():
            request = urllib.request.Request(address, headers={"Range": f"bytes={offset}-"} if offset else {})
            response = urllib.request.urlopen(request, timeout=timeout)
    except _NothingLeft:
        return  # part is as long as the file or longer, its md5 decides
    with response:
        if response.status == 206 and _range_start(response) != offset:
            raise _MirrorError("it answered with another range than requested")
        length = response.headers.get("Content-Length", "")
        received = 0
        # A server that ignores Range answers 200 and sends the whole file again.
        with part.open("ab" if response.status == 206 else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                received += len(chunk)
    if length.isdigit() and received < int(length):
        raise _MirrorError("the transfer broke off")


def _read(response: http.client.HTTPResponse) -> bytes:
    with _network():
        return response.read(_CHUNK)


class _NothingLeft(Exception):
    """HTTP 416: the file ends before the requested byte."""


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Errors of the network as _MirrorError; those of the disk, OSErrors like them, stay outside of it."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise _NothingLeft from None
        raise _MirrorError(f"HTTP {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)  # of a URLError
        if isinstance(reason, TimeoutError):
            raise _MirrorError("it did not answer in time") from None
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise _MirrorError(printable(" ".join(str(text).split()))) from None


def _range_start(response: http.client.HTTPResponse) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_whole(path: Path, digest: str) -> bool:
    try:
        contents = path.read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.md5(contents, usedforsecurity=False).hexdigest() == digest


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """One process at a time, where the system and the file system have locks."""
    if fcntl is None:
        yield
        return
    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
