"""Signals that end a training after the step at hand."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

__all__ = ["StopSignals"]

_SIGHUP = getattr(signal, "SIGHUP", None)  # of POSIX


class StopSignals:
    """Notes SIGINT, SIGTERM and SIGHUP instead of ending the process; a second one does end it.

    Of SIGHUP, which a terminal sends when it goes away, often twice, any number counts once; where it is ignored, as
    under nohup, it stays ignored.
    """

    def __init__(self, speak: bool):
        self.caught: str | None = None
        self._speak = speak
        self._before: dict = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            numbers = [signal.SIGINT, signal.SIGTERM]
            if _SIGHUP is not None and signal.getsignal(_SIGHUP) is not signal.SIG_IGN:
                numbers.append(_SIGHUP)
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if self.caught is not None and number == _SIGHUP:
            return
        if self.caught is not None:
            self.__exit__()
            signal.raise_signal(number)
        self.caught = signal.Signals(number).name
        if self._speak:  # not print: that may be what was interrupted
            with contextlib.suppress(AttributeError, OSError, ValueError):  # there may be no stderr any more
                os.write(sys.stderr.fileno(), b"\nfinishing this step and saving; Ctrl-C now leaves at once\n")
