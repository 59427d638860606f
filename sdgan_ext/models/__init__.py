"""Encoder, generator, discriminator and the model over them. Nothing here imports training, evaluation or the CLI."""

from typing import Any

from .config import VAEGANConfig
from .discriminator import Discriminator
from .encoder import Encoder
from .generator import Generator
from .posterior import Posterior
from .prior import FittedPrior
from .vae_gan import VAEGAN

__all__ = [
    "VAEGAN",
    "Discriminator",
    "Encoder",
    "FittedPrior",
    "Generator",
    "Posterior",
    "VAEGANConfig",
]

_MOVED = ("PRESETS", "Preset", "preset")  # to sdgan_ext.presets; these names go with the next release


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import warnings

    from .. import presets

    warnings.warn(f"sdgan_ext.models.{name} has moved to sdgan_ext.presets", DeprecationWarning, stacklevel=2)
    return getattr(presets, name)
