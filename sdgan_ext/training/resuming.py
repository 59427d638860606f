"""What a resumed run must have in common with the run: its model, and which of its parameters are frozen."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .._errors import CheckpointError, ConfigError, shown
from .config import LoopConfig
from .networks import NetworksConfig, SavedModel, check_same_shapes
from .runs import Run, check_enough, is_of_networks, make_model, read_configs, train_config_kind
from .saved_state import check_state
from .state import load_newest

__all__ = ["check_same_model", "freeze_as", "model_of_run", "read_run"]


def read_run(run: Run) -> tuple[Path, dict, LoopConfig]:
    """The newest complete checkpoint of a run, what it holds, and the configuration of the training.

    Raises:
        CheckpointError: there is none, or it is of another model than the run.
    """
    path, state = load_newest(run.checkpoints, warnings.warn, check_state)
    saved = run.read_config()
    here, there = state["config"]["model"], saved["model"]
    try:
        config = train_config_kind(here).from_dict(state["config"]["train"])
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    if not is_of_networks(state["config"]) and not is_of_networks(saved):
        here = read_configs(state["config"], path)[0].to_dict()
        there = read_configs(saved, run.config_file)[0].to_dict()
    for name in {**there, **here}:
        if here.get(name) != there.get(name):
            raise CheckpointError(
                f"{path} is of another architecture than its run: {name} is {shown(here.get(name))} there and "
                f"{shown(there.get(name))} in {run.config_file}"
            )
    return path, state, config


def model_of_run(state: Mapping, path: Path, given: SavedModel | None) -> SavedModel:
    """The model to go on with: ``given``, or one of the run's configuration.

    Raises:
        CheckpointError: the run is of a user's own networks and none are given, or of another model.
    """
    saved = state["config"]["model"]
    if given is None:
        config, _ = read_configs(state["config"], path)
        check_enough(config, state["model"], path)
        return make_model(config)
    check_same_model(saved, given, path)
    return given


def check_same_model(saved: Mapping, given: Any, path: Path) -> None:
    """That ``given`` is a model of the configuration ``saved`` at ``path``.

    Raises:
        CheckpointError: it is another one; the first difference is named.
    """
    own = given.config.to_dict()
    if own.get("model") != saved.get("model"):
        kinds = (_kind_of(values.get("model")) for values in (saved, own))
        raise CheckpointError("{} is of {}, but model is {}".format(path, *kinds))
    if is_of_networks({"model": saved}):
        try:
            check_same_shapes(given.config, NetworksConfig.from_dict(saved), path)
        except ConfigError as error:
            raise CheckpointError(f"{path} cannot be used: {error}") from error
        return
    for name, value in own.items():
        if value != saved.get(name):
            raise CheckpointError(f"{path} is of another model: {name} is {saved.get(name)} there and {value} in yours")


def _kind_of(model: object) -> str:
    """Of a saved entry, which may be anything, in words."""
    if model is None:
        return "a VAEGAN"
    return {
        "'Networks'": "your own networks",
        "'AutoencoderKL'": "an Autoencoder",
        "'LatentDiffusion'": "a LatentDiffusion",
    }.get(shown(model), "another model")


def freeze_as(model: SavedModel, frozen: Iterable[str], path: Path, *, given: bool) -> None:
    """Sets ``requires_grad=False`` where the run has it; a model that is ``given`` must have it there itself.

    Raises:
        CheckpointError: a given model is frozen elsewhere than the run's.
    """
    frozen = set(frozen)
    for name, parameter in model.named_parameters():
        was, now = name not in frozen, parameter.requires_grad
        if given and was != now:
            raise CheckpointError(
                f"{name} has requires_grad={now} in your model and {was} in {path}; a resumed run trains what the run "
                "trained"
            )
        parameter.requires_grad_(was)
