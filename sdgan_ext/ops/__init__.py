"""The fused operations as public functions; :mod:`sdgan_ext.ops.reference` holds their pure-torch twins."""

from ._convolution import no_weight_gradients
from .conv2d import conv2d
from .conv_transpose2d import conv_transpose2d

__all__ = [
    "conv2d",
    "conv_transpose2d",
    "no_weight_gradients",
]
