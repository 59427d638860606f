"""Images to one logit each: how real they look."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.utils.parametrizations import spectral_norm

from .config import VAEGANConfig
from .labels import check_labels
from .layers import Halvings, check_images, flatten, initialise

__all__ = ["Discriminator", "MinibatchStdDev"]


class Discriminator(torch.nn.Module):
    """Stride-2 convolutions, then one dense layer to a logit; no sigmoid, the losses take logits.

    ``discriminator_norm="spectral"`` divides every weight by its largest singular value (Miyato et al. 2018). With
    ``classes`` the logit is ``w . f + b + e(label) . f`` of the features f that the dense layer sees (projection
    discriminator, Miyato & Koyama 2018).

    Shapes: [N, channels, H, W] and labels [N] -> [N, 1]; with ``return_features`` also the activation after each
    halving.
    """

    def __init__(self, config: VAEGANConfig):
        super().__init__()
        self.config = config
        self.halvings = Halvings(
            config, config.discriminator_channels, config.discriminator_norm, config.discriminator_activation
        )
        channels, *size = self.halvings.out_shape
        grouped = config.minibatch_stddev > 0
        self.minibatch_stddev = MinibatchStdDev(config.minibatch_stddev) if grouped else None
        features = math.prod(size) * (channels + grouped)
        self.logit = torch.nn.Linear(features, 1)
        self.embedding = torch.nn.Embedding(config.classes, features) if config.classes else None
        initialise(self, config.init)
        if config.discriminator_norm == "spectral":
            for layer in (*self.halvings.convs, self.logit, *([self.embedding] if config.classes else [])):
                spectral_norm(layer)

    def forward(
        self, x: Tensor, return_features: bool = False, *, labels: Tensor | None = None
    ) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        check_images(x, self.config)
        check_labels(labels, x.shape[0], self.config)
        features = self.halvings(x)
        last = features[-1] if self.minibatch_stddev is None else self.minibatch_stddev(features[-1])
        flat = flatten(last)
        logits = self.logit(flat)
        if labels is not None:
            logits = logits + (self.embedding(labels) * flat).sum(1, keepdim=True)
        return (logits, tuple(features)) if return_features else logits


class MinibatchStdDev(torch.nn.Module):
    """One more channel: how much the images of a group differ, so that samples that are all alike are seen to be so.

    Of every group of ``group`` images in a row, the standard deviation of each feature, averaged over all of them, in
    every pixel (Karras et al. 2018, section 3; groups as in their code). Where ``group`` does not divide N, groups are
    of the largest size below it that does.

    Shapes: [N, C, H, W] -> [N, C + 1, H, W].
    """

    def __init__(self, group: int = 4):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        size = next((size for size in range(min(self.group, n), 0, -1) if n % size == 0), 1)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        groups = wide.unflatten(0, (n // size, size))
        variance = (groups - groups.mean(1, keepdim=True)).square().mean(1)
        deviation = (variance + 1e-8).sqrt().mean((1, 2, 3)).to(x.dtype)
        channel = deviation.repeat_interleave(size, output_size=n).reshape(n, 1, 1, 1).expand(n, 1, height, width)
        return torch.cat([x, channel], 1)

    def extra_repr(self) -> str:
        return f"group={self.group}"
