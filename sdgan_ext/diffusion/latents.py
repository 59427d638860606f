"""Latents as the diffusion model sees them: of unit variance, and drawn anew from the cached posteriors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import ConfigError, DataError, shown

__all__ = ["LatentScaling", "sample_posterior"]


@dataclass(frozen=True)
class LatentScaling:
    """``(z - shift) * scale``, and back.

    Attributes:
        scale: ``scaling_factor`` of an autoencoder in diffusers; 1 over the latents' standard deviation.
        shift: ``shift_factor``; 0 for most.

    Raises:
        ConfigError: a scale that is not above 0, or a shift that is not finite.

    Source: Rombach et al. 2022, appendix G; the shift from Esser et al. 2024.
    """

    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        for name, value, right in (
            ("scaling_factor", self.scale, _finite(self.scale) and self.scale > 0),
            ("shift_factor", self.shift, _finite(self.shift)),
        ):
            if not right:
                allowed = "a number above 0" if name == "scaling_factor" else "a number"
                raise ConfigError(f"{name} of the latents is {shown(value)}; it must be {allowed}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LatentScaling:
        """Of an autoencoder in diffusers: ``from_config(vae.config)``.

        Raises:
            ConfigError: there is no ``scaling_factor``, or one of the two is no such number.
        """
        if config.get("scaling_factor") is None:
            raise ConfigError(
                "the autoencoder's configuration has no scaling_factor; take LatentScaling.measured(mean, logvar)"
            )
        shift = config.get("shift_factor")
        return cls(config["scaling_factor"], 0.0 if shift is None else shift)

    @classmethod
    def measured(cls, mean: Tensor, logvar: Tensor | None = None, *, shift: bool = False) -> LatentScaling:
        """So that latents drawn from these posteriors have the variance 1.

        Equivalent to ``LatentScaling(1 / (mean + (0.5 * logvar).exp() * torch.randn_like(mean)).std())`` with endless
        noise: the variance is that of the means and the mean of the variances.

        Args:
            mean: [N, ...], or the latents themselves.
            logvar: same shape; None: the latents have no noise.
            shift: move their mean to 0 too, which ``StableDiffusionPipeline`` does not undo.

        Raises:
            DataError: the variance is 0 or not finite.
        """
        variance = mean.double().var(correction=0).item()
        if logvar is not None:
            variance += logvar.double().exp().mean().item()
        if not (math.isfinite(variance) and variance > 0):
            raise DataError(
                f"the latents have a variance of {variance}; it must be finite and above 0 to be scaled to 1"
            )
        return cls(1 / math.sqrt(variance), mean.double().mean().item() if shift else 0.0)

    def normalize(self, z: Tensor) -> Tensor:
        """Of the autoencoder, to what the diffusion model sees. Of z's shape."""
        return (z - self.shift) * self.scale

    def denormalize(self, x: Tensor) -> Tensor:
        """Of the diffusion model, to what the decoder takes: ``x / scale + shift``. Of x's shape."""
        return x / self.scale + self.shift


def sample_posterior(mean: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """``mean + exp(logvar / 2) eps``: z ~ q(z|x) from what a cache holds, in every epoch another. Of mean's shape.

    A model that is trained on the means makes latents of too small a variance, and one sample of each is one point.

    Args:
        eps: from N(0, I), of the same shape.

    Source: Kingma & Welling 2014, section 2.4.
    """
    return torch.addcmul(mean, torch.exp(0.5 * logvar), eps)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
