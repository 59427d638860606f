"""The specification: every public op in stock torch, for reading, testing and exporting.

The public functions take what ``sdgan_ext.ops`` takes and do what it does (``functions.py``). Beside them stands every
operator of ``torch.ops.sdgan_ext``, argument for argument (``decompositions.py``).
"""

from .decompositions import (
    DECOMPOSITIONS,
    activation_gradient,
    activation_second_derivative,
    adversarial_loss,
    batch_norm_native,
    bce,
    gaussian_backward,
    group_norm_native,
)
from .functions import (
    activate,
    batch_norm,
    batch_statistics,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    conv2d,
    conv_transpose2d,
    discriminator_loss,
    gaussian_kl,
    generator_loss,
    group_norm,
    group_statistics,
    philox,
    philox_normal,
    reconstruction_loss,
    sample_gaussian,
    upsample_conv2d,
)

__all__ = [
    "DECOMPOSITIONS",
    "activate",
    "activation_gradient",
    "activation_second_derivative",
    "adversarial_loss",
    "batch_norm",
    "batch_norm_native",
    "batch_statistics",
    "bce",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "conv_transpose2d",
    "discriminator_loss",
    "gaussian_backward",
    "gaussian_kl",
    "generator_loss",
    "group_norm",
    "group_norm_native",
    "group_statistics",
    "philox",
    "philox_normal",
    "reconstruction_loss",
    "sample_gaussian",
    "upsample_conv2d",
]
