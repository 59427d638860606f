"""Regularisers of adversarial training: penalties on gradients and weights, and the weight of the adversarial term."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["adaptive_weight", "gradient_penalty", "r1_penalty", "r2_penalty", "weight_penalty"]


def r1_penalty(logits: Tensor, x: Tensor, gamma: float) -> Tensor:
    """``gamma / 2 mean(|d C / d x|^2)``: the gradient penalty at real images.

    Equivalent to::

        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        0.5 * gamma * gradient.square().sum((1, 2, 3)).mean()

    Args:
        logits: D(x), [N, 1], without batch norm in D, which makes a logit depend on all images.
        x: [N, C, H, W], with ``requires_grad`` set before D was called.
        gamma: the weight.

    Returns:
        A scalar that can be differentiated with respect to D's parameters.

    Raises:
        RuntimeError: ``logits`` were not computed from ``x``, or ``x`` does not require a gradient.

    Source: Mescheder et al. 2018, equation 9.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return 0.5 * gamma * gradient.square().flatten(1).sum(1).mean()


def r2_penalty(fake_logits: Tensor, x_hat: Tensor, gamma: float) -> Tensor:
    """:func:`r1_penalty` at generated images: ``gamma / 2 mean(|d C / d x_hat|^2)``.

    Equivalent to ``r1_penalty(fake_logits, x_hat, gamma)``.

    Args:
        fake_logits: D(x_hat), [N, 1].
        x_hat: [N, C, H, W], with ``requires_grad`` set before D was called.
        gamma: the weight.

    Returns:
        A scalar that can be differentiated with respect to D's parameters.

    Raises:
        RuntimeError: as :func:`r1_penalty`.

    Source: Mescheder et al. 2018, equation 10; with R1 and relativistic pairing the recipe of R3GAN, Huang et al. 2024.
    """
    return r1_penalty(fake_logits, x_hat, gamma)


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor],
    x: Tensor,
    x_hat: Tensor,
    weight: float,
    *,
    t: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``weight mean((|d C / d u| - 1)^2)`` at random points u between x and x_hat.

    Equivalent to::

        u = torch.lerp(x, x_hat, torch.rand(len(x), 1, 1, 1)).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(u).sum(), u, create_graph=True)
        weight * (gradient.flatten(1).norm(dim=1) - 1).square().mean()

    Args:
        discriminator: images [N, C, H, W] to logits, without batch norm.
        x: real images, [N, C, H, W].
        x_hat: generated images, same shape; they may be of a lower precision.
        weight: 10 in the paper.
        t: where the points lie, 0 at x and 1 at x_hat, [N]; drawn uniformly unless given.
        generator: where the points are drawn from; on the images' device.

    Returns:
        A scalar that can be differentiated with respect to D's parameters.

    Raises:
        RuntimeError: shapes differ, or the discriminator's logits do not depend on its input.

    Source: WGAN-GP, Gulrajani et al. 2017, equation 3.
    """
    if t is None:
        t = torch.rand(x.shape[0], dtype=x.dtype, device=x.device, generator=generator)
    u = torch.lerp(x.detach(), x_hat.detach().to(x.dtype), t.reshape(-1, 1, 1, 1)).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(u).sum(), u, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return weight * (norms - 1).square().mean()


def weight_penalty(parameters: Iterable[Tensor], l1: float = 0.0, l2: float = 0.0) -> Tensor:
    """``l1 sum(|w|) + l2 / 2 sum(w^2)`` over the weights of layers; biases and scales of batch norm are left out.

    Equivalent to ``sum(l1 * w.abs().sum() + 0.5 * l2 * w.square().sum() for w in parameters if w.dim() > 1)``.

    Args:
        parameters: of a network; of them those with two or more dimensions are weights. One must be.
        l1: weight of the sum of absolute values.
        l2: weight of half the sum of squares.

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


def adaptive_weight(reconstruction_gradients: Sequence[Tensor], adversarial_gradients: Sequence[Tensor]) -> Tensor:
    """``clamp(|d nll / d w| / (|d g / d w| + 1e-4), 0, 1e4)``: with it the adversarial term's gradient at w is as large
    as that of the reconstruction.

    Args:
        reconstruction_gradients: at the decoder's last weight w, of the reconstruction loss.
        adversarial_gradients: at the same, of G's adversarial loss.

    Returns:
        A scalar without a graph.

    Source: Esser et al. 2021 (VQGAN), equation 7; the autoencoder of Rombach et al. 2022 halves it.
    """
    nll, g = _norm(reconstruction_gradients), _norm(adversarial_gradients)
    return (nll / (g + 1e-4)).clamp(0.0, 1e4)


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    """Of all of them together."""
    norm: Tensor = torch.linalg.vector_norm(torch.cat([gradient.detach().flatten() for gradient in gradients]))
    return norm
