"""Classifier-free guidance: training without the condition now and then, sampling away from what that learnt.

A condition is a tensor with a row for each image: class labels [N], token ids [N, L], embeddings [N, L, D]. The null
condition is one such row and stands for "none": the null class, the tokens of the empty text, a learnt embedding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._errors import ConfigError, shown
from .paths import DiffusionNetwork, Parametrization

__all__ = ["Predict", "draw_dropped", "drop_condition", "guide", "guided"]

Predict = Callable[[Tensor, float], Tensor]
"""``predict(x_t, t)``: a network's prediction with its condition and guidance, at one t for the batch."""


def draw_dropped(n: int, probability: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Whose condition is dropped: [n] of bool on the CPU, each with this probability.

    Raises:
        ConfigError: the probability is not in [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ConfigError(f"condition_dropout is {shown(probability)}; it must be a number from 0 to 1")
    return torch.rand(n, generator=generator) < probability


def drop_condition(condition: Tensor, dropped: Tensor, null: Tensor) -> Tensor:
    """The condition [N, ...] with the null condition [...] in the dropped rows. A learnt null condition has a gradient.

    Equivalent to ``torch.stack([null if d else c for c, d in zip(condition, dropped)])``.

    Source: Ho & Salimans 2022, algorithm 1.
    """
    dropped = dropped.to(condition.device).reshape(-1, *(1,) * (condition.dim() - 1))
    return torch.where(dropped, null.to(condition), condition)


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """``unconditional + scale (conditional - unconditional)``: 0 is without the condition, 1 with it, more goes beyond.

    Predictions of a velocity, of eps and of x_0 are guided alike, for they follow from each other linearly.

    Source: Ho & Salimans 2022, equation 6, whose w is ``scale - 1``.
    """
    return torch.lerp(unconditional, conditional, scale)


def guided(
    network: DiffusionNetwork,
    path: Parametrization,
    condition: Tensor | None = None,
    *,
    scale: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    null: Tensor | None = None,
    negative: Tensor | None = None,
) -> Predict:
    """The network as a function of x_t and t alone.

    With scale 1, and outside of the interval, it is one evaluation of the batch; otherwise one of the batch twice over,
    unconditional rows first.

    Args:
        condition: [N, ...]; None for an unconditional network.
        scale: of :func:`guide`.
        interval: guidance acts for t from the first to the second, both included.
        null: the null condition that the network was trained with, [...]; None if there was none.
        negative: what to lead away from, [N, ...], in the null condition's place.

    Raises:
        ConfigError: guidance without a condition or without a null or negative one, a negative condition that would do
            nothing, one of another shape, a scale below 0, an interval that is none.

    Source: the interval from Kynkaanniemi et al. 2024.
    """
    low, high = interval
    if not 0 <= scale < float("inf"):
        raise ConfigError(f"guidance is {shown(scale)}; it must be a number of at least 0, and 1 is none")
    if not 0 <= low < high <= 1:
        raise ConfigError(
            f"the guidance interval is {shown(interval)}; it must be two times from 0 to 1, the lower first"
        )
    if scale == 1 and negative is not None:
        raise ConfigError("guidance is 1, at which a negative condition does nothing; give another guidance with it")
    unconditional = _unconditional(condition, null, negative) if scale != 1 else None

    def predict(x_t: Tensor, t: float) -> Tensor:
        acts = unconditional is not None and low <= t <= high
        x = torch.cat((x_t, x_t)) if acts else x_t
        dtype = torch.promote_types(x.dtype, torch.float32)  # timesteps of 16 bits would be rounded
        timesteps = path.timesteps(torch.full((len(x),), t, dtype=torch.float64)).to(x.device, dtype)
        if not acts:
            return network(x, timesteps, condition)
        conditions = torch.cat((unconditional, condition))  # type: ignore[arg-type]
        without, with_condition = network(x, timesteps, conditions).chunk(2)
        return guide(without, with_condition, scale)

    return predict


def _unconditional(condition: Tensor | None, null: Tensor | None, negative: Tensor | None) -> Tensor:
    """What guidance leads away from, a row for each of the condition's."""
    if condition is None:
        raise ConfigError("guidance needs a condition, and this model is sampled without one; leave guidance at 1")
    if negative is not None:
        if negative.shape != condition.shape:
            came = f"{list(negative.shape)} for a condition of shape {list(condition.shape)}"
            raise ConfigError(f"the negative condition has shape {came}; they must be the same")
        return negative.to(condition)
    if null is None:
        raise ConfigError(
            "guidance needs a model with a null condition, and this one was trained without; "
            "leave guidance at 1, or train it with a condition_dropout above 0"
        )
    return null.to(condition).expand_as(condition)
