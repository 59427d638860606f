"""The encoder's answer: a diagonal normal distribution per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..ops._enums import Reduction

__all__ = ["Posterior"]


@dataclass(frozen=True)
class Posterior:
    """``q(z|x) = N(mean, exp(logvar))``.

    Attributes:
        mean, logvar: [N, latent_dim].
    """

    mean: Tensor
    logvar: Tensor

    def sample(self, *, seed: int | Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """``mean + exp(logvar / 2) * eps``, differentiable in both (Kingma & Welling 2014). [N, latent_dim]"""
        return self.sample_with_kl(seed=seed, generator=generator)[0]

    def mode(self) -> Tensor:
        """The most likely z: the mean. [N, latent_dim]"""
        return self.mean

    def kl(self, reduction: Reduction = "batchmean") -> Tensor:
        """``KL(q || N(0, I)) = 1/2 sum(mean^2 + exp(logvar) - 1 - logvar)`` in nats.

        ``reduction`` is "batchmean" (summed over the latent dimensions, averaged over the batch), "sum", "mean" or
        "none".
        """
        return ops.gaussian_kl(self.mean, self.logvar, reduction)

    def sample_with_kl(
        self,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
        eps: Tensor | None = None,
        reduction: Reduction = "batchmean",
    ) -> tuple[Tensor, Tensor]:
        """``(sample(), kl(reduction))`` in one pass over mean and logvar; ``eps`` stands instead of a seed."""
        return ops.sample_gaussian(self.mean, self.logvar, seed=seed, generator=generator, eps=eps, reduction=reduction)
