"""Images to posteriors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import VAEGANConfig
from .layers import Halvings, check_images, flatten, initialise
from .posterior import Posterior

__all__ = ["Encoder"]


class Encoder(torch.nn.Module):
    """Stride-2 convolutions, then one dense layer for the mean and one for the log variance.

    Shapes: [N, channels, H, W] -> :class:`Posterior` of [N, latent_dim].
    """

    def __init__(self, config: VAEGANConfig):
        super().__init__()
        self.config = config
        self.halvings = Halvings(config, config.encoder_channels, config.encoder_norm, config.encoder_activation)
        features = math.prod(self.halvings.out_shape)
        self.mean = torch.nn.Linear(features, config.latent_dim)
        self.logvar = torch.nn.Linear(features, config.latent_dim)
        initialise(self, config.init)

    def forward(self, x: Tensor) -> Posterior:
        check_images(x, self.config)
        features = flatten(self.halvings(x)[-1])
        return Posterior(self.mean(features), self.logvar(features))
