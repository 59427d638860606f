"""Images to posteriors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import nn
from .config import VAEGANConfig
from .labels import check_labels
from .layers import DownBlocks, Layer, check_images, flatten, initialise
from .migration import accept_old_names
from .posterior import Posterior

__all__ = ["Encoder"]


class Encoder(torch.nn.Module):
    """Stride-2 convolutions, then one dense layer for the mean and one for the log variance.

    With ``residual_blocks`` each convolution is followed by some. With ``latent_map`` 3x3 convolutions stand for the
    dense layers, so that z keeps its places in the image (Rombach et al. 2022); z is the map, pixel by pixel.

    With ``classes`` an embedding of the label is added to both, as if the dense layers saw the label beside the
    features (the conditional VAE of Sohn et al. 2015).

    Shapes: [N, channels, H, W] and labels [N] -> :class:`Posterior` of [N, latent_dim].
    """

    def __init__(self, config: VAEGANConfig):
        super().__init__()
        self.config = config
        self.down_blocks = DownBlocks(config, "encoder")
        self.mean: Layer
        self.logvar: Layer
        if config.latent_map:
            width = self.down_blocks.out_shape[0]
            self.mean = nn.Conv2d(width, config.latent_shape[0], 3, padding=1)
            self.logvar = nn.Conv2d(width, config.latent_shape[0], 3, padding=1)
        else:
            features = math.prod(self.down_blocks.out_shape)
            self.mean = torch.nn.Linear(features, config.latent_dim)
            self.logvar = torch.nn.Linear(features, config.latent_dim)
        self.embedding = torch.nn.Embedding(config.classes, 2 * config.latent_dim) if config.classes else None
        initialise(self, config.init)
        accept_old_names(self)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Posterior:
        check_images(x, self.config)
        check_labels(labels, x.shape[0], self.config)
        features = self.down_blocks(x)[-1]
        if self.config.latent_map:
            mean, logvar = flatten(self.mean(features)), flatten(self.logvar(features))
        else:
            features = flatten(features)
            mean, logvar = self.mean(features), self.logvar(features)
        if self.embedding is not None:
            of_mean, of_logvar = self.embedding(labels).chunk(2, 1)
            mean = mean + of_mean
            logvar = logvar + of_logvar
        return Posterior(mean, logvar)
