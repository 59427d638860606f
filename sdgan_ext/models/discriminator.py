"""Images to one logit each: how real they look."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.utils.parametrizations import spectral_norm

from .config import VAEGANConfig
from .layers import Halvings, check_images, flatten, initialise

__all__ = ["Discriminator"]


class Discriminator(torch.nn.Module):
    """Stride-2 convolutions, then one dense layer to a logit; no sigmoid, the losses take logits.

    ``discriminator_norm="spectral"`` divides every weight by its largest singular value (Miyato et al. 2018).

    Shapes: [N, channels, H, W] -> [N, 1]; with ``return_features`` also the activation after each halving.
    """

    def __init__(self, config: VAEGANConfig):
        super().__init__()
        self.config = config
        self.halvings = Halvings(
            config, config.discriminator_channels, config.discriminator_norm, config.discriminator_activation
        )
        self.logit = torch.nn.Linear(math.prod(self.halvings.out_shape), 1)
        initialise(self, config.init)
        if config.discriminator_norm == "spectral":
            for layer in (*self.halvings.convs, self.logit):
                spectral_norm(layer)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        check_images(x, self.config)
        features = self.halvings(x)
        logits = self.logit(flatten(features[-1]))
        return (logits, tuple(features)) if return_features else logits
