"""Phase E+G: the gradients of encoder and generator."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .. import losses, ops
from .._errors import ConfigError
from .._torch_internals import foreach_add_
from ..losses.likelihood import inverse_scale
from .config import TrainConfig
from .discriminator_phase import augmented, discriminate
from .forward import Images
from .gradients import frozen, set_gradients
from .networks import Model, last_weight_of
from .schedule import kind_of, kl_weight_at
from .terms import named_terms

if TYPE_CHECKING:
    from .distributed import Processes
    from .perceptual import PerceptualLoss

__all__ = ["AdversarialGradients", "encoder_generator_phase"]


def encoder_generator_phase(
    model: Model,
    images: Images,
    config: TrainConfig,
    *,
    step: int = 0,
    kl_weight: Tensor | None = None,
    processes: Processes | None = None,
    perceptual: PerceptualLoss | None = None,
    apart: AdversarialGradients | None = None,
) -> dict[str, Tensor]:
    """Sets the gradients of E and G, each its own; gradients pass through D, which is not changed.

    ::

        rec = feature_weight * 1/2 |D_l(x) - D_l(G(z))|^2 + pixel_weight * 1/2 |x - G(z)|^2
        E <- grad(kl_weight * KL + rec)
        G <- grad(gamma * rec + adv(G(z)) + adv(G(z_p)))      z as a constant; in mode "vae": grad(rec)

    Without ``prior_images`` there is no adv(G(z_p)), as in the autoencoder of latent diffusion (Rombach et al. 2022).

    The losses are differentiated as far as the images, with D frozen: no weight gradient of D is computed. From the
    images one backward pass through G serves its parameters, and one that skips them leads to z and on to E. A learned
    scale takes the gradient of rec, whatever gamma is. With ``adaptive_weight`` both adversarial terms are weighed as
    in :func:`~sdgan_ext.losses.adaptive_weight`, by gamma * rec. Parameters with ``requires_grad=False`` get none.

    Args:
        step: steps taken so far; decides the weight of the KL divergence while it warms up, and whether there are
            adversarial terms yet (``disc_start``).
        kl_weight: that weight as a scalar where ``images`` are, in place of the one of ``step``.
        processes: that take the phase together; the adaptive weight is that of all their images.
        perceptual: whose distance has ``config.perceptual_weight`` beside that of the pixels.
        apart: takes the gradients that the adaptive weight is for, unweighted, where ``images`` are a part of a batch.

    Returns:
        "encoder_generator/..." and, of ``kl``, ``kl_free_bits``, ``pixel``, ``scale`` (the learned one),
        ``perceptual``, ``feature``, ``reconstruction`` (their weighted sum), ``adversarial_reconstructed``,
        ``adversarial_generated``, ``adaptive_weight`` and ``weights``, those there are: scalars without a graph.
    """
    adversarial = kind_of(config, step).adversarial
    uses_discriminator = adversarial or _compares_features(config)
    with frozen(model.discriminator) if uses_discriminator else contextlib.nullcontext():
        terms, grads = _image_gradients(model, images, config, adversarial, perceptual)
    if config.mode == "gan":
        terms |= set_gradients([model.generator], [images.generated], [grads.adv_generated], config)
        return named_terms("encoder_generator", terms)
    prior = images.kl if images.kl_free_bits is None else images.kl_free_bits
    if kl_weight is None:
        kl_grad = torch.full_like(prior, kl_weight_at(config, step))
    else:
        kl_grad = kl_weight.to(prior)
    scale = [] if grads.scale is None else [model.generator.log_scale]
    scale_grad = [] if grads.scale is None else [grads.scale]
    made, adv_grads = [images.reconstructed], []
    if adversarial:
        made += [images.generated] if config.prior_images else []
        adv_grads = [grads.adv_reconstructed, grads.adv_generated][: len(made)]
        if config.adaptive_weight:
            at_last = _at_last_weight(model, made, [config.gamma * grads.rec], adv_grads)
            if apart is None:
                weight = terms["adaptive_weight"] = _adaptive_weight(at_last, config, processes)
                adv_grads = [weight * grad for grad in adv_grads]
            else:
                apart.add(at_last, made, adv_grads)
                made, adv_grads = made[:1], []
    if config.mode == "vae" or (not adv_grads and config.gamma == 1):
        # E and G have one loss: one backward pass serves both.
        outputs, of_outputs = [images.reconstructed, prior, *scale], [grads.rec, kl_grad, *scale_grad]
        terms |= set_gradients([model.encoder, model.generator], outputs, of_outputs, config)
    else:
        of_encoder = [(prior, kl_grad)]
        if images.z.requires_grad:
            with ops.no_weight_gradients():
                (z_grad,) = torch.autograd.grad(images.reconstructed, images.z, grads.rec, retain_graph=True)
            of_encoder.insert(0, (images.z, z_grad))
        of_made = [config.gamma * grads.rec, *adv_grads[1:]]
        if adv_grads:
            of_made[0] = of_made[0] + adv_grads[0]
        weights = set_gradients([model.generator], made + scale, of_made + scale_grad, config)
        for name, value in set_gradients([model.encoder], *zip(*of_encoder, strict=True), config).items():
            weights[name] = weights[name] + value if name in weights else value
        terms |= weights
    free = {} if images.kl_free_bits is None else {"kl_free_bits": images.kl_free_bits}
    return named_terms("encoder_generator", {"kl": images.kl, **free, **terms})


class _ImageGradients(NamedTuple):
    """Gradients of the losses that depend on images; None for what the mode does not have."""

    rec: Tensor | None = None  # d rec / d G(z)
    scale: Tensor | None = None  # d rec / d log_scale
    adv_reconstructed: Tensor | None = None  # d adv(G(z)) / d G(z)
    adv_generated: Tensor | None = None  # d adv(G(z_p)) / d G(z_p)


def _image_gradients(
    model: Model, images: Images, config: TrainConfig, adversarial: bool, perceptual: PerceptualLoss | None
) -> tuple[dict[str, Tensor], _ImageGradients]:
    """The losses of phase E+G that depend on images, and their gradients there."""
    compares_features = _compares_features(config)
    critic = functools.partial(discriminate, model, labels=images.labels)
    features_asked = {"return_features": True} if compares_features else {}
    grads: dict[str, Tensor] = {}
    terms: dict[str, Tensor] = {}
    real_logits = real_features = features = logits = None
    if compares_features or (adversarial and config.objective == "relativistic"):
        with torch.no_grad():  # augmented like x~, so that their features can be compared
            (real,) = augmented([images.real], images, config, phase=1)
            real_logits, real_features = _logits_and_features(critic(real, **features_asked), compares_features)
    if config.mode != "gan":
        x_hat = images.reconstructed.detach().requires_grad_()
        if adversarial or compares_features:
            (shown,) = augmented([x_hat], images, config, phase=1)
            logits, features = _logits_and_features(critic(shown, **features_asked), compares_features)
        if adversarial:
            loss = terms["adversarial_reconstructed"] = losses.generator_loss(logits, real_logits, config.objective)
            (grads["adv_reconstructed"],) = torch.autograd.grad(loss, x_hat, retain_graph=compares_features)
        rec, of_pixels = _pixels(model, x_hat, images.real, config, perceptual)
        terms |= of_pixels
        if compares_features:
            layer = config.feature_layer
            terms["feature"] = losses.feature_loss(features[layer], real_features[layer])
            rec = rec + config.feature_weight * terms["feature"]
        terms["reconstruction"] = rec
        scale = [model.generator.log_scale] if _trains_scale(model) else []
        grads |= zip(("rec", "scale"), torch.autograd.grad(rec, [x_hat, *scale]), strict=False)
    if adversarial and images.generated is not None:
        x_p = images.generated.detach().requires_grad_()
        _, shown = augmented([None, x_p], images, config, phase=1)
        loss = terms["adversarial_generated"] = losses.generator_loss(critic(shown), real_logits, config.objective)
        (grads["adv_generated"],) = torch.autograd.grad(loss, x_p)
    return terms, _ImageGradients(**grads)


def _logits_and_features(answer, with_features: bool) -> tuple[Tensor, Sequence[Tensor] | None]:
    return answer if with_features else (answer, None)


def _pixels(
    model: Model, x_hat: Tensor, x: Tensor, config: TrainConfig, perceptual: PerceptualLoss | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted distance of pixels and, under the same scale, of images; and the terms that are logged of it."""
    if model.traits.learned_variance:
        log_scale = model.generator.log_scale
        loss = losses.pixel_nll(x_hat, x, log_scale, config.pixel_loss)
        terms, scaled = {"pixel": loss, "scale": log_scale.detach().exp()}, inverse_scale(log_scale, config.pixel_loss)
    else:
        loss, scaled = losses.pixel_loss(x_hat, x, config.pixel_loss), 1.0
        terms = {"pixel": loss}
    if config.perceptual_weight:
        if perceptual is None:
            raise ConfigError(
                f"perceptual_weight is {config.perceptual_weight}, but the step is given no perceptual; "
                "training.perceptual.perceptual_of makes that of a configuration"
            )
        terms["perceptual"] = perceptual(x_hat, x).mean()
        loss = loss + config.perceptual_weight * x[0].numel() * scaled * terms["perceptual"]
    return config.pixel_weight * loss, terms


def _trains_scale(model: Model) -> bool:
    return model.traits.learned_variance and model.generator.log_scale.requires_grad


class AdversarialGradients:
    """The gradients of G's adversarial terms over the parts of a batch, kept apart from those of the reconstruction.

    Their adaptive weight is a ratio of gradients of the whole batch, which are known after the last part. A gradient of
    the batch is the mean over its parts, so that weighing it then is the same as weighing it in each.
    """

    def __init__(self, model: Model, config: TrainConfig):
        self._config = config
        self._parameters = [parameter for parameter in model.generator.parameters() if parameter.requires_grad]
        self._sums: list[Tensor | None] = []
        self._count = 0

    def add(self, at_last_weight: Sequence[Tensor], made: Sequence[Tensor], adversarial: Sequence[Tensor]) -> None:
        """Takes those of a part: of both terms at the last weight, and at the images that were ``made``."""
        options = {"retain_graph": True, "allow_unused": True}
        new = [*at_last_weight, *torch.autograd.grad(made, self._parameters, adversarial, **options)]
        self._count += 1
        if self._count == 1:
            self._sums = new
        else:
            foreach_add_(*([gradient for gradient in each if gradient is not None] for each in (self._sums, new)))

    def weigh(self, processes: Processes | None) -> dict[str, Tensor]:
        """Adds their mean times its weight to the gradients that G has, of the whole batch.

        Returns:
            The weight, named as in the losses of the phase; nothing where there have been no adversarial terms.
        """
        if not self._sums:
            return {}
        nll, g, *of_parameters = [None if total is None else total / self._count for total in self._sums]
        weight = _adaptive_weight([nll, g], self._config, processes)
        for parameter, gradient in zip(self._parameters, of_parameters, strict=True):
            if gradient is not None:
                parameter.grad.addcmul_(gradient, weight)
        return named_terms("encoder_generator", {"adaptive_weight": weight})


def _at_last_weight(
    model: Model, made: Sequence[Tensor], reconstruction: Sequence[Tensor], adversarial: Sequence[Tensor]
) -> list[Tensor]:
    """By the gradients at the images, the two terms' gradients at the generator's last weight: one layer back."""
    weight = last_weight_of(model)
    nll = torch.autograd.grad(made[:1], weight, reconstruction, retain_graph=True)
    g = torch.autograd.grad(made, weight, adversarial, retain_graph=True)
    return [*nll, *g]


def _adaptive_weight(at_last_weight: list[Tensor], config: TrainConfig, processes: Processes | None) -> Tensor:
    if processes is not None:
        processes.average_tensors(at_last_weight)
    nll, g = at_last_weight
    return config.adaptive_weight * losses.adaptive_weight([nll], [g])


def _compares_features(config: TrainConfig) -> bool:
    return config.mode == "vae-gan" and config.feature_weight > 0
