"""What the network of a diffusion model predicts, and how noise and data are mixed at a time t.

``x_t = alpha(t) x_0 + sigma(t) eps``, with data at t = 0 and noise from N(0, I) at t = 1. A :class:`Parametrization` is
such a path together with the target of the network; both here predict a velocity. diffusers' models count time in
timesteps, 1000 as a rule, so a network is called with those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .._errors import ConfigError, shown

__all__ = [
    "PARAMETRIZATIONS",
    "Denoised",
    "DiffusionNetwork",
    "Flow",
    "Parametrization",
    "VPrediction",
    "min_snr_weight",
    "parametrization",
]


class DiffusionNetwork(Protocol):
    """``network(x_t [N, ...], timesteps [N], condition [N, ...] or None)`` answers a prediction of x_t's shape."""

    def __call__(self, x_t: Tensor, timesteps: Tensor, condition: Tensor | None, /) -> Tensor: ...


class Denoised(NamedTuple):
    """What a prediction says of x_t, both of its shape."""

    x_0: Tensor
    eps: Tensor


class Parametrization(Protocol):
    """The path from data to noise and the network's target on it. Every t is [N], or a scalar for the whole batch.

    Attributes:
        name: of the configuration, and one of :data:`PARAMETRIZATIONS`.
        num_train_timesteps: diffusers' timesteps from data to noise.
    """

    @property
    def name(self) -> str: ...

    @property
    def num_train_timesteps(self) -> int: ...

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``(alpha, sigma)`` at t, of t's shape."""

    def add_noise(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t, [N, ...]."""

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network must answer at x_t, [N, ...]."""

    def denoise(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Denoised:
        """The x_0 and the eps that a prediction stands for: the inverse of ``add_noise`` and ``target`` together."""

    def timesteps(self, t: Tensor) -> Tensor:
        """t in diffusers' unit, as the network is given it; not rounded."""

    def time_of(self, timestep: float) -> float:
        """The t of one of diffusers' timesteps."""


@dataclass(frozen=True)
class _Path:
    num_train_timesteps: int = 1000

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def add_noise(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self._beside(t, x_0)
        return alpha * x_0 + sigma * eps

    def _beside(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients, ready to be multiplied with x [N, ...]."""
        alpha, sigma = (c.to(x).reshape(c.shape + (1,) * (x.dim() - c.dim())) for c in self.coefficients(t))
        return alpha, sigma


@dataclass(frozen=True)
class Flow(_Path):
    """Rectified flow: ``x_t = (1 - t) x_0 + t eps``, target ``eps - x_0``; a timestep is ``1000 t``.

    Source: Liu et al. 2023, equation 1; Lipman et al. 2023; the direction of time is that of Esser et al. 2024.
    """

    name = "flow"

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return eps - x_0

    def denoise(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Denoised:
        alpha, sigma = self._beside(t, x_t)
        return Denoised(x_t - sigma * prediction, x_t + alpha * prediction)

    def timesteps(self, t: Tensor) -> Tensor:
        return self.num_train_timesteps * t

    def time_of(self, timestep: float) -> float:
        return timestep / self.num_train_timesteps


@dataclass(frozen=True)
class VPrediction(_Path):
    """``alpha^2 + sigma^2 = 1``, target ``alpha eps - sigma x_0``; a timestep is ``1000 t - 1``.

    alpha is the cosine schedule, scaled to 1 at t = 0; it is exactly 0 at t = 1: a zero terminal SNR, at which a
    prediction of eps would say nothing. At the integer timesteps it is diffusers' ``squaredcos_cap_v2`` with
    ``rescale_betas_zero_snr``, to 1e-4.

    Source: v from Salimans & Ho 2022, section 4 and appendix D; the schedule from Nichol & Dhariwal 2021, equation 17;
    zero terminal SNR from Lin et al. 2023.
    """

    name = "v"

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # With a = (t + s) / (1 + s) pi / 2 and b = s / (1 + s) pi / 2: alpha = cos a / cos b and sigma^2 = 1 - alpha^2,
        # written without differences of large numbers.
        s = 0.008
        b = s / (1 + s) * math.pi / 2
        alpha = torch.sin((1 - t) / (1 + s) * math.pi / 2) / math.cos(b)
        below = t / (1 + s) * math.pi / 2  # a - b
        sigma = torch.sqrt(torch.sin(below) * torch.sin(below + 2 * b)) / math.cos(b)
        return alpha, sigma

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self._beside(t, x_0)
        return alpha * eps - sigma * x_0

    def denoise(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Denoised:
        alpha, sigma = self._beside(t, x_t)
        return Denoised(alpha * x_t - sigma * prediction, sigma * x_t + alpha * prediction)

    def timesteps(self, t: Tensor) -> Tensor:
        return self.num_train_timesteps * t - 1

    def time_of(self, timestep: float) -> float:
        return (timestep + 1) / self.num_train_timesteps


PARAMETRIZATIONS = ("flow", "v")


def parametrization(name: str) -> Parametrization:
    """The parametrization of a configuration's word.

    Raises:
        ConfigError: an unknown name.
    """
    if name == "flow":
        return Flow()
    if name == "v":
        return VPrediction()
    allowed = " and ".join(map(repr, PARAMETRIZATIONS))
    raise ConfigError(f"parametrization is {shown(name)}; allowed are {allowed}")


def min_snr_weight(path: Parametrization, t: Tensor, gamma: float = 5.0) -> Tensor:
    """The weight of the squared error of a prediction: ``min(SNR, gamma)`` on the error of x_0. [N]

    A prediction's error is 1 / sigma times that of x_0 in both parametrizations, so the weight is
    ``sigma^2 min(SNR, gamma) = min(alpha^2, gamma sigma^2)``; for "v" the paper's ``min(SNR, gamma) / (SNR + 1)``.

    It is 0 at t = 1, so a network of zero terminal SNR learns its first step from the times beside it.

    Source: Hang et al. 2023, section 3.4.
    """
    alpha, sigma = path.coefficients(t)
    return torch.minimum(alpha.square(), gamma * sigma.square())
