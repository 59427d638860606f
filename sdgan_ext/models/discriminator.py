"""Images to logits: how real an image is."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn.utils.parametrizations import spectral_norm

from .. import nn
from .config import VAEGANConfig
from .geometry import same_margins
from .labels import check_labels
from .layers import DownBlocks, Layer, check_images, flatten, initialise
from .migration import accept_old_names

__all__ = ["Discriminator", "MinibatchStdDev"]


class Discriminator(torch.nn.Module):
    """Stride-2 convolutions, then one dense layer to a logit; no sigmoid, the losses take logits.

    With ``discriminator_blocks`` each convolution is followed by residual blocks. With ``discriminator_head="patch"`` a
    convolution makes a logit of each place, of a patch of the image (PatchGAN, Isola et al. 2017).
    ``discriminator_norm="spectral"`` divides every weight by its largest singular value (Miyato et al. 2018). With
    ``classes`` a logit is ``w . f + b + e(label) . f`` of the features f that the dense layer takes, or of those of its
    place (projection discriminator, Miyato & Koyama 2018).

    Shapes: [N, channels, H, W] and labels [N] -> [N, 1], or [N, 1, h, w] with the patch head, h and w the sides after
    the last down block; with ``return_features`` also the output of every down block.
    """

    def __init__(self, config: VAEGANConfig):
        super().__init__()
        self.config = config
        self.down_blocks = DownBlocks(config, "discriminator")
        channels, *size = self.down_blocks.out_shape
        grouped = config.minibatch_stddev > 0
        self.minibatch_stddev = MinibatchStdDev(config.minibatch_stddev) if grouped else None
        self.logit: Layer
        if config.discriminator_head == "patch":
            features = channels + grouped
            self.logit = nn.Conv2d(features, 1, config.kernel_size, padding=same_margins(config.kernel_size))
        else:
            features = math.prod(size) * (channels + grouped)
            self.logit = torch.nn.Linear(features, 1)
        self.embedding = torch.nn.Embedding(config.classes, features) if config.classes else None
        initialise(self, config.init)
        if config.discriminator_norm == "spectral":
            for layer in list(self.modules()):
                if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear, torch.nn.Embedding)):
                    spectral_norm(layer)
        accept_old_names(self)

    @overload
    def forward(
        self, x: Tensor, return_features: Literal[False] = False, *, labels: Tensor | None = None
    ) -> Tensor: ...

    @overload
    def forward(
        self, x: Tensor, return_features: Literal[True], *, labels: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]: ...

    def forward(
        self, x: Tensor, return_features: bool = False, *, labels: Tensor | None = None
    ) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        check_images(x, self.config)
        check_labels(labels, x.shape[0], self.config)
        features = self.down_blocks(x)
        last = features[-1] if self.minibatch_stddev is None else self.minibatch_stddev(features[-1])
        if self.config.discriminator_head == "dense":
            last = flatten(last)
        logits = self.logit(last)
        if self.embedding is not None:
            of_label = self.embedding(labels)
            of_label = of_label.reshape(*of_label.shape, *[1] * (last.dim() - 2))
            logits = logits + (of_label * last).sum(1, keepdim=True)
        return (logits, tuple(features)) if return_features else logits


class MinibatchStdDev(torch.nn.Module):
    """One more channel: how much the images of a group differ, which shows samples that are all alike.

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
        groups = torch.unflatten(wide, 0, (n // size, size))
        variance = (groups - groups.mean(1, keepdim=True)).square().mean(1)
        deviation = (variance + 1e-8).sqrt().mean((1, 2, 3)).to(x.dtype)
        channel = deviation.repeat_interleave(size, output_size=n).reshape(n, 1, 1, 1).expand(n, 1, height, width)
        return torch.cat([x, channel], 1)

    def extra_repr(self) -> str:
        return f"group={self.group}"
