"""The exponential moving average of a model's weights: what is shown and saved."""

from __future__ import annotations

import torch
from torch.optim.swa_utils import AveragedModel

from ..models.vae_gan import VAEGAN
from .config import TrainConfig

__all__ = ["ema_beta", "make_ema"]


def ema_beta(images_seen: int, batch_size: int, ema_images: int) -> float:
    """The share of the old average that stays: ``0.5 ** (batch_size / min(ema_images, 0.05 * images_seen))``.

    A weight's share halves every ``ema_images`` images; at the start sooner, so that the random initial weights are
    forgotten (the ramp-up of Karras et al. 2020).
    """
    return 0.5 ** (batch_size / max(min(ema_images, 0.05 * images_seen), 1e-8))


def make_ema(model: VAEGAN, config: TrainConfig) -> AveragedModel:
    """The average of ``model``'s weights.

    ``update_parameters(model)`` after every step; ``module`` is the model to show and to save. Buffers (the running
    statistics of batch norm) are copied, not averaged. The number of updates is in the state dict, and the share of an
    update depends on nothing else: a resumed run averages like an uninterrupted one.
    """

    @torch.no_grad()
    def average(averaged, current, updates):
        beta = ema_beta((int(updates) + 1) * config.batch_size, config.batch_size, config.ema_images)
        torch._foreach_lerp_(averaged, current, 1 - beta)

    return AveragedModel(model, multi_avg_fn=average).requires_grad_(False)
