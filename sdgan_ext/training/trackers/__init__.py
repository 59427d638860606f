"""Where the scalars, pictures and configuration of a run go beside its folder; the training loop knows no library.

A tracker is output: one that fails is dropped with a warning, and the training goes on. log.jsonl and samples/ have
all that a tracker has.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from ..._errors import ConfigError, sentence

__all__ = ["TRACKERS", "Outcome", "Tracker", "Trackers", "check_installed"]

#: Of each tracker, a file of this folder, the packages that its extra brings.
TRACKERS: dict[str, tuple[str, ...]] = {
    "tensorboard": (),
    "mlflow": ("mlflow", "alembic", "sqlalchemy"),
    "wandb": ("wandb",),
}

Outcome = Literal["finished", "stopped", "failed"]


class Tracker(Protocol):
    """A run in the store of one library.

    ``open_tracker(folder, step, config)`` of its file makes it: of the run in ``folder``, whose first ``step`` steps
    have been taken and tracked before; ``config`` is what config.yaml has.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers after ``step`` steps."""

    def image(self, step: int, name: str, grid: Tensor) -> None:
        """``grid``: uint8 [C, H, W] of 1, 3 or 4 channels."""

    def end(self, outcome: Outcome) -> None:
        """Writes what is left; "stopped" is by a signal."""


class Trackers:
    """The trackers ``names`` as one, which raises nothing. The arguments are those of ``open_tracker``."""

    def __init__(self, names: Sequence[str], folder: Path, step: int, config: Mapping[str, Any]):
        self._open: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            try:
                module = importlib.import_module(f".{name}", __name__)
                self._open[name] = module.open_tracker(folder, step, config)
            except Exception as error:  # whatever a library raises
                _warn(name, error)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._each("scalars", step, {name: value for name, value in values.items() if math.isfinite(value)})

    def image(self, step: int, name: str, grid: Tensor) -> None:
        self._each("image", step, name, grid)

    def end(self, outcome: Outcome) -> None:
        self._each("end", outcome)

    def _each(self, method: str, *arguments: object) -> None:
        for name, tracker in list(self._open.items()):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:
                del self._open[name]
                _warn(name, error)
                with contextlib.suppress(Exception):  # what it holds open is closed, if it can be
                    tracker.end("failed")


def _warn(name: str, error: Exception) -> None:
    reason = str(error) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        reason = f"{package} is not installed; `pip install {package}` brings it"
    warnings.warn(sentence(f"the run goes on without the tracker {name}: {reason}"), stacklevel=4)


def check_installed(names: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: what a tracker other than the default needs is missing; names the extra that has it.
    """
    for name in names:
        for package in TRACKERS[name]:
            if importlib.util.find_spec(package) is None:
                raise ConfigError(
                    f"tracker is {name!r}, but {package} is not installed; run `pip install 'sdgan_ext[{name}]'`"
                )
