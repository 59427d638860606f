"""The terms of a VAE: divergence from the prior, distance of reconstructions."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops

__all__ = ["PIXEL_LOSSES", "feature_loss", "free_bits", "kl", "pixel_loss", "pixel_nll"]

#: By name, the kind of ``ops.reconstruction_loss`` and its factor; "bernoulli" is none of them.
PIXEL_LOSSES = {"mse": 0.5, "l1": 1.0, "bernoulli": None}


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """``KL(N(mean, exp(logvar)) || N(0, I)) = 1/2 sum(mean^2 + exp(logvar) - 1 - logvar)``, averaged over the batch.

    Kingma & Welling 2014, appendix B. mean and logvar are [N, Z]; the result is a scalar, in nats.
    """
    return ops.gaussian_kl(mean, logvar, "batchmean")


def free_bits(kl: Tensor, nats: float) -> Tensor:
    """``sum_j max(nats, mean_n kl[n, j])``: a dimension that tells less than ``nats`` costs no more than that.

    Kingma et al. 2016 (inverse autoregressive flow, appendix C.8), one latent dimension to a group.

    Args:
        kl: of every image and dimension, [N, Z], as of ``ops.gaussian_kl(..., reduction="none")``.
        nats: what a dimension may say for free; 0 makes the result the KL divergence itself.

    Returns:
        A scalar, in nats. It has no gradient in the dimensions below ``nats``.
    """
    return kl.mean(0).clamp(min=nats).sum()


def pixel_loss(x_hat: Tensor, x: Tensor, kind: str = "mse") -> Tensor:
    """``1/2 sum((x_hat - x)^2)`` (mse), ``sum(|x_hat - x|)`` (l1) or the cross-entropy of pixels (bernoulli), averaged
    over the batch.

    That is -log N(x; x_hat, I) or -log Laplace(x; x_hat, 1) without its constant, or, with ``p = (x_hat + 1) / 2`` and
    ``t = (x + 1) / 2``, ``-sum(t log p + (1 - t) log(1 - p))``, where grey pixels are soft targets. x_hat and x are
    [N, ...] of one shape, for bernoulli in [-1, 1]; the result is a scalar.
    """
    if kind == "bernoulli":
        p, t = (x_hat.float() + 1) / 2, (x.float() + 1) / 2
        nan = 0 * x_hat.sum()  # the op refuses NaN as no probability; a diverged training is to be told of by its loss
        return ops.binary_cross_entropy(p.nan_to_num().clamp(0, 1), t.clamp(0, 1), reduction="sum") / len(x) + nan
    return PIXEL_LOSSES[kind] * ops.reconstruction_loss(x_hat, x, kind, "batchmean")


def pixel_nll(x_hat: Tensor, x: Tensor, log_scale: Tensor, kind: str = "mse") -> Tensor:
    """The negative log-likelihood of images with a scale that is learned, without its constant.

    With ``s = log_scale`` and D numbers in an image: ``1/2 sum((x_hat - x)^2) / exp(2 s) + D s`` (mse: N(x_hat,
    exp(s)^2), the sigma-VAE of Rybkin et al. 2021) or ``sum(|x_hat - x|) / exp(s) + D s`` (l1: Laplace(x_hat, exp(s)),
    Rombach et al. 2022), averaged over the batch. ``s`` is counted once for every number, so that the best ``exp(s)``
    is the deviation of one.

    Args:
        x_hat, x: [N, ...] of one shape.
        log_scale: a scalar, to be trained with the decoder.

    Returns:
        A scalar, in nats.
    """
    power = 2 if kind == "mse" else 1
    return pixel_loss(x_hat, x, kind) * torch.exp(-power * log_scale) + x[0].numel() * log_scale


def feature_loss(features_hat: Tensor, features: Tensor) -> Tensor:
    """``1/2 sum((D_l(x_hat) - D_l(x))^2)``, averaged over the batch: the learned similarity of Larsen et al. 2016.

    ``features`` are the target, taken as a constant. Both are [N, ...] of one shape; the result is a scalar.
    """
    return pixel_loss(features_hat, features.detach())
