"""The terms of a VAE: divergence from the prior, distance of reconstructions."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .. import ops
from ..ops._enums import Reconstruction

__all__ = ["PIXEL_LOSSES", "feature_loss", "free_bits", "kl", "pixel_loss", "pixel_nll"]

PixelLoss = Literal["mse", "l1", "bernoulli"]

PIXEL_LOSSES: tuple[PixelLoss, ...] = get_args(PixelLoss)

#: Of the kinds of ``ops.reconstruction_loss``.
_FACTORS: dict[Reconstruction, float] = {"mse": 0.5, "l1": 1.0}


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """``KL(N(mean, exp(logvar)) || N(0, I)) = 1/2 sum(mean^2 + exp(logvar) - 1 - logvar)``, averaged over the batch.

    Equivalent to ``0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / len(mean)``.

    Args:
        mean: [N, Z] or [N, C, H, W].
        logvar: logarithm of the variance, same shape.

    Returns:
        A scalar, in nats per image.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: Kingma & Welling 2014, appendix B.
    """
    return ops.gaussian_kl(mean, logvar, "batchmean")


def free_bits(kl: Tensor, nats: float) -> Tensor:
    """``sum_j max(nats, mean_n kl[n, j])``: below ``nats`` the divergence of a latent dimension costs no less.

    Equivalent to ``kl.mean(0).clamp(min=nats).sum()``.

    Args:
        kl: of every image and dimension, [N, Z], as of ``ops.gaussian_kl(..., reduction="none")``, in nats.
        nats: the free divergence of a dimension; 0 makes the result the KL divergence itself.

    Returns:
        A scalar, in nats. It has no gradient in the dimensions below ``nats``.

    Source: Kingma et al. 2016 (inverse autoregressive flow, appendix C.8), one latent dimension to a group.
    """
    return kl.mean(0).clamp(min=nats).sum()


def pixel_loss(x_hat: Tensor, x: Tensor, kind: PixelLoss = "mse") -> Tensor:
    """The distance of reconstructions to their images, summed over pixels, averaged over the batch.

    ``mse`` is ``1/2 sum((x_hat - x)^2)``, which is -log N(x; x_hat, I) without its constant; ``l1`` is
    ``sum(|x_hat - x|)``, -log Laplace(x; x_hat, 1) without its constant; ``bernoulli`` is the cross-entropy of pixels,
    ``-sum(t log p + (1 - t) log(1 - p))`` with ``p = (x_hat + 1) / 2`` and ``t = (x + 1) / 2``, where grey pixels are
    soft targets.

    Equivalent to, for ``mse``, ``0.5 * (x_hat - x).square().sum() / len(x)``; for ``bernoulli``,
    ``F.binary_cross_entropy((x_hat + 1) / 2, (x + 1) / 2, reduction="sum") / len(x)``.

    Args:
        x_hat: reconstructions [N, ...]; for bernoulli in [-1, 1], other values count as the nearest of these.
        x: images of the same shape and range.
        kind: which.

    Returns:
        A scalar, in nats per image; NaN where ``x_hat`` has one.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: Kingma & Welling 2014, appendix C, for the first and the last.
    """
    if kind == "bernoulli":
        p, t = (x_hat.float() + 1) / 2, (x.float() + 1) / 2
        nan = 0 * x_hat.sum()  # the op refuses NaN as no probability; a training that diverged shows it in its loss
        return ops.binary_cross_entropy(p.nan_to_num().clamp(0, 1), t.clamp(0, 1), reduction="sum") / len(x) + nan
    return _FACTORS[kind] * ops.reconstruction_loss(x_hat, x, kind, "batchmean")


def pixel_nll(x_hat: Tensor, x: Tensor, log_scale: Tensor, kind: Literal["mse", "l1"] = "mse") -> Tensor:
    """The negative log-likelihood of images with a scale that is learned, without its constant.

    With ``s = log_scale`` and D numbers in an image: ``1/2 sum((x_hat - x)^2) / exp(2 s) + D s`` (mse: N(x_hat,
    exp(s)^2)) or ``sum(|x_hat - x|) / exp(s) + D s`` (l1: Laplace(x_hat, exp(s))), averaged over the batch. ``s`` is
    counted once for every number, so that the best ``exp(s)`` is the deviation of one.

    Equivalent to, for ``mse``, ``0.5 * (x_hat - x).square().sum() / len(x) * exp(-2 * s) + x[0].numel() * s``.

    Args:
        x_hat: reconstructions [N, ...].
        x: images of the same shape.
        log_scale: a scalar, to be trained with the decoder.
        kind: of the distribution.

    Returns:
        A scalar, in nats per image.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: Rybkin et al. 2021 (sigma-VAE) for mse, Rombach et al. 2022 for l1.
    """
    return pixel_loss(x_hat, x, kind) * inverse_scale(log_scale, kind) + x[0].numel() * log_scale


def inverse_scale(log_scale: Tensor, kind: Literal["mse", "l1"]) -> Tensor:
    """What :func:`pixel_nll` multiplies the distance by: ``exp(-2 s)`` (mse) or ``exp(-s)`` (l1)."""
    return torch.exp(-(2 if kind == "mse" else 1) * log_scale)


def feature_loss(features_hat: Tensor, features: Tensor) -> Tensor:
    """``1/2 sum((D_l(x_hat) - D_l(x))^2)``, averaged over the batch: a learned similarity.

    Equivalent to ``0.5 * (features_hat - features.detach()).square().sum() / len(features)``.

    Args:
        features_hat: of a layer of D for the reconstructions, [N, ...].
        features: of that layer for the images, same shape: the target, taken as a constant.

    Returns:
        A scalar.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: Larsen et al. 2016, equation 7.
    """
    return pixel_loss(features_hat, features.detach())
