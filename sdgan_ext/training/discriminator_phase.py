"""Phase D: the gradients of the discriminator."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import losses
from .._errors import ConfigError
from .config import TrainConfig
from .forward import Images
from .gradients import set_gradients
from .networks import Model
from .schedule import is_penalised
from .terms import named_terms

__all__ = ["augmented", "discriminate", "discriminator_phase"]


def discriminator_phase(model: Model, images: Images, config: TrainConfig, *, step: int = 0) -> dict[str, Tensor]:
    """Sets the gradients of D, and of D alone.

    ``lD = sp(-D(x)) + 1/2 (sp(D(G(z))) + sp(D(G(z_p))))`` for the default objective (Larsen et al. 2016); every
    ``r1_every`` steps also R1 and R2, times ``r1_every`` (Karras et al. 2020); with ``gp_weight`` the gradient penalty.
    R2 and the gradient penalty are means over both kinds of generated images. With DiffAugment all of it is taken at
    the augmented images.

    Args:
        step: discriminator steps taken so far.

    Returns:
        "discriminator/..." ``total``, ``adversarial``, the penalties that were taken (``r1``, ``r2``,
        ``gradient_penalty``, ``weights``), and the mean logits ``real`` and ``fake``: scalars without a graph.

    Raises:
        ConfigError: in mode "vae", which has no phase D.
    """
    if config.mode == "vae":
        raise ConfigError("mode is 'vae'; a discriminator is trained in modes 'gan' and 'vae-gan' only")
    fakes = [fake.detach() for fake in (images.reconstructed, images.generated) if fake is not None]
    real, *fakes = augmented([images.real.detach(), *fakes], images, config, phase=0)
    penalised = is_penalised(config, step)
    real = real.requires_grad_(penalised and config.r1_gamma > 0)
    fakes = [fake.requires_grad_(penalised and config.r2_gamma > 0) for fake in fakes]
    if penalised or model.traits.discriminator_mixes_images:  # R1 and R2 need their images alone
        real_logits, *fakes_logits = [discriminate(model, batch, images.labels) for batch in (real, *fakes)]
    else:
        together = discriminate(model, torch.cat([real, *fakes]), images.labels)
        real_logits, *fakes_logits = together.split(len(real))
    fake_logits = torch.cat(fakes_logits)
    pairs = len(fakes) if config.objective == "relativistic" else 1
    terms = {
        "adversarial": losses.discriminator_loss(
            torch.cat([real_logits] * pairs), fake_logits, config.objective, real_target=config.real_target
        )
    }
    if penalised and config.r1_gamma:
        terms["r1"] = config.r1_every * losses.r1_penalty(real_logits, real, config.r1_gamma)
    if penalised and config.r2_gamma:
        gamma = config.r1_every * config.r2_gamma / len(fakes)
        terms["r2"] = sum(losses.r2_penalty(*at, gamma) for at in zip(fakes_logits, fakes, strict=True))
    if config.gp_weight:
        critic = functools.partial(discriminate, model, labels=images.labels)
        x, x_hat = real.repeat(len(fakes), 1, 1, 1), torch.cat(fakes)
        t = images.noise.points.to(real).flatten()
        terms["gradient_penalty"] = losses.gradient_penalty(critic, x, x_hat, config.gp_weight, t=t)
    total = sum(terms.values())
    weights = set_gradients([model.discriminator], [total], None, config)
    if weights:
        terms |= weights
        total = total + weights["weights"]
    terms |= {"total": total, "real": _mean(real_logits, total), "fake": _mean(fake_logits, total)}
    return named_terms("discriminator", terms)


def _mean(logits: Tensor, like: Tensor) -> Tensor:
    """In the precision of a loss; logits have that of the networks."""
    return logits.mean(dtype=like.dtype)


def discriminate(model: Model, x: Tensor, labels: Tensor | None, **options: Any) -> Any:
    """D's answer to ``x``, which may be several batches of the same labels one after another."""
    if labels is not None:
        options["labels"] = labels if len(x) == len(labels) else labels.repeat(len(x) // len(labels))
    return model.discriminator(x, **options)


def augmented(batches: Sequence[Tensor | None], images: Images, config: TrainConfig, *, phase: int) -> list:
    """What D is given of each batch; in phase E+G (1) of real or reconstructed images, then of generated ones."""
    if config.diffaugment is None:
        return list(batches)
    return [
        None if batch is None else losses.diff_augment(batch, draws, config.diffaugment)
        for batch, draws in zip(batches, images.noise.draws[phase], strict=False)
    ]
