"""Under which id a run is in the store of a tracker: kept in the run folder, so that a resumed run goes on with it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from ..._files import read_bytes, replacing

__all__ = ["keep_id", "kept_id"]

_ID = re.compile(rb"([\w-]{1,128})\n?")


def kept_id(folder: Path, tracker: str) -> str | None:
    """None: there is none, or the file does not hold one."""
    with contextlib.suppress(OSError):
        if match := _ID.fullmatch(read_bytes(folder / f"{tracker}.id", 256)):
            return match[1].decode()
    return None


def keep_id(folder: Path, tracker: str, identifier: str) -> None:
    with replacing(folder / f"{tracker}.id") as file:
        file.write(f"{identifier}\n".encode())
