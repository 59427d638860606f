"""The terms of the losses that a step returns: their names, and whether they are finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .._errors import DivergedError

__all__ = ["check_finite", "named_terms"]

_KL = "encoder_generator/kl"


def named_terms(phase: str, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``terms`` under the names "phase/term", without their graphs."""
    return {f"{phase}/{name}": value.detach() for name, value in terms.items()}


def check_finite(terms: Mapping[str, Tensor], step: int) -> None:
    """Raises DivergedError, naming phase, term and step, if a loss is NaN or infinite. Waits for the device once.

    An infinite KL divergence is the first to be named: it is the cause of the others.
    """
    finite = torch.stack(list(terms.values())).isfinite().tolist()
    broken = {name: terms[name].item() for name, ok in zip(terms, finite, strict=True) if not ok}
    if not broken:
        return
    name, reason = next(iter(broken)), ""
    if broken.get(_KL) == math.inf:
        name = _KL
        reason = ": the encoder's logvar is so large that exp(logvar) overflows (float32: above 88), or its mean"
    phase, term = name.split("/")
    raise DivergedError(
        f"training diverged at step {step}: {term} of the {phase} phase is {broken[name]}{reason}; "
        "smaller learning rates may help"
    )
