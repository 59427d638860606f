"""The blocks that the networks share, initial weights, and the channels-last view of a flat vector."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .. import nn
from .config import VAEGANConfig
from .geometry import level_sizes, margins

__all__ = [
    "DownBlocks",
    "Layer",
    "ResidualBlock",
    "activation_of",
    "check_images",
    "flatten",
    "initialise",
    "normalisation",
    "residual_blocks",
    "unflatten",
]

_GROUPS, _LEAST_CHANNELS = 32, 4  # of group norm: at most so many groups, each of so many channels or more

#: One that maps a tensor to a tensor and has a weight: torch's, or ours, which are subclasses of torch's.
Layer = torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear


class Activation(torch.nn.Module):
    """The activation alone, where no layer before it applies it. Shapes: as they come."""

    def __init__(self, activation: str, negative_slope: float):
        super().__init__()
        self.activation = activation
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        if self.activation == "leaky_relu":
            return torch.nn.functional.leaky_relu(x, self.negative_slope)
        y: Tensor = getattr(torch.nn.functional, self.activation)(x)
        return y


def activation_of(config: VAEGANConfig, network: Literal["encoder", "generator", "discriminator"]) -> dict[str, Any]:
    """The activation of a network, as the two arguments of a layer of ours."""
    return {"activation": getattr(config, f"{network}_activation"), "negative_slope": config.negative_slope}


def normalisation(norm: str, channels: int, act: dict[str, Any]) -> torch.nn.Module:
    """``batch`` or ``group`` (Wu & He 2018) norm and the activation after it; the activation alone for others."""
    if norm == "batch":
        return nn.BatchNorm2d(channels, **act)
    if norm == "group":
        most = min(_GROUPS, max(1, channels // _LEAST_CHANNELS))
        groups = next(groups for groups in range(most, 0, -1) if channels % groups == 0)
        return torch.nn.Sequential(torch.nn.GroupNorm(groups, channels), Activation(**act))
    return Activation(**act)


class ResidualBlock(torch.nn.Module):
    """``x + conv(f(conv(f(x))))`` of 3x3 convolutions, f a normalisation and the activation (He et al. 2016).

    Without a normalisation the first f is left out, for x has been through an activation already.

    Shapes: [N, channels, H, W] -> the same.
    """

    def __init__(self, channels: int, norm: str, act: dict[str, Any]):
        super().__init__()
        normalised = norm in ("batch", "group")
        self.norms = torch.nn.ModuleList(
            normalisation(norm, channels, act) if normalised else torch.nn.Identity() for _ in range(2)
        )
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=norm != "batch", **({} if normalised else act))
        self.last = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.last(self.norms[1](self.first(self.norms[0](x))))
        return y


def residual_blocks(count: int, channels: int, norm: str, act: dict[str, Any]) -> torch.nn.Sequential:
    return torch.nn.Sequential(*(ResidualBlock(channels, norm, act) for _ in range(count)))


class DownBlocks(torch.nn.Module):
    """Stride-2 convolutions, each with its normalisation and activation, then the residual blocks of that size.

    A normalisation is left out of the first, as in DCGAN (Radford et al. 2016): it would hide the images' own
    statistics.

    Shapes: [N, channels, H, W] -> the output of each down block, the last one's [N, widths[-1], ceil(H / 2^L),
    ceil(W / 2^L)].
    """

    def __init__(self, config: VAEGANConfig, network: Literal["encoder", "discriminator"]):
        super().__init__()
        widths: tuple[int, ...] = getattr(config, f"{network}_channels")
        norm: str = getattr(config, f"{network}_norm")
        blocks = config.discriminator_blocks if network == "discriminator" else config.residual_blocks
        sizes = level_sizes(config.size, len(widths))
        self.out_shape = (widths[-1], *sizes[-1])
        act = activation_of(config, network)
        self.convs = torch.nn.ModuleList()
        self.norms = torch.nn.ModuleList()
        self.blocks = torch.nn.ModuleList()
        for level, (into, out) in enumerate(zip((config.channels, *widths), widths, strict=False)):
            normalised = norm in ("batch", "group") and level > 0
            padding = margins(sizes[level], sizes[level + 1], config.kernel_size)
            bias = not (normalised and norm == "batch")  # batch norm would take it out again
            own = {} if normalised else act
            self.convs.append(nn.Conv2d(into, out, config.kernel_size, stride=2, padding=padding, bias=bias, **own))
            self.norms.append(normalisation(norm, out, act) if normalised else torch.nn.Identity())
            self.blocks.append(residual_blocks(blocks, out, norm, act))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The output of each down block, the largest first."""
        activations = []
        for conv, norm, blocks in zip(self.convs, self.norms, self.blocks, strict=True):
            x = blocks(norm(conv(x)))
            activations.append(x)
        return activations


def flatten(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H * W * C]: channels last, so that nothing is copied in that memory format."""
    return x.permute(0, 2, 3, 1).flatten(1)


def unflatten(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[N, H * W * C] -> [N, C, H, W] in channels_last memory: the inverse of :func:`flatten`."""
    channels, height, width = shape
    return torch.unflatten(x, 1, (height, width, channels)).permute(0, 3, 1, 2)


def check_images(x: Tensor, config: VAEGANConfig) -> None:
    if x.dim() != 4 or x.shape[1:] != (config.channels, *config.size):
        shape = ", ".join(str(size) for size in (config.channels, *config.size))
        raise ValueError(f"x has shape {tuple(x.shape)}; this model takes images of shape [N, {shape}]")


def initialise(network: torch.nn.Module, how: str) -> None:
    """Initial weights: ``dcgan`` (Radford et al. 2016, section 4), ``glorot`` (Glorot & Bengio 2010) or ``torch``.

    Batch norm starts as the identity in all three; with ``dcgan`` its scales are drawn from N(1, 0.02). Embeddings of
    class labels start as N(0, 0.02) in all three: beside z ~ N(0, I), classes begin alike and grow apart. Residual
    blocks start as the identity in all three: their last convolution is zero (Zhang et al. 2019, Fixup).
    """
    _draw(network, how)
    for module in network.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, ResidualBlock):
            for parameter in module.last.parameters():
                torch.nn.init.zeros_(parameter)


def _draw(network: torch.nn.Module, how: str) -> None:
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
