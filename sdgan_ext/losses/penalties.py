"""What holds a game in its course: penalties on slopes and weights, and the weight of the game itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["adaptive_weight", "gradient_penalty", "r1_penalty", "r2_penalty", "weight_penalty"]


def r1_penalty(logits: Tensor, x: Tensor, gamma: float) -> Tensor:
    """``gamma / 2 mean(|d C / d x|^2)`` (Mescheder et al. 2018, equation 9).

    Args:
        logits: D(x), [N, 1], without batch norm in D, which makes a logit depend on all images.
        x: [N, C, H, W], with ``requires_grad`` set before D saw it.
        gamma: the weight.

    Returns:
        A scalar that can be differentiated with respect to D's parameters.
    """
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return 0.5 * gamma * slope.square().flatten(1).sum(1).mean()


def r2_penalty(fake_logits: Tensor, x_hat: Tensor, gamma: float) -> Tensor:
    """:func:`r1_penalty` at generated images: ``gamma / 2 mean(|d C / d x_hat|^2)`` (Mescheder et al. 2018, eq. 10;
    with R1 and relativistic pairing the recipe of R3GAN, Huang et al. 2024)."""
    return r1_penalty(fake_logits, x_hat, gamma)


def gradient_penalty(
    discriminator, x: Tensor, x_hat: Tensor, weight: float, *, t: Tensor | None = None, generator=None
) -> Tensor:
    """``weight mean((|d C / d u| - 1)^2)`` at random points u between x and x_hat (WGAN-GP, Gulrajani et al. 2017).

    Args:
        discriminator: images [N, C, H, W] to logits, without batch norm.
        x, x_hat: real and generated images, [N, C, H, W]; the latter may be of a lower precision.
        weight: 10 in the paper.
        t: where the points lie, 0 at x and 1 at x_hat, [N]; drawn uniformly unless given.
        generator: where the points are drawn from; on the images' device.

    Returns:
        A scalar that can be differentiated with respect to D's parameters.
    """
    if t is None:
        t = torch.rand(x.shape[0], dtype=x.dtype, device=x.device, generator=generator)
    u = torch.lerp(x.detach(), x_hat.detach().to(x.dtype), t.reshape(-1, 1, 1, 1)).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(u).sum(), u, create_graph=True)
    return weight * (torch.linalg.vector_norm(slope.flatten(1), dim=1) - 1).square().mean()


def weight_penalty(parameters: Iterable[Tensor], l1: float = 0.0, l2: float = 0.0) -> Tensor:
    """``l1 sum(|w|) + l2 / 2 sum(w^2)`` over the weights of layers; biases and scales of batch norm go free.

    Args:
        parameters: of a network; of them those with two or more dimensions are weights.

    Returns:
        A scalar.
    """
    weights = [weight for weight in parameters if weight.dim() > 1]
    penalty = weights[0].new_zeros(())
    for weight in weights:
        if l1:
            penalty = penalty + l1 * weight.abs().sum()
        if l2:
            penalty = penalty + 0.5 * l2 * weight.square().sum()
    return penalty


def adaptive_weight(reconstruction_slopes: Sequence[Tensor], adversarial_slopes: Sequence[Tensor]) -> Tensor:
    """``clamp(|d nll / d w| / (|d g / d w| + 1e-4), 0, 1e4)``: the game pulls at w as hard as the reconstruction does.

    Esser et al. 2021 (VQGAN, equation 7) and the autoencoder of Rombach et al. 2022, which halves it.

    Args:
        reconstruction_slopes, adversarial_slopes: gradients at the decoder's last weight w, of the reconstruction and
            of G's adversarial loss.

    Returns:
        A scalar without a graph.
    """
    nll, g = (
        torch.linalg.vector_norm(torch.cat([slope.detach().flatten() for slope in slopes]))
        for slopes in (reconstruction_slopes, adversarial_slopes)
    )
    return (nll / (g + 1e-4)).clamp(0.0, 1e4)
