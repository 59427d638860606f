"""Signals that end a training after the step at hand."""

from __future__ import annotations

import os
import signal
import threading

__all__ = ["StopSignals"]


class StopSignals:
    """Notes SIGINT and SIGTERM instead of ending the process; a second one does end it."""

    def __init__(self, speak: bool):
        self.caught: str | None = None
        self._speak = speak
        self._before: dict = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if self.caught is not None:
            self.__exit__()
            signal.raise_signal(number)
        self.caught = signal.Signals(number).name
        if self._speak:  # not print: that may be what was interrupted
            os.write(2, b"\nfinishing this step and saving; once more leaves at once\n")
