"""What a checkpoint must hold, checked before anything is changed: a CRC says that bytes are whole, no more."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from .._errors import CheckpointError, shown

__all__ = ["check_optimizers", "check_state"]

_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # what Adam keeps of a parameter


def check_state(state: Mapping[str, Any], path: Path) -> None:
    """That ``state`` is what the Trainer writes: every entry there and of its kind. Versions before may lack some.

    Raises:
        CheckpointError: naming the first entry that is missing or of another kind.
    """
    for name, (words, fits, needed) in _ENTRIES.items():
        if name not in state and not needed:
            continue
        if name not in state or not fits(state[name]):
            came = shown(state[name]) if name in state else "missing"
            raise CheckpointError(f"the checkpoint {path} is damaged: {name} is {came}; it must be {words}")


def check_optimizers(optimizers: Mapping[str, Adam], saved: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """The saved states of ``optimizers``, each for ``load_state_dict``: with the hyperparameters that the optimizer has
    by the configuration, not those of the file.

    Raises:
        CheckpointError: they are of other networks, or a parameter's state does not fit the parameter.
    """
    if saved.keys() != optimizers.keys():
        theirs, ours = (", ".join(map(str, sorted(names))) or "none" for names in (saved.keys(), optimizers.keys()))
        raise CheckpointError(f"{path} has optimizers of {theirs[:200]}; this training has {ours}")
    states = {}
    for name, optimizer in optimizers.items():
        own = optimizer.state_dict()
        parameters = optimizer.param_groups[0]["params"]
        for index, moments in saved[name]["state"].items():
            if not (_whole(index) and index < len(parameters) and _fits_parameter(moments, parameters[index])):
                raise CheckpointError(
                    f"{path} is damaged: the state of the {name}'s optimizer does not fit parameter {shown(index)}"
                )
        states[name] = {"state": saved[name]["state"], "param_groups": own["param_groups"]}
    return states


def _fits_parameter(moments: Any, parameter: Tensor) -> bool:
    return (
        isinstance(moments, Mapping)
        and moments.keys() == _MOMENTS
        and all(isinstance(value, Tensor) for value in moments.values())
        and moments["step"].shape == ()
        and moments["exp_avg"].shape == moments["exp_avg_sq"].shape == parameter.shape
        and all(map(_finite, moments.values()))
        and bool(moments["step"] >= 0)
        and bool((moments["exp_avg_sq"] >= 0).all())
    )


def _finite(value: Tensor) -> bool:
    plain = value.layout == torch.strided and value.device.type == "cpu"
    return plain and value.is_floating_point() and bool(value.isfinite().all())


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _mapping_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, Mapping)
        and all(isinstance(name, str) for name in value)
        and all(fits(entry) for entry in value.values())
    )


def _is_best(value: Any) -> bool:
    kinds = {"metric": str, "value": float, "step": int, "images": int, "since": int}
    return isinstance(value, Mapping) and (
        not value or (value.keys() == kinds.keys() and all(type(value[name]) is kinds[name] for name in kinds))
    )


def _is_config(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(value.get(name), Mapping) for name in ("model", "train", "data"))
        and _is_data(value["data"])
    )


def _is_data(data: Mapping[str, Any]) -> bool:
    return (
        isinstance(data.get("source", 0), (str, type(None)))
        and isinstance(data.get("name"), str)
        and _whole(data.get("images"))
        and _whole(data.get("channels"))
        and isinstance(data.get("image_size"), list)
        and all(map(_whole, data["image_size"]))
    )


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("state"), Mapping)


def _is_generator_state(value: Any) -> bool:
    try:
        torch.Generator().set_state(value)
    except (RuntimeError, TypeError, AttributeError):
        return False
    return True


_IS_TENSOR = _mapping_of(lambda value: isinstance(value, Tensor))

#: Every entry: what it must be, in words, the same as a function, and whether every version wrote it.
_ENTRIES: dict[str, tuple[str, Callable[[Any], bool], bool]] = {
    "step": ("an integer, at least 0", _whole, True),
    "seconds": ("a number, at least 0", lambda value: _number(value) and value >= 0, True),
    "best": ("the best evaluation", _is_best, False),
    "config": ("model, train and data", _is_config, True),
    "model": ("tensors by their names", _IS_TENSOR, True),
    "frozen": (
        "a list of names",
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        False,
    ),
    "ema": ("tensors by their names", _IS_TENSOR, True),
    "optimizers": ("the state of an optimizer for each network", _mapping_of(_is_optimizer), True),
    "generator": ("the state of a generator", _is_generator_state, True),
    "torch_generator": ("the state of a generator", _is_generator_state, True),
}
