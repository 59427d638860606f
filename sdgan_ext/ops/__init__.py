"""The fused operations as public functions; :mod:`sdgan_ext.ops.reference` holds their pure-torch twins."""

from . import reference
from ._convolution import no_weight_gradients
from .adversarial_loss import discriminator_loss, generator_loss
from .conv2d import conv2d
from .conv_transpose2d import conv_transpose2d
from .gaussian import gaussian_kl, sample_gaussian

__all__ = [
    "conv2d",
    "conv_transpose2d",
    "discriminator_loss",
    "gaussian_kl",
    "generator_loss",
    "no_weight_gradients",
    "reference",
    "sample_gaussian",
]
