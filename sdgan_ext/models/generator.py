"""Latent vectors to images: the decoder of a VAE, the generator of a GAN."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import nn
from .config import VAEGANConfig
from .geometry import level_sizes, margins, same_margins
from .labels import check_labels
from .layers import Layer, activation_of, initialise, normalisation, residual_blocks, unflatten
from .migration import accept_old_names

__all__ = ["Generator"]


class Generator(torch.nn.Module):
    """A dense layer, stride-2 transposed convolutions, with ``generator_head="conv"`` a convolution, and a tanh.

    With a norm every layer but the one that makes the image is normalised (DCGAN, Radford et al. 2016). With
    ``residual_blocks`` some follow at every size but the image's own. With ``latent_map`` z is a map, pixel by pixel,
    and a 3x3 convolution stands for the dense layer.

    With ``classes`` an embedding of the label is added to z. With ``learned_variance`` it has a trained scalar
    ``log_scale``, which no image depends on: the scale of p(x|z) in ``losses.pixel_nll``.

    Shapes: [N, latent_dim] and labels [N] -> [N, channels, H, W] in [-1, 1], channels_last in memory.
    """

    def __init__(self, config: VAEGANConfig):
        super().__init__()
        self.config = config
        sizes = level_sizes(config.size, config.generator_levels)[::-1]
        first, *widths = config.generator_channels
        if config.generator_head == "transposed":
            widths.append(config.channels)
        norm = config.generator_norm
        act = activation_of(config, "generator")
        own = act if norm == "none" else {}  # without a norm the layers apply the activation themselves

        self.base_shape = (first, *sizes[0])
        self.dense: Layer
        if config.latent_map:
            self.dense = nn.Conv2d(config.latent_shape[0], first, 3, padding=1)
        else:
            self.dense = torch.nn.Linear(config.latent_dim, math.prod(self.base_shape))
        self.norms = torch.nn.ModuleList([normalisation(norm, first, act)])
        self.blocks = torch.nn.ModuleList([residual_blocks(config.residual_blocks, first, norm, act)])
        self.up_blocks = torch.nn.ModuleList()
        for level, (into, out) in enumerate(zip((first, *widths), widths, strict=False)):
            crop = margins(sizes[level + 1], sizes[level], config.kernel_size)
            image = config.generator_head == "transposed" and level == len(widths) - 1
            activation = {"activation": "tanh"} if image else own
            bias = image or norm != "batch"
            self.up_blocks.append(
                nn.ConvTranspose2d(into, out, config.kernel_size, stride=2, crop=crop, bias=bias, **activation)
            )
            self.norms.append(torch.nn.Identity() if image or norm == "none" else normalisation(norm, out, act))
            self.blocks.append(residual_blocks(0 if image else config.residual_blocks, out, norm, act))
        self.head: torch.nn.Module
        if config.generator_head == "conv":
            padding = same_margins(config.kernel_size)
            self.head = nn.Conv2d(widths[-1], config.channels, config.kernel_size, padding=padding, activation="tanh")
        else:
            self.head = torch.nn.Identity()
        self.embedding = torch.nn.Embedding(config.classes, config.latent_dim) if config.classes else None
        self.log_scale = torch.nn.Parameter(torch.zeros(())) if config.learned_variance else None
        initialise(self, config.init)
        accept_old_names(self)

    @property
    def last_weight(self) -> Tensor:
        """The weight of the layer that makes the image."""
        last = self.head if self.config.generator_head == "conv" else self.up_blocks[-1]
        weight = last.weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if z.dim() != 2 or z.shape[1] != self.config.latent_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}; this model takes [N, {self.config.latent_dim}]")
        check_labels(labels, z.shape[0], self.config)
        if self.embedding is not None:
            z = z + self.embedding(labels)
        if self.config.latent_map:
            x = self.dense(unflatten(z, self.config.latent_shape))
        else:
            x = unflatten(self.dense(z), self.base_shape)
        x = self.blocks[0](self.norms[0](x))
        for up_block, norm, blocks in zip(self.up_blocks, self.norms[1:], self.blocks[1:], strict=True):
            x = blocks(norm(up_block(x)))
        image: Tensor = self.head(x)
        return image
