"""The state of a training beyond its losses: which network is ahead, active latent units, diversity of samples.

The losses of a GAN do not show it, for each depends on the other network. Three ways to fail are reported in words.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .._modes import evaluation_mode
from .config import TrainConfig
from .discriminator_phase import discriminate
from .networks import Model
from .parts import in_parts

__all__ = ["FIRST_STEPS", "PATIENCE", "Health", "complaints", "measure"]

_ACTIVE = 0.01  # variance of a latent unit's mean over images from which it counts (Burda et al. 2015, sec. 5.2)
PATIENCE = 3  # intervals in a row until a warning
FIRST_STEPS = 200  # in which all that is warned of is usual


class Health:
    """Measures at every log interval and warns when something has been wrong for three.

    Args:
        model: what is trained.
        config: how.
        images: real images [N, C, H, W], the same every time.
        eps: numbers from N(0, I) for the prior's latents, [M, *latent_shape], likewise.
        say: takes a warning.
        labels, latent_labels: of a conditional model, of ``images`` and ``eps``, [N] and [M].
    """

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        images: Tensor,
        eps: Tensor,
        say: Callable[[str], None],
        *,
        labels: Tensor | None = None,
        latent_labels: Tensor | None = None,
    ):
        self._model, self._config, self._say = model, config, say
        self._inputs = images, eps, labels, latent_labels
        self._lasting: Counter[str] = Counter()

    def examine(self, step: int) -> dict[str, float]:
        """The numbers of :func:`measure` after ``step`` steps, named "health/..."; warns."""
        numbers = measure(self._model, self._config, *self._inputs)
        found = complaints(numbers, self._config) if step >= FIRST_STEPS else {}
        for kind in list(self._lasting):
            if kind not in found:
                del self._lasting[kind]  # it is over, and may be said again
        for kind, words in found.items():
            self._lasting[kind] += 1
            if self._lasting[kind] == PATIENCE:
                self._say(f"step {step}: {words}")
        return {f"health/{name}": value for name, value in numbers.items()}


@torch.no_grad()
def measure(
    model: Model,
    config: TrainConfig,
    images: Tensor,
    eps: Tensor,
    labels: Tensor | None = None,
    latent_labels: Tensor | None = None,
) -> dict[str, float]:
    """Nothing random and nothing that stays: in evaluation mode, without gradients.

    Returns:
        Of the networks that are trained:

        ``accuracy_real``, ``accuracy_fake``: the share of real (generated) images that D takes for what they are; for
        the objectives without a threshold, wasserstein and relativistic, the share of pairs in the right order.
        ``logit_margin``: mean logit of real images less that of generated ones.
        ``gradient_<network>``: norm of the gradient of its last step.
        ``active_units``: latent units whose mean varies by more than 0.01 over the images (Burda et al. 2015).
        ``kl_largest``, ``kl_smallest``: nats a latent unit, averaged over the images.
        ``diversity``: mean distance between generated images over that between real ones.

        NaN (null in log.jsonl) where ``images`` cannot tell: ``active_units`` and ``diversity`` where there is one
        image, ``diversity`` also where all are equal.
    """
    numbers: dict[str, float] = {}
    with evaluation_mode(model):
        made = in_parts(model, model.decode, model.latents(eps), latent_labels)
        if config.mode != "vae":
            critic = functools.partial(discriminate, model)
            real, fake = in_parts(model, critic, images, labels), in_parts(model, critic, made, latent_labels)
            numbers |= {
                "accuracy_real": _share_above(real, fake, config),
                "accuracy_fake": 1 - _share_above(fake, real, config),
                "logit_margin": (real.mean() - fake.mean()).item(),
            }
        if config.mode != "gan":
            means, kls = in_parts(model, functools.partial(_mean_and_kl, model), images, labels).unbind(1)
            per_unit = kls.mean(0)
            varies = means.var(0) if len(images) > 1 else None
            numbers |= {
                "active_units": math.nan if varies is None else float((varies > _ACTIVE).sum()),
                "kl_largest": per_unit.max().item(),
                "kl_smallest": per_unit.min().item(),
            }
        between = _spread(images)
        numbers["diversity"] = _spread(made) / between if between > 0 else math.nan
    for name, network in model.named_children():
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        if grads:
            numbers[f"gradient_{name}"] = torch.nn.utils.get_total_norm(grads).item()
    return numbers


def _mean_and_kl(model: Model, images: Tensor, labels: Tensor | None) -> Tensor:
    """Of the posterior, and of each latent unit: [N, 2, *latent_shape]."""
    posterior = model.encode(images, labels)
    return torch.stack([posterior.mean, posterior.kl("none")], 1)


def _share_above(logits: Tensor, others: Tensor, config: TrainConfig) -> float:
    """The share of logits above the threshold; without one, the share of pairs in which they are above the others."""
    if config.objective in ("wasserstein", "relativistic"):
        return (logits.reshape(-1, 1) > others.reshape(1, -1)).float().mean().item()
    return (logits > (0.5 if config.objective == "least_squares" else 0.0)).float().mean().item()


def _spread(images: Tensor) -> float:
    """The mean distance between two of the images; of a single one 0."""
    return torch.pdist(images.flatten(1).float()).mean().item() if len(images) > 1 else 0.0


def complaints(numbers: Mapping[str, float], config: TrainConfig) -> dict[str, str]:
    """What is wrong by the ``numbers`` of :func:`measure`, by its kind, in words."""
    found = {}
    accuracies = [numbers.get(f"accuracy_{kind}", 0.0) for kind in ("real", "fake")]
    if min(accuracies) >= 0.99 and numbers["logit_margin"] > 8:
        found["D"] = (
            f"the discriminator wins outright (right about {min(accuracies):.0%} of images, logits "
            f"{numbers['logit_margin']:.1f} apart): the generator learns little from it; r1_gamma, a smaller "
            "lr_discriminator or DiffAugment would hold it back"
        )
    if numbers.get("active_units", 1.0) == 0 and config.kl_weight > 0:
        found["posterior"] = (
            "the posterior has collapsed: no latent unit depends on the image; a smaller kl_weight or "
            "kl_warmup_steps would let them"
        )
    if numbers["diversity"] < 0.1:
        found["samples"] = (
            f"the samples have collapsed: they differ {numbers['diversity']:.0%} as much as real images; smaller "
            "learning rates or r1_gamma may help"
        )
    return found
