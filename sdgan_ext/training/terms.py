"""The terms of the losses that a step returns: their names, and whether they are finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .._errors import DivergedError

__all__ = ["check_finite", "named_terms"]


def named_terms(phase: str, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``terms`` under the names "phase/term", without their graphs."""
    return {f"{phase}/{name}": value.detach() for name, value in terms.items()}


def check_finite(terms: Mapping[str, Tensor], step: int) -> None:
    """Raises DivergedError, naming phase, term and step, if a loss is NaN or infinite. Waits for the device once."""
    finite = torch.stack(list(terms.values())).isfinite().tolist()
    for name, ok in zip(terms, finite, strict=True):
        if not ok:
            phase, term = name.split("/")
            raise DivergedError(
                f"training diverged at step {step}: {term} of the {phase} phase is {terms[name].item()}; "
                "smaller learning rates may help"
            )
