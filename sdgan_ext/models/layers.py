"""The block that encoder and discriminator share, initial weights, and the channels-last view of a flat vector."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import nn
from .config import VAEGANConfig
from .geometry import level_sizes, margins

__all__ = ["Halvings", "check_images", "flatten", "initialise", "unflatten"]


class Halvings(torch.nn.Module):
    """Stride-2 convolutions, each with its normalisation and activation.

    Batch norm is left out of the first, as in DCGAN (Radford et al. 2016): it would hide the images' own statistics.

    Shapes: [N, channels, H, W] -> [N, widths[-1], ceil(H / 2^L), ceil(W / 2^L)].
    """

    def __init__(self, config: VAEGANConfig, widths: tuple[int, ...], norm: str, activation: str):
        super().__init__()
        sizes = level_sizes(config.image_size, len(widths))
        self.out_shape = (widths[-1], *sizes[-1])
        act = {"activation": activation, "negative_slope": config.negative_slope}
        self.convs = torch.nn.ModuleList()
        self.norms = torch.nn.ModuleList()
        for level, (into, out) in enumerate(zip((config.channels, *widths), widths, strict=False)):
            batch = norm == "batch" and level > 0
            padding = margins(sizes[level], sizes[level + 1], config.kernel_size)
            own = {} if batch else act
            self.convs.append(
                nn.Conv2d(into, out, config.kernel_size, stride=2, padding=padding, bias=not batch, **own)
            )
            self.norms.append(nn.BatchNorm2d(out, **act) if batch else torch.nn.Identity())

    def forward(self, x: Tensor) -> list[Tensor]:
        """The activation after each halving."""
        activations = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x))
            activations.append(x)
        return activations


def flatten(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H * W * C]: channels last, so that nothing is copied in that memory format."""
    return x.permute(0, 2, 3, 1).flatten(1)


def unflatten(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """[N, H * W * C] -> [N, C, H, W] in channels_last memory: the inverse of :func:`flatten`."""
    channels, height, width = shape
    return x.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)


def check_images(x: Tensor, config: VAEGANConfig) -> None:
    if x.dim() != 4 or x.shape[1:] != (config.channels, *config.image_size):
        shape = ", ".join(str(size) for size in (config.channels, *config.image_size))
        raise ValueError(f"x has shape {tuple(x.shape)}; this model takes images of shape [N, {shape}]")


def initialise(network: torch.nn.Module, how: str) -> None:
    """Initial weights: ``dcgan`` (Radford et al. 2016, section 4), ``glorot`` (Glorot & Bengio 2010) or ``torch``.

    Batch norm starts as the identity in all three; with ``dcgan`` its scales are drawn from N(1, 0.02). Embeddings of
    class labels start as N(0, 0.02) in all three: beside z ~ N(0, I), classes begin alike and grow apart.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, 0.0, 0.02)
    if how == "torch":
        return
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)):
            if how == "dcgan":
                torch.nn.init.normal_(module.weight, 0.0, 0.02)
            else:
                torch.nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        elif isinstance(module, torch.nn.BatchNorm2d) and how == "dcgan":
            torch.nn.init.normal_(module.weight, 1.0, 0.02)
