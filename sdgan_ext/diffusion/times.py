"""Which times t in [0, 1] a batch is trained at."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .._errors import ConfigError, shown

__all__ = ["DISTRIBUTIONS", "draw_times", "shift_times"]

DISTRIBUTIONS = ("uniform", "logit_normal")


def shift_times(t: Tensor, shift: float) -> Tensor:
    """``shift t / (1 + (shift - 1) t)``: more time near the noise, for maps of more pixels. Of t's shape.

    A map of m times as many pixels needs a shift of sqrt(m) to lose as much of its image at the same t.

    Raises:
        ConfigError: ``shift`` is not above 0.

    Source: Esser et al. 2024, equation 23.
    """
    if not 0 < shift < math.inf:
        raise ConfigError(f"shift is {shown(shift)}; it must be a number above 0, and 1 changes nothing")
    return shift * t / (1 + (shift - 1) * t)


def draw_times(
    n: int,
    distribution: Literal["uniform", "logit_normal"] = "logit_normal",
    *,
    mean: float = 0.0,
    std: float = 1.0,
    shift: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``n`` times, [n] of float32 on the CPU: ``shift_times(t, shift)`` of t ~ U(0, 1) or t = sigmoid(N(mean, std^2)).

    They are stratified: one time in each of n parts of equal probability, in random order. Each alone has the whole
    distribution, so the loss is the same on average as with independent times. It varies less from batch to batch, and
    every batch says something of every part; the gradient varies as much as before (docs/diffusion.md).

    Args:
        mean, std: of logit_normal; a negative mean is nearer to the data.
        generator: the source, on the CPU; torch's own state by default.

    Raises:
        ConfigError: an unknown distribution, or ``std`` or ``shift`` not above 0.

    Source: logit-normal from Esser et al. 2024, equation 19; strata from Kingma et al. 2021, appendix I.1.
    """
    if distribution not in DISTRIBUTIONS:
        allowed = " and ".join(map(repr, DISTRIBUTIONS))
        raise ConfigError(f"distribution of the times is {shown(distribution)}; allowed are {allowed}")
    if not 0 < std < math.inf:
        raise ConfigError(f"std of the times is {shown(std)}; it must be a number above 0")
    u = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    if distribution == "logit_normal":
        u = torch.sigmoid(mean + std * torch.special.ndtri(u))
    return shift_times(u, shift).float()
