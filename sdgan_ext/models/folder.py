"""A model's folder: config.json and model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from .._errors import CheckpointError, DivergedError
from .._files import replacing, write_errors_named

__all__ = ["read_config", "read_weights", "save_folder"]

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


def save_folder(folder: str | Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes ``weights`` and ``config`` into ``folder``, each complete or not at all.

    Raises:
        DivergedError: a weight is NaN or infinite; nothing is written.
        CheckpointError: the folder cannot be written.
    """
    state = {name: value.detach().contiguous() for name, value in weights.items()}
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise DivergedError(f"{name} holds NaN or infinity; the model is not saved to {folder}")
    folder = Path(folder)
    written: set[int] = set()
    for name, value in state.items():
        if value.untyped_storage().data_ptr() in written:
            state[name] = value.clone()  # safetensors refuses tensors that share memory
        written.add(value.untyped_storage().data_ptr())
    with write_errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / _WEIGHTS) as file:
        file.write(safetensors.torch.save(state, metadata={"format": "pt"}))
    with replacing(folder / _CONFIG) as file:
        file.write((json.dumps(config, indent=2) + "\n").encode())


def read_config(folder: str | Path) -> tuple[dict[str, Any], Path]:
    """What config.json in ``folder`` holds, empty where that is no mapping, and its path.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = Path(folder) / _CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; give a folder that save_pretrained wrote") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # not JSON, not UTF-8
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    return values if isinstance(values, dict) else {}, path


def read_weights(folder: str | Path) -> tuple[dict[str, Tensor], Path]:
    """The tensors of model.safetensors in ``folder``, and its path.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = Path(folder) / _WEIGHTS
    try:
        return safetensors.torch.load_file(path), path
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; give a folder that save_pretrained wrote") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
