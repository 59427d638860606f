"""``sdgan-ext tune``: a search over how a preset is trained, by Optuna (the extra ``tune``), in a folder that resumes.

::

    STUDY/
        study.db      every trial, in SQLite: what Optuna's own tools read, under the study name "tune"
        trials.svg    score by trial, and by each value that was searched

Trial i draws from a sampler seeded by (seed, i), TPE (Bergstra et al. 2011): a search that was interrupted and resumed
takes the trials of one that was not.
"""

from __future__ import annotations

import json
import math
import shlex
import sqlite3
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ._errors import CheckpointError, ConfigError, DataError, DivergedError, EvaluationError, nearest, shown
from ._files import NOFOLLOW, open_regular, user_path
from ._tuning_plot import draw_trials
from .data import MapDataset, batches, open_dataset
from .evaluation import choose_net, evaluate, refusals
from .evaluation.features import NetName
from .models import VAEGAN, VAEGANConfig
from .models.config import Mode
from .presets import OWN_SIZE, preset
from .training.config import MODES, TrainConfig
from .training.runs import Run, resolve_source
from .training.selection import split
from .training.trainer import Trainer

__all__ = ["SCORES", "SPACE", "Range", "Search", "check_installed", "check_metric", "read_space", "tune"]


class Range(NamedTuple):
    """Both ends belong to it; ``log``: drawn evenly in the logarithm."""

    low: float
    high: float
    log: bool = False


_ENCODER, _ADVERSARIAL, _BOTH = ("vae", "vae-gan"), ("gan", "vae-gan"), ("vae-gan",)

#: What is searched by default: a field of TrainConfig, its range, the modes in which it does something.
SPACE = {
    "lr_encoder": (Range(3e-4, 1e-2, True), _ENCODER),
    "lr_generator": (Range(3e-4, 1e-2, True), tuple(MODES)),
    "lr_discriminator": (Range(3e-4, 1e-2, True), _ADVERSARIAL),
    "batch_size": (Range(32, 256, True), tuple(MODES)),
    "kl_weight": (Range(0.1, 10, True), _ENCODER),
    "feature_weight": (Range(0.1, 10, True), _BOTH),
    "gamma": (Range(1e-3, 1, True), _BOTH),
    "r1_gamma": (Range(0.01, 10, True), _ADVERSARIAL),
}
#: The same for every trial, or without an influence on what is learnt.
_FIXED = (
    "steps",
    "seed",
    "workers",
    "validation_images",
    "accumulate",
    "log_every",
    "sample_every",
    "checkpoint_every",
)


class Score(NamedTuple):
    """A number of ``evaluation.evaluate``: its metric, its name, and which feature net it needs."""

    metric: str
    name: str
    direction: Literal["minimize", "maximize"] = "minimize"
    net: NetName | None = None


SCORES = {
    "elbo": Score("elbo", "neg_elbo"),
    "nll": Score("nll", "binarised_nll"),
    "mse": Score("errors", "mse"),
    "psnr": Score("errors", "psnr", "maximize"),
    "ssim": Score("errors", "ssim", "maximize"),
    "fd": Score("fd", "{net}-fd"),
    "kid": Score("kid", "{net}-kid"),
    "lenet-fd": Score("fd", "lenet-fd", net="lenet"),
    "photos-fd": Score("fd", "photos-fd", net="photos"),
}


@dataclass(frozen=True)
class Search:
    """What makes a study; one that is resumed must be given the same."""

    data: str
    preset: str
    mode: Mode
    metric: str
    steps: int
    space: dict[str, Range]
    seed: int = 0
    n: int = 2000
    split: Literal["validation", "test"] = "validation"

    def to_dict(self) -> dict[str, Any]:
        """As a study keeps it: what JSON gives back."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        plain: dict[str, Any] = json.loads(json.dumps(values | {"data": resolve_source(self.data)}))
        return plain


def read_space(texts: Sequence[str], base: TrainConfig) -> dict[str, Range]:
    """What is searched: the ranges ``NAME=LOW:HIGH[:log]``, or those of :data:`SPACE` that ``base.mode`` has.

    Raises:
        ConfigError: no such field (with the nearest one), one that does nothing in this mode, or a bad range.
    """
    if not texts:
        return {name: span for name, (span, modes) in SPACE.items() if base.mode in modes}
    hints = typing.get_type_hints(TrainConfig)
    allowed = [name for name, hint in hints.items() if hint in (int, float) and name not in _FIXED]
    space: dict[str, Range] = {}
    for text in texts:
        flag = f"--space is {text!r}"
        name = text.partition("=")[0].strip().replace("-", "_")
        if name not in allowed:
            where = "is the same in every trial" if name in _FIXED else "is not a number of TrainConfig"
            raise ConfigError(f"{flag}; {name!r} {where}{nearest(name, allowed)}; there are {', '.join(allowed)}")
        if name in space:
            raise ConfigError(f"{flag}, but {name} has a range already")
        if base.mode not in SPACE.get(name, (None, tuple(MODES)))[1]:
            raise ConfigError(f"{flag}, but {name} does nothing in mode {base.mode!r}")
        space[name] = _read_range(text, flag, hints[name])
        for end in space[name][:2]:
            try:
                base.replace(**{name: end})
            except ConfigError as error:
                raise ConfigError(f"{flag}, but {error}") from None
    return space


def _read_range(text: str, flag: str, kind: type) -> Range:
    low, _, rest = text.partition("=")[2].partition(":")
    high, _, scale = rest.partition(":")
    try:
        span = Range(kind(low), kind(high), scale == "log")
    except ValueError:
        what = "integers" if kind is int else "numbers"
        raise ConfigError(f"{flag}; it must be NAME=LOW:HIGH or NAME=LOW:HIGH:log with {what}") from None
    if scale not in ("", "log"):
        raise ConfigError(f"{flag}; after the range comes nothing or 'log', {scale!r} came")
    if not (math.isfinite(span.low) and math.isfinite(span.high) and span.low < span.high):
        raise ConfigError(f"{flag}; LOW must be below HIGH, and both finite")
    if span.log and span.low <= 0:
        raise ConfigError(f"{flag}; with 'log' LOW must be above 0")
    return span


def check_preset(name: str) -> None:
    """Raises ConfigError where tune cannot search over how the preset is trained."""
    if not isinstance(preset(name).model, VAEGANConfig):
        raise ConfigError(f"--preset is {name!r}, whose networks are diffusers'; tune takes the others")


def check_metric(metric: str) -> None:
    """
    Raises:
        ConfigError: the metric is none of :data:`SCORES`, or an adversarial loss.
    """
    if metric in SCORES:
        return
    if any(word in metric for word in ("loss", "adv", "disc", "gen")):
        raise ConfigError(
            f"--metric is {metric!r}; an adversarial loss says which of two networks is ahead, not how good the images "
            f"are: a search would find the weakest opponent; take one of {', '.join(SCORES)}"
        )
    raise ConfigError(f"--metric is {metric!r}{nearest(metric, SCORES)}; there are {', '.join(SCORES)}")


# ------------------------------------------------------------------------------------------------------ a trial
class _Stopped(Exception):
    """A signal ended a trial early; its name."""


class _Objective:
    """Trains the preset with a trial's values and scores the averaged model on images that it was not trained on.

    Raises:
        ConfigError, DataError, EvaluationError: what would fail in every trial.
    """

    def __init__(self, search: Search):
        check_metric(search.metric)
        check_preset(search.preset)
        architecture, config = preset(search.preset)
        assert isinstance(architecture, VAEGANConfig)
        self.base = config.replace(mode=search.mode, steps=search.steps, seed=search.seed)
        self.search = search
        self.score = SCORES[search.metric]
        own_size = architecture.size if search.preset in OWN_SIZE else None
        self.flags = {} if own_size is None else {"image_size": own_size[0]}
        labels = bool(architecture.classes)
        self.dataset = open_dataset(search.data, image_size=own_size, seed=search.seed, need_labels=labels)
        size, channels = self.dataset.image_size, self.dataset.channels
        rest: MapDataset
        self.held_out: MapDataset
        if search.split == "test":
            rest = self.dataset
            self.held_out = open_dataset(
                search.data, split="test", image_size=size, channels=channels, seed=search.seed, need_labels=labels
            )
        else:
            self.base = self.base.replace(validation_images=min(search.n, max(1, len(self.dataset) // 10)))
            parts: Any = split(self.dataset, self.base)
            rest, self.held_out = parts
        self.architecture: VAEGANConfig = architecture.replace(image_size=size, channels=channels).for_mode(search.mode)
        self.n = min(search.n, len(self.held_out))
        self.net = self.score.net or choose_net(channels, size)
        self.name = self.score.name.format(net=self.net)
        reasons = refusals(VAEGAN(self.architecture), self.held_out, n=self.n, net=self.net)
        if self.score.metric in reasons:
            raise EvaluationError(f"--metric {search.metric} cannot be taken: {reasons[self.score.metric]}")
        largest = search.space.get("batch_size", Range(0, self.base.batch_size)).high
        if largest > len(rest):
            raise DataError(f"a batch may have {largest} images, but there are {len(rest)}; narrow batch_size")
        next(batches(rest, int(largest), seed=search.seed))

    def draw(self, trial: Any) -> dict[str, int | float]:
        values = {}
        for name, span in self.search.space.items():
            whole = isinstance(getattr(self.base, name), int)
            suggest = trial.suggest_int if whole else trial.suggest_float
            values[name] = suggest(name, span.low, span.high, log=span.log)
        return values

    def __call__(self, values: dict[str, int | float]) -> float:
        config = self.base.replace(**values)
        torch.manual_seed(config.seed)
        trainer = Trainer(VAEGAN(self.architecture), config, out=None, progress=False)
        run = trainer.fit(self.dataset)
        if run.stopped_by is not None:
            raise _Stopped(run.stopped_by)
        values_of_metric = evaluate(
            trainer.ema.module, self.held_out, metrics=[self.score.metric], n=self.n, seed=config.seed, net=self.net
        )
        value = values_of_metric[self.name]
        if not math.isfinite(value):
            raise EvaluationError(f"{self.name} is {value}")
        return value

    def command(self, values: dict[str, int | float]) -> str:
        """The command line that trains with them."""
        search = self.search
        given = {name: getattr(search, name) for name in ("data", "preset", "mode", "steps", "seed")}
        held_out = {"validation_images": self.base.validation_images} if search.split == "validation" else {}
        flags = (given | held_out | self.flags | values).items()
        words = [word for name, value in flags for word in (f"--{name.replace('_', '-')}", str(value))]
        return shlex.join(["sdgan-ext", "train", *words])


# ----------------------------------------------------------------------------------------------------- the study
def check_installed() -> None:
    """
    Raises:
        ImportError: Optuna or what it keeps its studies with is missing; names the extra that has them.
    """
    _optuna()


def _optuna() -> Any:
    try:
        import optuna
        import sqlalchemy  # noqa: F401
    except ImportError as error:
        raise ImportError(f"tuning needs {error.name}; run `pip install 'sdgan_ext[tune]'`") from error
    return optuna


def _open_study(search: Search, folder: Path) -> Any:
    optuna = _optuna()
    file = folder / "study.db"
    if file.is_symlink() or file.exists():
        try:
            open_regular(file, NOFOLLOW).close()
        except OSError as error:
            raise CheckpointError(f"{file} cannot be used as a study: {error.strerror or error}") from error
    wanted = search.to_dict()
    loud = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        direction = SCORES[search.metric].direction
        # The connection by itself: in a URL a folder's name may hold no ? or %, and versions read them differently.
        options = {"creator": lambda: sqlite3.connect(file, timeout=60)}
        storage = optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs=options)
        study = optuna.create_study(storage=storage, study_name="tune", direction=direction, load_if_exists=True)
        saved = study.user_attrs.get("asked")
        if saved is None:
            study.set_user_attr("asked", wanted)
        saved = {"split": "test"} | (wanted if saved is None else saved)  # the first studies knew no other split
        trials, _ = study.trials, study.direction
    except Exception as error:  # whatever Optuna and SQLAlchemy raise of a damaged file
        reason = str(getattr(error, "orig", error)) or type(error).__name__
        raise CheckpointError(f"{file} cannot be used as a study: {reason.splitlines()[0][:200]}") from error
    finally:
        optuna.logging.set_verbosity(loud)
    for name, value in wanted.items():
        if saved.get(name) != value:
            has = shown(saved.get(name))
            raise ConfigError(
                f"--{name} is {value}, but the study in {folder} has {has}: give it that, or another --out"
            )
    for trial in _counted(study):
        if trial.params.keys() != search.space.keys() or not isinstance(trial.value, float | None):
            raise CheckpointError(f"{file} is damaged: its trial {trial.number} lacks its score or a value")
    for trial in trials:  # of a process that was killed
        if not trial.state.is_finished():
            _fail(study, trial.number)
    return study


def _fail(study: Any, number: int) -> None:
    study.tell(number, state=_optuna().trial.TrialState.FAIL)


def _counted(study: Any) -> list[Any]:
    """Trials with a score or with a reason why they have none: not those that were interrupted."""
    return [t for t in study.trials if t.state.is_finished() and (t.value is not None or "failed" in t.user_attrs)]


def _ranked(study: Any) -> list[Any]:
    """Trials with a score, the best first."""
    sign = 1 if study.direction.name == "MINIMIZE" else -1
    return sorted((t for t in _counted(study) if t.value is not None), key=lambda t: (sign * t.value, t.number))


def tune(search: Search, *, trials: int, out: str | Path, write: Callable[[str], None] = print) -> str | None:
    """Goes on with the study in ``out``, or begins it, until it has ``trials`` trials; then table, flags and plot.

    A trial that diverges counts and is recorded as failed with the reason; one that was interrupted does not count.

    Returns:
        The signal that ended the search early, "SIGINT" or "SIGTERM", or None.

    Raises:
        ConfigError: ``search`` is not that of the study in ``out``.
        DivergedError: every trial failed.
        CheckpointError: the folder cannot be written, or another process works on it.
        ImportError: Optuna is not installed.
    """
    optuna = _optuna()
    objective = _Objective(search)
    folder = user_path(out)
    folder.mkdir(parents=True, exist_ok=True)
    stopped = None
    with Run(folder).locked():
        study = _open_study(search, folder)
        while stopped is None and (count := len(_counted(study))) < trials:
            seed = int(np.random.SeedSequence([search.seed, count]).generate_state(1)[0])
            study.sampler = optuna.samplers.TPESampler(seed=seed)
            stopped = _take(study, objective, f"trial {count + 1}/{trials}", write)
        if stopped is None or _ranked(study):
            _report(study, objective, folder / "trials.svg", write)
    return stopped


def _take(study: Any, objective: _Objective, title: str, write: Callable[[str], None]) -> str | None:
    trial = study.ask()
    values = objective.draw(trial)
    words = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    try:
        value = objective(values)
    except (ConfigError, DivergedError, EvaluationError) as error:
        trial.set_user_attr("failed", str(error))
        _fail(study, trial.number)
        write(f"{title}: failed: {error} ({words})")
    except _Stopped as signal:
        _fail(study, trial.number)
        return str(signal)
    else:
        study.tell(trial, value)
        write(f"{title}: {objective.name} {value:.4f} ({words})")
    return None


def _report(study: Any, objective: _Objective, plot: Path, write: Callable[[str], None], most: int = 5) -> None:
    counted = _counted(study)
    ranked = _ranked(study)
    if not counted:
        return
    failed = [trial for trial in counted if trial.value is None]
    if not ranked:
        raise DivergedError(f"all {len(failed)} trials failed, the last one: {failed[-1].user_attrs['failed']}")
    names = list(objective.search.space)
    points = [(trial.value, trial.params) for trial in counted]
    spans = {name: span.log for name, span in objective.search.space.items()}
    draw_trials(plot, objective.name, points, spans, lower=study.direction.name == "MINIMIZE")
    rows = [["trial", objective.name, *names]]
    places = {trial.number: i + 1 for i, trial in enumerate(counted)}  # Optuna numbers the interrupted ones too
    for trial in ranked[:most]:
        rows.append([str(places[trial.number]), f"{trial.value:.4f}", *(f"{trial.params[name]:.3g}" for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        write("  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True)))
    scored = f"scored on {objective.n} {objective.search.split} images"
    write(f"{len(counted)} trials, {len(failed)} of them failed; {scored}; plot: {plot}")
    write(f"the best one again: {objective.command({name: ranked[0].params[name] for name in names})}")
