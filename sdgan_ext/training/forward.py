"""The images of a step, made once and with their graph."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from .. import losses
from .config import TrainConfig
from .networks import Model
from .noise import Noise, draw_noise

__all__ = ["Images", "forward"]


@dataclass
class Images:
    """What a step works on; everything but ``real`` and ``labels`` carries its graph.

    Attributes:
        real: x, [N, C, H, W]; with ``binarise`` the -1 and 1 drawn from it.
        reconstructed: G(z) with z ~ q(z|x), [N, C, H, W]; None in mode "gan".
        generated: G(z_p) with z_p ~ N(0, I), [N, C, H, W]; None in mode "vae" and without ``prior_images``.
        z: [N, *latent_shape]; None in mode "gan".
        kl: KL(q(z|x) || N(0, I)), a scalar; None in mode "gan".
        kl_free_bits: what stands for it in the encoder's loss, with free bits; None without.
        labels: of the real images, and of those made from and beside them, [N]; None without classes.
        noise: what the phases need of it beside the images.
    """

    real: Tensor
    reconstructed: Tensor | None = None
    generated: Tensor | None = None
    z: Tensor | None = None
    kl: Tensor | None = None
    kl_free_bits: Tensor | None = None
    labels: Tensor | None = None
    noise: Noise | None = None


def forward(
    model: Model,
    x: Tensor,
    config: TrainConfig,
    *,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Noise | None = None,
) -> Images:
    """Encodes, samples and generates, once, with the graph; with ``checkpointing`` with the blocks' inputs alone.

    With batch norm in the generator both kinds of latents go through it as one batch: they are normalised alike, and
    its running statistics, updated once a step, are of both kinds, as in evaluation. With ``binarise`` every network
    and every phase is given the drawn pixels in place of ``x``.

    Args:
        model: in training mode.
        x: real images [N, C, H, W] in [-1, 1].
        labels: of ``x``, int64 [N]; needed by a conditional model, which generates images of the same classes.
        generator: where :func:`draw_noise` draws from.
        noise: drawn already.
    """
    noise = noise or draw_noise(model, len(x), config, generator=generator)
    with cast("Any", model).checkpointed() if config.checkpointing else contextlib.nullcontext():
        return _images(model, x, config, labels, noise)


def _images(model: Model, x: Tensor, config: TrainConfig, labels: Tensor | None, noise: Noise) -> Images:
    if config.binarise:
        x = _binarised(x, noise.thresholds)
    images = Images(x, labels=labels, noise=noise)
    latents = []
    if config.mode != "gan":
        given = {"seed": noise.seed.to(x.device)} if noise.eps is None else {"eps": noise.eps.to(x)}
        posterior = model.encode(x, labels)
        if config.free_bits:
            images.z, kl = posterior.sample_with_kl(**given, reduction="none")
            images.kl, images.kl_free_bits = kl.detach().sum() / len(x), losses.free_bits(kl, config.free_bits)
        else:
            images.z, images.kl = posterior.sample_with_kl(**given)
        latents.append(images.z)
    if noise.latents is not None:
        latents.append(noise.latents.to(x))
    if model.traits.generator_mixes_images:
        together = None if labels is None else labels.repeat(len(latents))
        made = model.decode(torch.cat(latents), together).chunk(len(latents))
    else:
        made = [model.decode(z, labels) for z in latents]
    images.reconstructed = None if config.mode == "gan" else made[0]
    images.generated = None if noise.latents is None else made[-1]
    return images


def _binarised(x: Tensor, thresholds: Tensor) -> Tensor:
    """-1 and 1, every pixel from Bernoulli((x + 1) / 2) (Salakhutdinov & Murray 2008; Burda et al. 2016)."""
    return (thresholds.to(x.device) < (x + 1) / 2).to(x.dtype) * 2 - 1
