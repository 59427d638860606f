"""Drop-in layers: torch's names, arguments and state dicts, plus a fused ``activation=``."""

from .conv import Conv2d, ConvTranspose2d

__all__ = [
    "Conv2d",
    "ConvTranspose2d",
]
