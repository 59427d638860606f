"""Drop-in layers: torch's names, arguments and state dicts, plus a fused ``activation=``."""

from .batch_norm import BatchNorm2d
from .conv import Conv2d, ConvTranspose2d, UpsampleConv2d
from .group_norm import GroupNorm

__all__ = [
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "GroupNorm",
    "UpsampleConv2d",
]
