"""The fused operations as public functions; :mod:`sdgan_ext.ops.reference` specifies them in plain torch."""

from . import reference
from ._conv_backend import conv_backend, get_conv_backend
from ._convolution import explain_conv, no_weight_gradients
from ._kept_filters import kept_filters
from .adversarial_loss import discriminator_loss, generator_loss
from .batch_norm import batch_norm
from .bce import binary_cross_entropy, binary_cross_entropy_with_logits
from .conv2d import conv2d
from .conv_transpose2d import conv_transpose2d
from .gaussian import gaussian_kl, sample_gaussian
from .group_norm import group_norm
from .reconstruction_loss import reconstruction_loss
from .upsample_conv2d import upsample_conv2d

__all__ = [
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "conv_backend",
    "conv_transpose2d",
    "discriminator_loss",
    "explain_conv",
    "gaussian_kl",
    "generator_loss",
    "get_conv_backend",
    "group_norm",
    "kept_filters",
    "no_weight_gradients",
    "reconstruction_loss",
    "reference",
    "sample_gaussian",
    "upsample_conv2d",
]
