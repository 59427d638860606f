"""The state of a diffusion training beyond its loss: what is learnt at which time, and what the latents are like."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..diffusion import DiffusionLoss
from ..diffusion.model import LatentDiffusion
from .health import Lasting, gradient_norms

__all__ = ["DiffusionHealth", "diffusion_complaints"]

_BUCKETS = 4  # of t
_STD = (0.8, 1.25)  # of x_0, within which the path from data to noise is about what it is meant to be


class DiffusionHealth:
    """What the steps of a log interval showed; warns when the latents have another scale than 1.

    Args:
        model: what is trained.
        say: takes a warning.
    """

    def __init__(self, model: LatentDiffusion, say: Callable[[str], None]):
        self._model = model
        self._lasting = Lasting(say)
        self._forget()

    def _forget(self) -> None:
        device = next(self._model.unet.parameters()).device
        self._sums, self._counts = torch.zeros(_BUCKETS, device=device), torch.zeros(_BUCKETS, device=device)
        self._moments: Tensor = torch.zeros(3, device=device, dtype=torch.float64)

    @torch.no_grad()
    def observe(self, loss: DiffusionLoss, x_0: Tensor) -> None:
        """Takes a step; waits for no device."""
        buckets = (loss.t * _BUCKETS).long().clamp(0, _BUCKETS - 1)
        self._sums.index_add_(0, buckets, loss.per_sample.to(self._sums))
        self._counts.index_add_(0, buckets, torch.ones_like(self._sums[buckets]))
        x = x_0.double()
        self._moments += torch.stack([x.sum(), x.square().sum(), x.new_tensor(float(x.numel()))])

    def examine(self, step: int) -> dict[str, float]:
        """The numbers since the last call, named "health/...": ``loss_t0.00_0.25`` and so on, the mean squared error
        without weights by the time (NaN where no time fell); ``latent_std``; ``gradient_<network>`` of the last step.
        """
        counts, sums = self._counts.tolist(), self._sums.tolist()
        numbers = {
            f"loss_t{k / _BUCKETS:.2f}_{(k + 1) / _BUCKETS:.2f}": sums[k] / counts[k] if counts[k] else math.nan
            for k in range(_BUCKETS)
        }
        total, squares, count = self._moments.tolist()
        if count:
            numbers["latent_std"] = math.sqrt(max(0.0, squares / count - (total / count) ** 2))
        numbers |= gradient_norms(self._model)
        self._forget()
        self._lasting.note(step, diffusion_complaints(numbers))
        return {f"health/{name}": value for name, value in numbers.items()}


def diffusion_complaints(numbers: Mapping[str, float]) -> dict[str, str]:
    """What is wrong by the ``numbers`` of :class:`DiffusionHealth`, by its kind, in words."""
    std = numbers.get("latent_std", 1.0)
    if _STD[0] <= std <= _STD[1]:
        return {}
    return {
        "latents": (
            f"the normalised latents have a standard deviation of {std:.2f}, which should be 1: the autoencoder's "
            "scaling_factor is not that of these images, and times mean another amount of noise"
        )
    }
