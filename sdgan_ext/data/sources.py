"""What may be opened at all, and how much memory there is for it."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

from sdgan_ext._errors import ConfigError, DataError, printable
from sdgan_ext._files import user_path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["available_memory", "check_memory", "check_regular", "data_path"]

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def data_path(spec: str | Path) -> Path:
    """The file or folder that ``spec`` names, ``~`` expanded.

    Raises:
        DataError: it is empty, which would be the working folder, or :func:`user_path` refuses it.
    """
    if not str(spec):
        raise DataError("data is empty, it must be a name, a folder or a file")
    try:
        return user_path(spec)
    except ConfigError as error:
        raise DataError(f"data is {error}") from None


def check_regular(path: Path) -> None:
    """Refuses what can block or never ends: opening a pipe waits for a writer, a device has no size.

    Raises:
        DataError: ``path`` is missing, or no regular file.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {printable(path)}: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(mode):
        raise DataError(f"cannot read {printable(path)}: it is a directory, a file is needed")
    if not stat.S_ISREG(mode):
        raise DataError(f"cannot read {printable(path)}: it is a pipe, a socket or a device, a regular file is needed")


def check_memory(what: str, size: int) -> None:
    """Refuses before the first byte is read what the memory cannot hold.

    Args:
        what: the start of the sentence, such as "x.npy says that its values".
        size: in bytes.

    Raises:
        DataError: there is less.
    """
    there = available_memory()
    if size > there:
        raise DataError(f"{what} take {_gigabytes(size)}, {_gigabytes(there)} of memory are available")


def available_memory() -> int:
    """Bytes that this process can still take, as far as the system says: the machine's, the container's, the user's
    limit (``ulimit -v``)."""
    bounds = [sys.maxsize, *_kilobytes("/proc/meminfo", "MemAvailable:")]
    bounds += [int(line) for name in _CGROUP_LIMITS for line in _lines(name) if line.isdecimal()]
    if resource is not None and (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        bounds.append(max(limit - sum(_kilobytes("/proc/self/status", "VmSize:")), 0))
    return min(bounds)


def _kilobytes(name: str, key: str) -> list[int]:
    """What the line of ``key`` says, in bytes; empty where there is none."""
    return [int(line.split()[1]) * 1024 for line in _lines(name) if line.startswith(key)]


def _lines(name: str) -> list[str]:
    try:
        return Path(name).read_text().splitlines()
    except OSError:
        return []


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
