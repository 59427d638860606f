"""stdout and stderr that raise nothing: a training that takes days does not end because nobody reads it any more.

All that prints goes through the two: tqdm's bar, warnings, logging, networks of a user's own. What they do not take,
closed, full or broken as they may be, goes to a file of the run.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._files import NOFOLLOW, open_regular

__all__ = ["Console", "guarded_console", "open_standard_descriptors"]


class Console:
    """The two streams, guarded.

    Attributes:
        kept: whether a training has said where to keep what cannot be printed.
    """

    def __init__(self) -> None:
        self.out = _Stream("stdout", sys.stdout, self)
        self.err = _Stream("stderr", sys.stderr, self)
        self.kept = False
        self._file: Path | None = None
        self._waiting = ""  # what could not be printed before there was a file

    def keep_in(self, file: Path | None) -> None:
        """Appends to ``file`` what could not and what cannot be printed; None: it is dropped."""
        self.kept, self._file = True, file
        waiting, self._waiting = self._waiting, ""
        self.keep(waiting)

    def keep(self, text: str) -> None:
        if not self.kept:
            self._waiting += text
        elif self._file is not None and text:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | NOFOLLOW
            with contextlib.suppress(OSError), open_regular(self._file, flags) as file:
                file.write(text.encode(errors="backslashreplace"))

    def drop_unwritten(self) -> None:
        """Empties the buffers of broken streams into nothing: at its end Python would try, and fail, once more."""
        for stream in (self.out, self.err):
            if stream.broken:
                with contextlib.suppress(AttributeError, OSError, ValueError), open(os.devnull, "wb") as nothing:
                    os.dup2(nothing.fileno(), stream.fileno())
                    stream.raw.flush()


class _Stream:
    """A text stream that flushes every line and hands to ``console`` what it cannot write; a bar's frames are dropped.

    Attributes:
        raw: the stream behind it, a TextIO; None: it was closed when Python began.
        broken: why nothing is written any more, or "".
    """

    def __init__(self, name: str, raw: Any, console: Console):
        self.name, self.raw, self.console, self.broken = name, raw, console, ""
        self._unflushed, self._announced = "", False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def isatty(self) -> bool:
        try:
            return not self.broken and self.raw is not None and self.raw.isatty()
        except ValueError:  # closed
            return False

    def write(self, text: str) -> int:
        kept = "" if text.startswith("\r") else text
        if self.broken:
            self._lose(kept)
            return len(text)
        self._unflushed += kept
        try:
            self._write(text)
        except (AttributeError, OSError, ValueError) as error:
            self._break(error)
        if "\n" in text:
            self.flush()
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self.raw.write(text)
        except UnicodeEncodeError:
            encoding = self.raw.encoding
            self.raw.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        if self.broken:
            return
        try:
            self.raw.flush()
        except (AttributeError, OSError, ValueError) as error:
            self._break(error)
        self._unflushed = ""

    def _break(self, error: Exception) -> None:
        self.broken = (isinstance(error, OSError) and error.strerror) or "closed"
        self._lose(self._unflushed)

    def _lose(self, text: str) -> None:
        if text and not self._announced:
            self._announced = True
            self.console.keep(f"{self.name} cannot be written ({self.broken}); what it should have shown:\n")
        self.console.keep(text)


@contextlib.contextmanager
def guarded_console() -> Iterator[Console]:
    """Guards ``sys.stdout`` and ``sys.stderr`` for a while; within another one, that one."""
    if isinstance(sys.stdout, _Stream):
        yield sys.stdout.console
        return
    console, before = Console(), (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = console.out, console.err
    try:
        yield console
    finally:
        sys.stdout, sys.stderr = before


def open_standard_descriptors() -> None:
    """Points those of stdin, stdout and stderr that are closed at nothing: the next file that is opened, a checkpoint,
    would get the number, and with it whatever native code prints."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
