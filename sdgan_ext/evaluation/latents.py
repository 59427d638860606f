"""What an encoder's latents are like: their scale by channel, what they cost, and how many of them are used."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from .._errors import EvaluationError
from ._images import check_images, check_whole
from .likelihood import checked_labels, labelled_parts, posterior_of

__all__ = ["latent_statistics", "scaling_factors"]

_ACTIVE = 0.01  # Burda et al. 2016
_OFF = 0.05  # of the scaling factor: what is worth a word


@torch.no_grad()
def latent_statistics(
    model: Any, images: Tensor, *, labels: Tensor | None = None, batch_size: int = 250
) -> dict[str, float]:
    """Of z ~ q(z|x) over the images, exactly: no z is drawn. ``latent`` is a channel of a map, or the whole vector.

    - ``latent_mean``, ``latent_std``: of all numbers in z; the variance is that of the posteriors' means plus the mean
      of their variances
    - ``latent_kl``: nats a dimension, ``KL(q(z|x) || N(0, I)) / dimensions``
    - ``latent_active``: the share of dimensions whose posterior mean varies by more than 0.01 over the images
      (Burda et al. 2016, "active units"); 0 of a collapsed posterior

    Args:
        model: what :func:`~sdgan_ext.evaluation.elbo` takes; in evaluation mode.
        images: [N, C, H, W], uint8 or floats in [-1, 1], N at least 2.
        labels: of a class-conditional model, int64 [N].
        batch_size: images at a time.

    Returns:
        The four, and where z is a map [C, h, w] each of every channel c, ``latent_mean_c`` and so on.

    Raises:
        EvaluationError: not images, fewer than 2, labels that the model lacks or does not take, NaN.
    """
    check_images(images, "images", 2)
    check_whole(batch_size, "batch_size", 1)
    sums: list[Tensor] = []
    for x, y in labelled_parts(images, checked_labels(model, labels, len(images)), batch_size):
        mean, logvar = (part.double().cpu() for part in posterior_of(model, x, y))
        variance = logvar.exp()
        terms = (mean, mean.square(), variance, 0.5 * (mean.square() + variance - 1 - logvar))
        added = [term.sum(0) for term in terms]
        sums = [a + b for a, b in zip(sums, added, strict=True)] if sums else added
    first, second, variance, kl = (total / len(images) for total in sums)
    varies = (second - first.square()) * len(images) / (len(images) - 1)
    dimensions = {"mean": first, "square": second + variance, "kl": kl, "active": (varies > _ACTIVE).double()}
    values = _numbers({name: value.mean() for name, value in dimensions.items()}, "")
    if first.dim() == 3:
        for c in range(len(first)):
            values |= _numbers({name: value[c].mean() for name, value in dimensions.items()}, f"_{c}")
    return values


def _numbers(means: dict[str, Tensor], suffix: str) -> dict[str, float]:
    deviation = (means["square"] - means["mean"].square()).clamp(min=0).sqrt()
    named = {"mean": means["mean"], "std": deviation, "kl": means["kl"], "active": means["active"]}
    return {f"latent_{name}{suffix}": value.item() for name, value in named.items()}


def scaling_factors(deviation: float, configured: float) -> dict[str, float]:
    """``scaling_factor``, 1 / ``deviation`` of the latents, beside ``config_scaling_factor``, the ``configured`` one.

    Warns where they are more than 5% apart: diffusion would then see latents of another variance than 1.

    Raises:
        EvaluationError: the latents have no deviation.
    """
    if not deviation > 0:
        raise EvaluationError("the latents of all images are equal, so that they have no scale")
    implied = 1 / deviation
    if abs(configured / implied - 1) > _OFF:
        warnings.warn(
            f"the configuration has scaling_factor {configured:.5g}, but the latents of these images imply "
            f"{implied:.5g}: diffusion would see latents with a standard deviation of {configured * deviation:.2f} "
            "in place of 1",
            stacklevel=2,
        )
    return {"scaling_factor": implied, "config_scaling_factor": configured}
