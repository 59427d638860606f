"""Weights & Biases: a folder of the run that ``wandb sync`` sends, or, as WANDB_MODE says, its server."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...pictures import to_pillow
from . import Outcome
from .ids import keep_id, kept_id

__all__ = ["WandbRun", "open_tracker"]

_PROJECT = "sdgan_ext"
_EXIT_CODES = {"finished": 0, "stopped": 255, "failed": 1}  # 255 is W&B's own of a run that Ctrl-C ends


def open_tracker(folder: Path, step: int, config: Mapping[str, Any]) -> WandbRun:
    return WandbRun(folder, config)


class WandbRun:
    """A run of the project WANDB_PROJECT, or sdgan_ext, beside any that a user's program has. Offline, each process
    writes a folder ``RUN/wandb/offline-run-*`` of its own, all under the run's one id."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        offline = "WANDB_MODE" not in os.environ
        if offline:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
        import wandb

        identifier = kept_id(folder, "wandb")
        if identifier is None:
            identifier = uuid.uuid4().hex[:12]
            keep_id(folder, "wandb", identifier)
        else:
            time.sleep(1)  # the folder has the second in its name: in the same one it would replace the run's last
        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=identifier,
            resume="allow",
            name=folder.name,
            dir=folder,
            mode="offline" if offline else None,  # None: as WANDB_MODE says
            settings=wandb.Settings(console="off", silent=True, save_code=False, reinit="create_new"),
        )
        self._run.config.update(config, allow_val_change=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def image(self, step: int, name: str, grid: Tensor) -> None:
        self._run.log({name: self._image(to_pillow(grid))}, step=step)

    def end(self, outcome: Outcome) -> None:
        self._run.finish(_EXIT_CODES[outcome])
