"""Objectives and regularisers by name, as pure functions.

Logits are ``C = D(x)``, ``sp`` is softplus. Sums run over pixels, features or latent dimensions, means over the batch.
"""

from ..ops.adversarial_loss import discriminator_loss, generator_loss
from .augment import AUGMENTATIONS, diff_augment
from .likelihood import feature_loss, free_bits, kl, pixel_loss, pixel_nll
from .penalties import adaptive_weight, gradient_penalty, r1_penalty, r2_penalty, weight_penalty
from .perceptual import perceptual_distance

__all__ = [
    "AUGMENTATIONS",
    "adaptive_weight",
    "diff_augment",
    "discriminator_loss",
    "feature_loss",
    "free_bits",
    "generator_loss",
    "gradient_penalty",
    "kl",
    "perceptual_distance",
    "pixel_loss",
    "pixel_nll",
    "r1_penalty",
    "r2_penalty",
    "weight_penalty",
]
