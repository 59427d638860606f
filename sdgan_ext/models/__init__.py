"""Encoder, generator, discriminator and the model over them."""

from .config import VAEGANConfig
from .discriminator import Discriminator
from .encoder import Encoder
from .generator import Generator
from .posterior import Posterior
from .prior import FittedPrior
from .vae_gan import VAEGAN

# isort: split
# Last: presets name a training configuration, and the training package needs the rest of this one.
from .presets import PRESETS, Preset, preset

__all__ = [
    "PRESETS",
    "VAEGAN",
    "Discriminator",
    "Encoder",
    "FittedPrior",
    "Generator",
    "Posterior",
    "Preset",
    "VAEGANConfig",
    "preset",
]
