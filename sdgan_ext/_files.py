"""A file is there complete, or not at all; what is opened is a regular file, and no link is written through.

JSON holds no NaN.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ._errors import CheckpointError, ConfigError

__all__ = ["NOFOLLOW", "open_regular", "read_bytes", "replacing", "to_json", "user_path", "write_errors_named"]

#: For :func:`open_regular`: a symbolic link is refused, where the system knows how.
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)

_NOT_REGULAR = "it is no regular file"


def to_json(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON in the strict sense: NaN and infinity, which JSON does not have, are null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def write_errors_named(path: Path) -> Iterator[None]:
    """Turns the OSError of a full disk or a missing right into a CheckpointError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under ``path`` once it is complete and on the disk, or not at all.

    A link to a file under that name, or any under the temporary one, is replaced; what it points to stays as it is.

    Raises:
        CheckpointError: the file cannot be written, or ``path`` is a folder, a FIFO or a device; what it was before is
            still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with write_errors_named(path):
            if path.exists() and not path.is_file():
                raise OSError(errno.EINVAL, _NOT_REGULAR)
            temporary.unlink(missing_ok=True)  # of a process that was killed and had this number
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def open_regular(path: str | Path, flags: int = 0) -> BinaryIO:
    """The regular file ``path`` to read: a FIFO or a device, which may block or never end, is refused.

    Args:
        flags: more of ``os.open``'s, such as :data:`NOFOLLOW`; with ``os.O_RDWR`` the file can be written too.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.islink(path):
            error.strerror = "it is a symbolic link"
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, _NOT_REGULAR, str(path))
        return open(descriptor, "r+b" if flags & os.O_RDWR else "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | Path, most: int) -> bytes:
    """What the regular file ``path`` holds.

    Raises:
        OSError: it cannot be read, is no regular file, or holds more than ``most`` bytes.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return content


def user_path(path: str | Path) -> Path:
    """``path`` with the home folder for ``~``, as a shell has it; a file that is called so is meant first.

    Raises:
        ConfigError: there is no such home folder, or the path holds a zero byte.
    """
    path = Path(path)
    if "\0" in str(path):
        raise ConfigError(f"{path} is no path: it holds a zero byte")
    try:
        return path.expanduser()
    except RuntimeError:  # no such user, or one without a home folder, and HOME is not set
        if os.path.lexists(path):
            return path
        raise ConfigError(
            f"{path}: {path.parts[0]} stands for a home folder, and there is none; give a full path"
        ) from None


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
