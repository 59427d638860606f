"""Names of weights that have changed: state dicts that were saved under the old ones still load."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["RENAMED", "accept_old_names", "with_new_names"]

#: Parts of a weight's name, as they were saved up to version 0.1.0, and as they are called now.
RENAMED = {
    "halvings": "down_blocks",  # of Encoder and Discriminator
    "doublings": "up_blocks",  # of Generator
}


def with_new_names(weights: Mapping[str, Tensor], own: Container[str]) -> dict[str, Tensor]:
    """``weights`` by the names that a model has today.

    The order stays. An optimizer's state goes by the parameters' order and needs no such step.

    Args:
        weights: a saved state dict, of a model or of what holds one (EMA's ``module.``).
        own: the names of the state dict that ``weights`` are for. A name among them stays, and so does one whose new
            form is not among them: a user's own network may have a layer called ``halvings``.
    """
    renamed = {}
    for name, value in weights.items():
        new = ".".join(RENAMED.get(part, part) for part in name.split("."))
        renamed[new if name not in own and new in own else name] = value
    return renamed


def accept_old_names(network: torch.nn.Module) -> None:
    """Has ``network.load_state_dict``, also as a part of another module, take the old names too."""
    network.register_load_state_dict_pre_hook(_rename)


def _rename(network: torch.nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    own = {f"{prefix}{name}" for name in network.state_dict()}
    renamed = with_new_names(state, own)
    state.clear()
    state.update(renamed)
