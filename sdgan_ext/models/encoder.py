"""Images to posteriors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import VAEGANConfig
from .labels import check_labels
from .layers import Halvings, check_images, flatten, initialise
from .posterior import Posterior

__all__ = ["Encoder"]


class Encoder(torch.nn.Module):
    """Stride-2 convolutions, then one dense layer for the mean and one for the log variance.

    With ``classes`` an embedding of the label is added to both, as if the dense layers saw the label beside the
    features (the conditional VAE of Sohn et al. 2015).

    Shapes: [N, channels, H, W] and labels [N] -> :class:`Posterior` of [N, latent_dim].
    """

    def __init__(self, config: VAEGANConfig):
        super().__init__()
        self.config = config
        self.halvings = Halvings(config, config.encoder_channels, config.encoder_norm, config.encoder_activation)
        features = math.prod(self.halvings.out_shape)
        self.mean = torch.nn.Linear(features, config.latent_dim)
        self.logvar = torch.nn.Linear(features, config.latent_dim)
        self.embedding = torch.nn.Embedding(config.classes, 2 * config.latent_dim) if config.classes else None
        initialise(self, config.init)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Posterior:
        check_images(x, self.config)
        check_labels(labels, x.shape[0], self.config)
        features = flatten(self.halvings(x)[-1])
        mean, logvar = self.mean(features), self.logvar(features)
        if labels is not None:
            of_mean, of_logvar = self.embedding(labels).chunk(2, 1)
            mean, logvar = mean + of_mean, logvar + of_logvar
        return Posterior(mean, logvar)
