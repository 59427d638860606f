"""What a run folder says of a run; what is missing or damaged becomes a notice."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from .._errors import ConfigError, SdganError
from .._files import open_regular, read_bytes
from ..training.config import LoopConfig, TrainConfig
from ..training.diffusion_health import diffusion_complaints
from ..training.health import FIRST_STEPS, PATIENCE, complaints
from ..training.runs import Run, open_run, train_config_kind
from ..training.state import list_checkpoints

__all__ = ["Facts", "Series", "is_number", "read_facts"]

_LONGEST_LINE = 2**20  # bytes of log.jsonl
_MOST_JSON = 2**20
_COUNTERS = ("step", "images", "seconds", "s_per_kimg")

#: A scalar's values, [(step, value)], finite and in the order of the steps.
Series = list[tuple[int, float]]


@dataclass
class Facts:
    """
    Attributes:
        folder: the run folder.
        config: of config.yaml, with the mappings model, train, data, parameters and versions, which may be empty.
        history: of each scalar of log.jsonl its values, those that end an interval, such as ``seconds``, among them.
        step: the last that is logged or has a checkpoint.
        steps: how many there shall be; None: unknown.
        running: whether a process trains it now.
        ended: whether it came to a proper end: all steps, patience, or a signal.
        best: of best.json.
        evaluations: by file name, what ``sdgan-ext evaluate`` wrote.
        pictures: of "samples" and "reconstructions" [(step, file)], the oldest first.
        walk: interpolation.gif.
        health: sentences on what was wrong for several intervals.
        notices: sentences on what could not be read.
    """

    folder: Path
    config: dict[str, dict[str, Any]]
    history: dict[str, Series] = field(default_factory=dict)
    step: int = 0
    steps: int | None = None
    running: bool = False
    ended: bool = False
    best: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    pictures: dict[str, list[tuple[int, Path]]] = field(default_factory=dict)
    walk: Path | None = None
    health: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def last(self, name: str) -> float | None:
        series = self.history.get(name)
        return series[-1][1] if series else None


def read_facts(path: str | Path) -> Facts:
    """
    Raises:
        CheckpointError: ``path`` is no run folder.
    """
    run = open_run(path)
    folder = run.folder
    assert folder is not None
    facts = Facts(folder, {"model": {}, "train": {}, "data": {}, "parameters": {}, "versions": {}})
    facts.running = run.is_being_trained()  # first: what it writes meanwhile is newer than what is read
    try:
        config = run.read_config()
        facts.config |= {name: part for name, part in config.items() if isinstance(part, dict)}
    except SdganError as error:
        facts.notices.append(str(error))
    records = sorted(_records(run, facts), key=lambda record: record["step"])
    for record in records:
        for name, value in record.items():
            if name != "step":
                facts.history.setdefault(name, []).append((int(record["step"]), value))
    saved = [int(path.stem.rpartition("-")[2]) for path in list_checkpoints(run.checkpoints)]
    logged = int(records[-1]["step"]) if records else 0
    steps = facts.config["train"].get("steps")
    facts.steps = steps if type(steps) is int else None
    facts.step = max([logged, *saved])
    facts.ended = (run.model / "config.json").is_file() and bool(saved) and saved[-1] == facts.step
    if not saved:
        facts.notices.append(f"{run.checkpoints} holds no checkpoint: the run cannot go on")
    best = _json(folder / "best" / "best.json", facts)
    facts.best = best if isinstance(best, dict) else {}
    for file in sorted(folder.glob("evaluation-*.json")):
        content = _json(file, facts)
        if isinstance(content, dict) and isinstance(content.get("metrics"), dict):
            facts.evaluations[file.name] = content
    for name in ("samples", "reconstructions"):
        found = (re.fullmatch(rf"{name}-(\d{{1,18}})\.png", path.name) for path in run.samples.glob(f"{name}-*.png"))
        facts.pictures[name] = sorted((int(match[1]), run.samples / match[0]) for match in found if match)
    walk = run.samples / "interpolation.gif"
    facts.walk = walk if walk.is_file() else None
    facts.health = list(_health(records, facts.config))
    return facts


def _records(run: Run, facts: Facts) -> Iterator[dict[str, float]]:
    """The lines of log.jsonl, their finite numbers; a line that is being written is none yet."""
    damaged = unreadable = 0
    try:
        with open_regular(run.log_file) as file:
            for line in iter(lambda: file.readline(_LONGEST_LINE), b""):
                record = _record(line)
                if record is not None and "image" in record:
                    unreadable += 1
                elif record is not None:
                    yield record
                elif line.endswith(b"\n") or not facts.running:
                    damaged += 1
    except OSError as error:
        facts.notices.append(f"cannot read {run.log_file}: {error.strerror or error}")
    if damaged:
        facts.notices.append(f"damaged lines of {run.log_file} are left out: {damaged}")
    if unreadable:
        facts.notices.append(f"images that could not be read, and in whose places others stood: {unreadable}")


def _complaints(numbers: dict[str, float], train: LoopConfig) -> dict[str, str]:
    if isinstance(train, TrainConfig):
        return complaints({"diversity": math.inf, "logit_margin": 0.0, **numbers}, train)
    return diffusion_complaints(numbers)


def _record(line: bytes) -> dict[str, float] | None:
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int or not 0 <= record["step"] < 2**63:
        return None
    return {name: value for name, value in record.items() if is_number(value)}


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of JSON is a finite number; an integer there may have any size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1000


def _json(path: Path, facts: Facts) -> Any:
    try:
        return json.loads(read_bytes(path, _MOST_JSON))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        facts.notices.append(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no JSON'}")
        return None


def _health(records: list[dict[str, float]], config: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What was complained of in several intervals, in how many, and when last."""
    try:
        train = train_config_kind(config["model"]).from_dict(config["train"])
    except ConfigError:
        return
    found: dict[str, list[tuple[int, str]]] = {}
    examined = 0
    for record in records:
        numbers = {name.removeprefix("health/"): v for name, v in record.items() if name.startswith("health/")}
        if numbers and record["step"] >= FIRST_STEPS:
            examined += 1
            for kind, words in _complaints(numbers, train).items():
                found.setdefault(kind, []).append((int(record["step"]), words))
    for entries in found.values():
        if len(entries) >= PATIENCE:
            step, words = entries[-1]
            yield f"In {len(entries)} of {examined} intervals, last at step {step:,}: {words}."
