"""The random numbers of a step, drawn before it and on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from ..losses.augment import DRAWS
from ..ops.gaussian import draw_seed
from .config import TrainConfig

if TYPE_CHECKING:
    from .networks import Model

__all__ = ["Noise", "draw_noise", "noise_of_rows"]


@dataclass(frozen=True)
class Noise:
    """Of one :func:`~sdgan_ext.training.steps.forward` and the phases on its images; on the CPU or where the model is.

    Attributes:
        seed: of z ~ q(z|x), a scalar of int64; None in mode "gan".
        latents: z_p ~ N(0, I), [N, *latent_shape]; None in mode "vae" and without ``prior_images``.
        eps: in place of the seed, the numbers that it stands for, [N, *latent_shape].
        points: where between real (0) and generated (1) images WGAN-GP takes its penalty, [K, N] with K kinds of
            generated images; None without it.
        draws: of DiffAugment, [2, 1 + K, N, 7]: for phase D and for phase E+G; None without it.
        thresholds: of dynamic binarisation, in [0, 1), [N, 1, H, W]; None without it.
    """

    seed: Tensor | None = None
    latents: Tensor | None = None
    eps: Tensor | None = None
    points: Tensor | None = None
    draws: Tensor | None = None
    thresholds: Tensor | None = None


def draw_noise(model: Model, n: int, config: TrainConfig, *, generator: torch.Generator | None = None) -> Noise:
    """The noise for ``n`` images.

    Args:
        generator: its source, on the CPU: the same numbers on every device. torch's own state by default.
    """
    kinds = {"gan": 1, "vae": 0, "vae-gan": 1 + config.prior_images}[config.mode]
    prior = config.mode == "gan" or (config.mode == "vae-gan" and config.prior_images)
    augments = kinds > 0 and config.diffaugment is not None
    return Noise(
        None if config.mode == "gan" else draw_seed(generator),
        torch.randn(n, *model.traits.latent_shape, generator=generator) if prior else None,
        points=torch.rand(kinds, n, generator=generator) if kinds and config.gp_weight > 0 else None,
        draws=torch.rand(2, 1 + kinds, n, DRAWS, generator=generator) if augments else None,
        thresholds=torch.rand(n, 1, *model.traits.image_shape[1:], generator=generator) if config.binarise else None,
    )


def noise_of_rows(noise: Noise, rows: slice, batch_size: int, latent_shape: int | Sequence[int]) -> Noise:
    """The part of a whole batch's noise that belongs to some of its rows.

    A seed stands for the numbers of the whole batch, so those are made and ``eps`` takes its place.

    Args:
        rows: of the batch.
        batch_size: of the whole batch.
        latent_shape: of the z of one image; a number Z stands for (Z,).
    """
    eps = noise.eps
    if noise.seed is not None:
        shape = (latent_shape,) if isinstance(latent_shape, int) else latent_shape
        zeros = torch.zeros(batch_size, *shape, device=noise.seed.device)
        eps = ops.sample_gaussian(zeros, zeros, seed=noise.seed)[0]
    latents, eps, thresholds = (None if t is None else t[rows] for t in (noise.latents, eps, noise.thresholds))
    points = None if noise.points is None else noise.points[:, rows]
    draws = None if noise.draws is None else noise.draws[:, :, rows]
    return Noise(None, latents, eps, points, draws, thresholds)
