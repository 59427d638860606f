"""Latent diffusion as pure functions: the path from data to noise, the loss, guidance, solvers, latents.

::

    path = diffusion.parametrization("flow")
    draws = diffusion.draw(x_0.shape, condition_dropout=0.1)
    diffusion.diffusion_loss(network, path, x_0, labels, draws=draws, null=null).loss.backward()
    ...
    noise = diffusion.seeded_noise(range(8), x_0.shape[1:])
    latents = diffusion.sample(network, path, noise, labels[:8], guidance=2.0, null=null)

``x_0`` are normalised latents, t is 0 at the data and 1 at the noise, ``network(x_t, timesteps, condition)`` is any
module with the arguments of diffusers' denoisers. Nothing here needs diffusers but the solvers that are its schedulers.
"""

from .guidance import draw_dropped, drop_condition, guide, guided
from .latents import LatentScaling, sample_posterior
from .loss import DiffusionLoss, Draws, diffusion_loss, draw
from .paths import (
    PARAMETRIZATIONS,
    Denoised,
    DiffusionNetwork,
    Flow,
    Parametrization,
    VPrediction,
    min_snr_weight,
    parametrization,
)
from .sampling import first_step, keep_known, sample, seeded_noise
from .solvers import SOLVERS, diffusers_scheduler
from .times import DISTRIBUTIONS, draw_times, shift_times

__all__ = [
    "DISTRIBUTIONS",
    "PARAMETRIZATIONS",
    "SOLVERS",
    "Denoised",
    "DiffusionLoss",
    "DiffusionNetwork",
    "Draws",
    "Flow",
    "LatentScaling",
    "Parametrization",
    "VPrediction",
    "diffusers_scheduler",
    "diffusion_loss",
    "draw",
    "draw_dropped",
    "draw_times",
    "drop_condition",
    "first_step",
    "guide",
    "guided",
    "keep_known",
    "min_snr_weight",
    "parametrization",
    "sample",
    "sample_posterior",
    "seeded_noise",
    "shift_times",
]
