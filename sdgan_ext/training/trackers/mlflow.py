"""MLflow: the store that MLFLOW_TRACKING_URI names, or the file mlflow.db beside the run folders."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..._files import NOFOLLOW, open_regular
from ..._yaml import to_yaml
from ...pictures import to_pillow
from . import Outcome
from .ids import keep_id, kept_id

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs that begin a store at once can fail there
    fcntl = None  # type: ignore[assignment]

__all__ = ["MLflowRun", "open_tracker"]

_EXPERIMENT = "sdgan_ext"
_MOST_PARAMS = 100  # that MLflow takes at once
#: Unless the user has set them: nothing is sent elsewhere, and a server that does not answer is given up in a minute.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


def open_tracker(folder: Path, step: int, config: Mapping[str, Any]) -> MLflowRun:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return MLflowRun(folder, config)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    out = folder.resolve().parent
    if set("%?").intersection(str(out)):
        raise ValueError(f"{out} has a % or a ?, which MLflow reads as a URL's")
    with _alone_in(out):
        with contextlib.closing(sqlite3.connect(out / "mlflow.db")) as database:
            database.execute("PRAGMA schema_version")  # MLflow tries for minutes to open what is no database
        return MLflowRun(folder, config, f"sqlite:///{out / 'mlflow.db'}", (out / "mlartifacts").as_uri())


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time: MLflow makes the tables of a new store without a lock."""
    with open_regular(folder / ".mlflow.lock", os.O_RDWR | os.O_CREAT | NOFOLLOW) as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


class MLflowRun:
    """A run of the experiment MLFLOW_EXPERIMENT_NAME, or sdgan_ext: parameters such as ``train.batch_size``, metrics
    with the names of log.jsonl, images with their steps, the artifact config.yaml.

    Through a client of its own: the active run of a user's program stays what it is. A parameter of MLflow never
    changes, so that of a resumed run is the first one; config.yaml is the last one.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], uri: str | None = None, artifacts: str | None = None):
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        kept = kept_id(folder, "mlflow")
        if kept is not None:
            try:
                self._client.update_run(kept, status="RUNNING")
            except mlflow.MlflowException:  # deleted, or of another store
                kept = None
        self._id: str = kept or self._client.create_run(self._experiment(artifacts), run_name=folder.name).info.run_id
        if kept is None:
            keep_id(folder, "mlflow", self._id)
            params = iter([Param(name, value) for name, value in _flat(config)])
            while part := list(itertools.islice(params, _MOST_PARAMS)):
                self._client.log_batch(self._id, params=part)
        self._client.log_text(self._id, to_yaml(config), "config.yaml")

    def _experiment(self, artifacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        return experiment.experiment_id if experiment else self._client.create_experiment(name, artifacts)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = round(1000 * time.time())
        self._client.log_batch(self._id, [self._metric(name, value, now, step) for name, value in values.items()])

    def image(self, step: int, name: str, grid: Tensor) -> None:
        self._client.log_image(self._id, to_pillow(grid), key=name, step=step)

    def end(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._id, _STATUS[outcome])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, str(value)
