"""The loss of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .._errors import ConfigError
from .guidance import draw_dropped, drop_condition
from .paths import DiffusionNetwork, Parametrization, min_snr_weight
from .times import draw_times

__all__ = ["DiffusionLoss", "Draws", "diffusion_loss", "draw"]


class Draws(NamedTuple):
    """The random numbers of one batch, drawn before the step and on the CPU: the same on every device.

    Attributes:
        t: the times, [N].
        eps: from N(0, I), [N, ...].
        dropped: whose condition is dropped, [N] of bool; None: nobody's.
    """

    t: Tensor
    eps: Tensor
    dropped: Tensor | None = None

    def of_rows(self, rows: slice) -> Draws:
        """Those of a part of the batch."""
        return Draws(self.t[rows], self.eps[rows], None if self.dropped is None else self.dropped[rows])


class DiffusionLoss(NamedTuple):
    """Of one batch.

    Attributes:
        loss: the weighted mean over the batch, a scalar with a gradient.
        per_sample: the mean squared error of each prediction, without the weight and without a gradient, [N].
        t: the time of each, [N], on the loss's device.
    """

    loss: Tensor
    per_sample: Tensor
    t: Tensor


def draw(
    shape: Sequence[int],
    *,
    distribution: Literal["uniform", "logit_normal"] = "logit_normal",
    mean: float = 0.0,
    std: float = 1.0,
    shift: float = 1.0,
    condition_dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> Draws:
    """For a batch of latents of this shape, [N, ...].

    Args:
        distribution, mean, std, shift: of :func:`~sdgan_ext.diffusion.draw_times`.
        condition_dropout: the probability that a condition is dropped; 0.1 is usual. Whatever it is, the other numbers
            are the same.
        generator: the source, on the CPU; torch's own state by default.

    Raises:
        ConfigError: as :func:`~sdgan_ext.diffusion.draw_times`, or ``condition_dropout`` is not in [0, 1].
    """
    t = draw_times(shape[0], distribution, mean=mean, std=std, shift=shift, generator=generator)
    dropped = draw_dropped(shape[0], condition_dropout, generator=generator)
    eps = torch.randn(tuple(shape), generator=generator)
    return Draws(t, eps, dropped if condition_dropout > 0 else None)


def diffusion_loss(
    network: DiffusionNetwork,
    path: Parametrization,
    x_0: Tensor,
    condition: Tensor | None = None,
    *,
    draws: Draws,
    null: Tensor | None = None,
    min_snr_gamma: float | None = None,
) -> DiffusionLoss:
    """``mean(weight(t) |network(x_t, t, condition) - target|^2)``, the square a mean over a sample's elements.

    Equivalent to, without dropped conditions and weights::

        x_t = path.add_noise(x_0, draws.eps, draws.t)
        target = path.target(x_0, draws.eps, draws.t)
        torch.nn.functional.mse_loss(network(x_t, path.timesteps(draws.t), condition), target)

    Args:
        x_0: normalised latents, [N, ...].
        condition: [N, ...]; None for an unconditional network.
        draws: of :func:`draw`, on any device.
        null: the null condition, [...], which the dropped rows get.
        min_snr_gamma: of :func:`~sdgan_ext.diffusion.min_snr_weight`, 5 in the paper; None: every time weighs the same.

    Raises:
        ConfigError: conditions are to be dropped, and there is no null condition.
        ValueError: the draws, the condition or the network's answer do not have the batch's shape.

    Source: Lipman et al. 2023, equation 14, and Salimans & Ho 2022, appendix D.
    """
    if draws.eps.shape != x_0.shape or len(draws.t) != len(x_0):
        raise ValueError(f"draws are for a batch of shape {list(draws.eps.shape)}, and x_0 has {list(x_0.shape)}")
    if condition is not None and len(condition) != len(x_0):
        raise ValueError(f"condition has {len(condition)} rows, and x_0 has {len(x_0)}; each image needs one")
    if condition is not None and draws.dropped is not None:
        if null is None:
            raise ConfigError(
                "condition_dropout is above 0, and the model has no null condition to take a condition's place"
            )
        condition = drop_condition(condition, draws.dropped, null)
    t, eps = draws.t.to(x_0.device, non_blocking=True), draws.eps.to(x_0, non_blocking=True)
    prediction = network(path.add_noise(x_0, eps, t), path.timesteps(t), condition)
    if prediction.shape != x_0.shape:
        raise ValueError(
            f"the network answers with shape {list(prediction.shape)} to {list(x_0.shape)}; they must be the same"
        )
    dtype = torch.promote_types(x_0.dtype, torch.float32)
    errors = (prediction.to(dtype) - path.target(x_0, eps, t).to(dtype)).square().flatten(1).mean(1)
    weighted = errors if min_snr_gamma is None else errors * min_snr_weight(path, t, min_snr_gamma)
    return DiffusionLoss(weighted.mean(), errors.detach(), t)
