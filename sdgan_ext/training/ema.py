"""The exponential moving average of a model's weights: what is shown and saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from .._torch_internals import foreach_lerp_
from .config import TrainConfig

if TYPE_CHECKING:
    from .networks import Model

__all__ = ["average_in", "ema_beta", "make_ema", "next_share"]


def ema_beta(images_seen: int, batch_size: int, ema_images: int) -> float:
    """The share of the old average that stays: ``0.5 ** (batch_size / min(ema_images, 0.05 * images_seen))``.

    A weight's share halves every ``ema_images`` images; at the start sooner, so that the random initial weights are
    forgotten (the ramp-up of Karras et al. 2020).
    """
    return 0.5 ** (batch_size / max(min(ema_images, 0.05 * images_seen), 1e-8))


def make_ema(model: Model, config: TrainConfig) -> AveragedModel:
    """The average of ``model``'s weights.

    ``update_parameters(model)`` after every step; ``module`` is the model to show and to save. Buffers (the running
    statistics of batch norm) are copied, not averaged. The number of updates is in the state dict, and the share of an
    update depends on nothing else: a resumed run averages like an uninterrupted one.
    """

    @torch.no_grad()
    def average(averaged, current, updates):
        foreach_lerp_(averaged, current, _share(int(updates), config))

    return AveragedModel(model, multi_avg_fn=average).requires_grad_(False)


def next_share(ema: AveragedModel, config: TrainConfig) -> float:
    """The share of the current weights in the average after the next update; 1 in the first one, which copies them.

    Waits for no GPU: AveragedModel counts its updates on the CPU.
    """
    return _share(int(ema.n_averaged), config)


@torch.no_grad()
def average_in(ema: AveragedModel, model: Model, share: Tensor) -> None:
    """``ema.update_parameters(model)`` without the count, which the caller moves on: ``ema.n_averaged += 1``.

    AveragedModel decides by the count, in Python, what is to be computed; this is always the same computation, so it
    can be in a CUDA graph.

    Args:
        share: of :func:`next_share`, a scalar where the weights are.
    """
    averaged = list(ema.module.parameters())
    # One scalar tensor for all weights is none of the overloads; a list of it is, and equals the float bit by bit.
    foreach_lerp_(averaged, list(model.parameters()), [share.to(weight.dtype) for weight in averaged])
    for copied, buffer in zip(ema.module.buffers(), model.buffers(), strict=True):
        copied.copy_(buffer)


def _share(updates: int, config: TrainConfig) -> float:
    return 1 - ema_beta((updates + 1) * config.batch_size, config.batch_size, config.ema_images) if updates else 1.0
