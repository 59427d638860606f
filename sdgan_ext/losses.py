"""Objectives and regularisers by name, as pure functions.

Logits are ``C = D(x)``, ``sp`` is softplus. Sums run over pixels, features or latent dimensions, means over the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import ops
from .ops.adversarial_loss import discriminator_loss, generator_loss

__all__ = [
    "discriminator_loss",
    "feature_loss",
    "generator_loss",
    "gradient_penalty",
    "kl",
    "pixel_loss",
    "r1_penalty",
]


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """``KL(N(mean, exp(logvar)) || N(0, I)) = 1/2 sum(mean^2 + exp(logvar) - 1 - logvar)``, averaged over the batch.

    Kingma & Welling 2014, appendix B. mean and logvar are [N, Z]; the result is a scalar, in nats.
    """
    return ops.gaussian_kl(mean, logvar, "batchmean")


def pixel_loss(x_hat: Tensor, x: Tensor) -> Tensor:
    """``1/2 sum((x_hat - x)^2)``, averaged over the batch: -log N(x; x_hat, I) without its constant.

    x_hat and x are [N, ...] of one shape; the result is a scalar.
    """
    return 0.5 * ops.reconstruction_loss(x_hat, x, "mse", "batchmean")


def feature_loss(features_hat: Tensor, features: Tensor) -> Tensor:
    """``1/2 sum((D_l(x_hat) - D_l(x))^2)``, averaged over the batch: the learned similarity of Larsen et al. 2016.

    ``features`` are the target, taken as a constant. Both are [N, ...] of one shape; the result is a scalar.
    """
    return pixel_loss(features_hat, features.detach())


def r1_penalty(logits: Tensor, x: Tensor, gamma: float) -> Tensor:
    """``gamma / 2 mean(|d C / d x|^2)`` (Mescheder et al. 2018); the same at generated images is R2.

    Args:
        logits: D(x), [N, 1], without anything in D that mixes the images of a batch.
        x: [N, C, H, W], with ``requires_grad`` set before D saw it.
        gamma: the weight.

    Returns:
        A scalar that can be differentiated with respect to D's parameters.
    """
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return 0.5 * gamma * slope.square().flatten(1).sum(1).mean()


def gradient_penalty(discriminator, x: Tensor, x_hat: Tensor, weight: float, *, generator=None) -> Tensor:
    """``weight mean((|d C / d u| - 1)^2)`` at random points u between x and x_hat (WGAN-GP, Gulrajani et al. 2017).

    Args:
        discriminator: images [N, C, H, W] to logits, without batch norm.
        x, x_hat: real and generated images, [N, C, H, W].
        weight: 10 in the paper.
        generator: where the points are drawn from; on the images' device.

    Returns:
        A scalar that can be differentiated with respect to D's parameters.
    """
    t = torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device, generator=generator)
    u = torch.lerp(x.detach(), x_hat.detach(), t).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(u).sum(), u, create_graph=True)
    return weight * (slope.square().flatten(1).sum(1).sqrt() - 1).square().mean()
