"""How probable a model with an encoder makes images: -ELBO and importance-weighted log-likelihood, in nats an image.

A model is anything with ``encode(x)`` -> a posterior with ``.mean`` and ``.logvar`` [N, Z], and ``decode(z)`` -> images
in [-1, 1]; the prior is N(0, I). It is taken as it is: put it into evaluation mode (:func:`evaluate` does). With labels
both are given those of the images too, and the bounds are those of -log p(x | label).

What is decoded is the parameter of a distribution of the pixels:

- ``"bernoulli"``: t = (x + 1) / 2 in [0, 1] with p = (x^ + 1) / 2, ``-log p(x|z) = -sum t log p + (1 - t) log(1 - p)``.
  Grey t are the soft targets of most VAE code, no density; 0 and 1 are binarised images. p is kept in [1e-6, 1 - 1e-6],
  which is a decoder too, so every bound stays one.
- ``"gaussian"``: ``N(x; x^, scale^2)`` of pixels in [-1, 1], with its constant; a density, which may be above 1.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from .._errors import EvaluationError
from ..models.labels import as_labels
from ._images import check_images, check_whole, float_parts

__all__ = ["LIKELIHOODS", "MOST_K", "Likelihood", "binarise", "checked_labels", "draw", "elbo", "iwae"]
__all__ += ["labelled_parts", "log_weights", "posterior_of"]

Likelihood = Literal["bernoulli", "gaussian"]
LIKELIHOODS: tuple[Likelihood, ...] = typing.get_args(Likelihood)
_LEAST_P = 1e-6
_LOG_2PI = math.log(2 * math.pi)
MOST_K = 100_000


def binarise(images: Tensor, seed: int = 0) -> Tensor:
    """Images of -1 and 1, each pixel drawn once from Bernoulli((x + 1) / 2) (Salakhutdinov & Murray 2008).

    The protocol of binarised MNIST in VAE papers; theirs is one such draw too, another than any seed's.

    Args:
        images: [N, 1, H, W], uint8 or floats in [-1, 1].
        seed: of the draw.
    """
    check_images(images, "images")
    if images.shape[1] != 1:
        raise EvaluationError(f"images have {images.shape[1]} channels; binarised images are grey, of 1 channel")
    generator = torch.Generator().manual_seed(seed)
    parts = [(part.cpu() + 1) / 2 for part in float_parts(images, 1000)]
    drawn = [torch.rand(part.shape, generator=generator) < part for part in parts]
    return torch.cat(drawn).float() * 2 - 1


def elbo(
    model: Any,
    images: Tensor,
    *,
    labels: Tensor | None = None,
    likelihood: Likelihood = "bernoulli",
    scale: float = 1.0,
    samples: int = 1,
    batch_size: int = 250,
    seed: int = 0,
) -> dict[str, float]:
    """``-ELBO = E_q[-log p(x|z)] + KL(q(z|x) || N(0, I))``, an upper bound of -log p(x) (Kingma & Welling 2014).

    The KL is exact, the expectation the mean over ``samples`` draws.

    Args:
        model: see the module.
        images: [N, C, H, W], uint8 or floats in [-1, 1].
        labels: of a class-conditional model, int64 [N].
        likelihood, scale: see the module.
        samples: draws of z an image.
        batch_size: images at a time.
        seed: of the draws.

    Returns:
        ``neg_elbo``, ``reconstruction`` and ``kl``, means over the images, in nats.

    Raises:
        EvaluationError: a bad argument, a model without an encoder, labels that the model lacks or does not take, NaN
            in what the model answers.
    """
    _check(model, images, likelihood, scale, batch_size)
    labels = checked_labels(model, labels, len(images))
    check_whole(samples, "samples", 1)
    generator = torch.Generator().manual_seed(seed)
    reconstruction = kl = 0.0
    for x, y in labelled_parts(images, labels, batch_size):
        mean, logvar = posterior_of(model, x, y)
        z = draw(mean, logvar, samples, generator)[0]
        reconstruction -= _log_px(model, x, z, likelihood, scale, y).sum().item() / samples
        mean, logvar = mean.double(), logvar.double()
        kl += 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum().item()
    n = len(images)
    return {"neg_elbo": (reconstruction + kl) / n, "reconstruction": reconstruction / n, "kl": kl / n}


def iwae(
    model: Any,
    images: Tensor,
    *,
    k: int = 200,
    labels: Tensor | None = None,
    likelihood: Likelihood = "bernoulli",
    scale: float = 1.0,
    batch_size: int = 250,
    chunk: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """``-E log 1/k sum_i p(x, z_i) / q(z_i|x)``: an upper bound of -log p(x), the tighter the larger k.

    Burda et al. 2016, equation 8; with k of 200 to 5000 what papers call the test NLL by importance sampling. The sum
    is taken by logsumexp in float64.

    Args:
        k: draws of z an image, up to 100,000.
        chunk: draws decoded at a time: memory is that of ``batch_size * chunk`` images.

    Others as in :func:`elbo`.

    Returns:
        ``nll``, the mean over the images in nats, and ``nll_se``, its standard error over the images.
    """
    check_whole(k, "k", 1, MOST_K)
    parts = []
    _check(model, images, likelihood, scale, batch_size)
    labels = checked_labels(model, labels, len(images))
    generator = torch.Generator().manual_seed(seed)
    for x, y in labelled_parts(images, labels, batch_size):
        weights = log_weights(
            model, x, k, labels=y, likelihood=likelihood, scale=scale, chunk=chunk, generator=generator
        )
        parts.append(weights.logsumexp(1) - math.log(k))
    logs = torch.cat(parts)
    values = {"nll": -logs.mean().item()}
    if len(logs) > 1:
        values["nll_se"] = (logs.std() / len(logs) ** 0.5).item()
    return values


@torch.no_grad()
def log_weights(
    model: Any,
    x: Tensor,
    k: int,
    *,
    labels: Tensor | None = None,
    likelihood: Likelihood = "bernoulli",
    scale: float = 1.0,
    chunk: int = 20,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``log p(x|z_i) + log p(z_i) - log q(z_i|x)`` of k draws z_i ~ q(z|x). x is [B, C, H, W]; float64 [B, k]."""
    check_whole(chunk, "chunk", 1)
    mean, logvar = posterior_of(model, x, labels)
    parts = []
    for start in range(0, k, chunk):
        z, eps = draw(mean, logvar, min(chunk, k - start), generator)
        log_prior = -0.5 * (z.double().square() + _LOG_2PI).flatten(2).sum(-1)
        log_q = -0.5 * (eps.double().square() + logvar.double() + _LOG_2PI).flatten(2).sum(-1)
        parts.append((_log_px(model, x, z, likelihood, scale, labels) + log_prior - log_q).T.cpu())
    return torch.cat(parts, 1)


def _check(model: Any, images: Tensor, likelihood: str, scale: float, batch_size: int) -> None:
    check_images(images, "images", 1)
    check_whole(batch_size, "batch_size", 1)
    if likelihood not in LIKELIHOODS:
        raise EvaluationError(f"likelihood is {likelihood!r}; it must be one of {', '.join(map(repr, LIKELIHOODS))}")
    if not (isinstance(scale, (int, float)) and 0 < scale < math.inf):
        raise EvaluationError(f"scale is {scale!r}; it must be a finite number above 0")
    if not callable(getattr(model, "encode", None)) or getattr(model, "encoder", model) is None:
        raise EvaluationError("the model has no encoder (mode 'gan'); a likelihood bound needs q(z|x)")


def checked_labels(model: Any, labels: Tensor | None, n: int) -> Tensor | None:
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "classes"):  # not a VAEGAN
        if labels is not None and len(labels) != n:
            raise EvaluationError(f"labels has {len(labels)} for {n} images; each must have its own")
        return labels
    if labels is None and not config.classes:
        return None
    try:
        return as_labels(labels, n, config)
    except (ValueError, TypeError) as error:
        raise EvaluationError(str(error)) from None


def labelled_parts(images: Tensor, labels: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    parts = float_parts(images, size)
    if labels is None:
        return ((part, None) for part in parts)
    return zip(parts, torch.split(labels, size), strict=True)


@torch.no_grad()
def posterior_of(model: Any, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    device = _device(model)
    posterior = model.encode(*(given.to(device) for given in (x, labels) if given is not None))
    for name in ("mean", "logvar"):
        if not getattr(posterior, name).isfinite().all():
            raise EvaluationError(f"the encoder's {name} holds NaN or infinity; the model has diverged")
    return posterior.mean, posterior.logvar


def _device(model: Any) -> torch.device:
    parameters = model.parameters() if hasattr(model, "parameters") else ()
    return next((parameter.device for parameter in parameters), torch.device("cpu"))


def draw(mean: Tensor, logvar: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """z and eps, [count, B, Z]; eps comes from the CPU, so that a seed means the same everywhere."""
    eps = torch.randn(count, *mean.shape, generator=generator).to(mean)
    return mean + (0.5 * logvar).exp() * eps, eps


@torch.no_grad()
def _log_px(model: Any, x: Tensor, z: Tensor, likelihood: str, scale: float, labels: Tensor | None) -> Tensor:
    """log p(x|z). x is [B, C, H, W], z [S, B, Z], labels [B]; float64 [S, B]."""
    condition = () if labels is None else (labels.to(z.device).repeat(len(z)),)
    x_hat: Tensor = model.decode(z.flatten(0, 1), *condition)
    if not x_hat.isfinite().all():
        raise EvaluationError("the decoder's images hold NaN or infinity; the model has diverged")
    x_hat = torch.unflatten(x_hat, 0, z.shape[:2]).flatten(2)
    x = x.to(x_hat).flatten(1)
    if likelihood == "gaussian":
        squares = (x - x_hat).square().sum(-1, dtype=torch.float64)
        return -0.5 * (squares / scale**2 + x.shape[1] * (_LOG_2PI + 2 * math.log(scale)))
    if x_hat.amin() < -1.001 or x_hat.amax() > 1.001:
        raise EvaluationError(
            f"the decoder's images lie in {x_hat.amin():g} to {x_hat.amax():g}; likelihood 'bernoulli' needs [-1, 1], "
            "or use likelihood='gaussian'"
        )
    p = ((x_hat + 1) / 2).clamp(_LEAST_P, 1 - _LEAST_P)
    t = (x + 1) / 2
    return torch.lerp((1 - p).log(), p.log(), t.expand_as(p)).sum(-1, dtype=torch.float64)
