"""The distance of images by feature maps: the formula of LPIPS."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["perceptual_distance"]


def perceptual_distance(
    features_hat: Sequence[Tensor],
    features: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    *,
    eps: float = 1e-10,
) -> Tensor:
    """``sum_l mean_hw sum_c w_lc (u(f_hat_l) - u(f_l))^2``, where u divides the channels of each pixel by their norm.

    Equivalent to::

        def u(f):
            return f / (f.square().sum(1, keepdim=True) + eps).sqrt()

        sum(
            (w[:, None, None] * (u(f_hat) - u(f)).square()).sum(1).mean((1, 2))
            for f_hat, f, w in zip(features_hat, features, weights)
        )

    computed in float32 at least. ``eps`` stands under the root: the package ``lpips`` adds it to the root, where the
    gradient is NaN at a pixel whose features are all 0. Elsewhere the two agree as far as float32 goes.

    Args:
        features_hat: of the reconstructions, for each layer l a map [N, C_l, H_l, W_l].
        features: of the images, of the same shapes.
        weights: of the channels, [C_l] for each layer, at least 0 each; None: 1.
        eps: above 0.

    Returns:
        [N], one number for each image: 0 for equal ones, and the same either way round.

    Raises:
        ValueError: naming the argument, what came and what is allowed.

    Source: Zhang et al. 2018, equation 1.
    """
    if weights is None:
        weights = [f.new_ones(f.shape[1]) for f in features]
    if not len(features_hat) == len(features) == len(weights) > 0:
        raise ValueError(
            f"features_hat has {len(features_hat)} layers, features {len(features)} and weights {len(weights)}; they "
            "must have as many, and at least one"
        )
    layers = []
    for layer, (f_hat, f, w) in enumerate(zip(features_hat, features, weights, strict=True)):
        if f.dim() != 4 or f_hat.shape != f.shape or w.shape != f.shape[1:2]:
            raise ValueError(
                f"layer {layer} has features_hat {list(f_hat.shape)}, features {list(f.shape)} and weights "
                f"{list(w.shape)}; they must be [N, C, H, W], the same and [C]"
            )
        difference = (_unit(f_hat, eps) - _unit(f, eps)).square()
        layers.append((w[:, None, None] * difference).sum(1).mean((1, 2)))
    return torch.stack(layers).sum(0)


def _unit(features: Tensor, eps: float) -> Tensor:
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    unit: Tensor = features / (features.square().sum(1, keepdim=True) + eps).sqrt()
    return unit
