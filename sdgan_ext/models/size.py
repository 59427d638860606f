"""How many parameters a configuration means, by arithmetic: known before a byte of them is allocated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .geometry import level_sizes

if TYPE_CHECKING:
    from .config import VAEGANConfig

__all__ = ["count_parameters"]


def count_parameters(config: VAEGANConfig) -> int:
    """Those of :class:`~sdgan_ext.models.VAEGAN` of ``config``."""
    count = _generator(config)
    if config.encoder_channels:
        count += _encoder(config, config.encoder_channels)
    if config.discriminator_channels:
        count += _discriminator(config, config.discriminator_channels)
    return count


def _encoder(config: VAEGANConfig, widths: tuple[int, ...]) -> int:
    down_blocks = _down_blocks(config, widths, config.encoder_norm, config.residual_blocks)
    if config.latent_map:
        head = _layer(widths[-1], config.latent_shape[0], 3)
    else:
        head = _layer(_pixels(config, len(widths)) * widths[-1], config.latent_dim)
    return down_blocks + 2 * head + config.classes * 2 * config.latent_dim


def _generator(config: VAEGANConfig) -> int:
    first, norm = config.generator_channels[0], config.generator_norm
    if config.latent_map:
        count = _layer(config.latent_shape[0], first, 3)
    else:
        count = _layer(config.latent_dim, _pixels(config, config.generator_levels) * first)
    transposed = config.generator_head == "transposed"
    widths = (*config.generator_channels, *[config.channels] * transposed)
    count += _norm(norm, first) + _residual_blocks(config.residual_blocks, first, norm)
    for level, (into, out) in enumerate(zip(widths, widths[1:], strict=False), 2):
        image = transposed and level == len(widths)
        count += _layer(into, out, config.kernel_size, bias=image or norm != "batch")
        if not image:
            count += _norm(norm, out) + _residual_blocks(config.residual_blocks, out, norm)
    if not transposed:
        count += _layer(widths[-1], config.channels, config.kernel_size)
    return count + config.classes * config.latent_dim + config.learned_variance


def _discriminator(config: VAEGANConfig, widths: tuple[int, ...]) -> int:
    down_blocks = _down_blocks(config, widths, config.discriminator_norm, config.discriminator_blocks)
    patch = config.discriminator_head == "patch"
    features = widths[-1] + (config.minibatch_stddev > 0)
    if not patch:
        features *= _pixels(config, len(widths))
    return down_blocks + _layer(features, 1, config.kernel_size if patch else 1) + config.classes * features


def _down_blocks(config: VAEGANConfig, widths: tuple[int, ...], norm: str, blocks: int) -> int:
    count = 0
    for level, (into, out) in enumerate(zip((config.channels, *widths), widths, strict=False)):
        own = norm if level else "none"  # a normalisation is left out of the first
        count += _layer(into, out, config.kernel_size, bias=own != "batch") + _norm(own, out)
        count += _residual_blocks(blocks, out, norm)
    return count


def _residual_blocks(blocks: int, channels: int, norm: str) -> int:
    first = _layer(channels, channels, 3, bias=norm != "batch")
    return blocks * (first + _layer(channels, channels, 3) + 2 * _norm(norm, channels))


def _layer(into: int, out: int, kernel: int = 1, *, bias: bool = True) -> int:
    return into * out * kernel**2 + out * bias


def _norm(norm: str, channels: int) -> int:
    return 2 * channels if norm in ("batch", "group") else 0


def _pixels(config: VAEGANConfig, levels: int) -> int:
    return math.prod(level_sizes(config.size, levels)[-1])
