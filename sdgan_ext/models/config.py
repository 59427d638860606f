"""What a model is made of. Two equal configurations make models whose state dicts fit each other."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any, Literal

from .._config import Config, option
from .._errors import ConfigError, shown
from ..ops._enums import Activation
from .geometry import level_sizes
from .size import count_parameters

__all__ = ["MOST_PARAMETERS", "Mode", "VAEGANConfig"]

#: Of a model: 4 GiB in float32. A configuration that means more is a mistake, or a trap.
MOST_PARAMETERS = 2**30

Mode = Literal["gan", "vae", "vae-gan"]
_Norm = Literal["none", "batch", "group"]
_DiscriminatorNorm = Literal["none", "batch", "group", "spectral"]
_GeneratorHead = Literal["transposed", "conv"]
_DiscriminatorHead = Literal["dense", "patch"]
_Init = Literal["dcgan", "glorot", "torch"]
_ACTIVATIONS = typing.get_args(Activation)
_NORMS = typing.get_args(_Norm)


@dataclass(frozen=True)
class VAEGANConfig(Config):
    """Sizes of the encoder, the generator and the discriminator, for images of any height, width and channel number.

    Every down block halves the sides of the image, rounding up; see :mod:`sdgan_ext.models.geometry`.

    Raises:
        ConfigError: one sentence that names the field, what came and what is allowed.
    """

    image_size: int | tuple[int, int] = option(
        28, "height and width of the images, or the side of square ones", minimum=1, maximum=8192
    )
    channels: int = option(1, "channels of the images", minimum=1)
    latent_dim: int = option(100, "numbers that stand for one image", minimum=1)
    encoder_channels: tuple[int, ...] | None = option(
        (32, 64), "channels after each down block of the encoder; none: a GAN without an encoder", minimum=1
    )
    generator_channels: tuple[int, ...] = option(
        (64, 32), "channels after the generator's dense layer, then after each up block", minimum=1
    )
    discriminator_channels: tuple[int, ...] | None = option(
        (32, 64), "channels after each down block of the discriminator; none: a VAE without one", minimum=1
    )
    kernel_size: int = option(4, "side of every convolution kernel", minimum=2)
    residual_blocks: int = option(
        0,
        "residual blocks after each down block of the encoder and before each up block of the generator",
        minimum=0,
        maximum=64,
    )
    discriminator_blocks: int = option(
        0, "residual blocks after each down block of the discriminator", minimum=0, maximum=64
    )
    latent_map: bool = option(
        False, "the latent vector is a map, as large as the image after the encoder's down blocks, without dense layers"
    )
    prior_rank: int = option(
        0,
        "principal components of the prior that is fitted to the latents in training; 0: the prior is N(0, I)",
        minimum=0,
    )
    encoder_norm: _Norm = option("none", "normalisation in the encoder", choices=_NORMS)
    generator_norm: _Norm = option("batch", "normalisation in the generator", choices=_NORMS)
    discriminator_norm: _DiscriminatorNorm = option(
        "none", "normalisation in the discriminator", choices=typing.get_args(_DiscriminatorNorm)
    )
    encoder_activation: Activation = option("leaky_relu", "activation in the encoder", choices=_ACTIVATIONS)
    generator_activation: Activation = option(
        "relu", "activation in the generator; its output is a tanh", choices=_ACTIVATIONS
    )
    discriminator_activation: Activation = option("leaky_relu", "activation in the discriminator", choices=_ACTIVATIONS)
    negative_slope: float = option(0.2, "negative_slope of leaky_relu", minimum=0.0)
    generator_head: _GeneratorHead = option(
        "transposed",
        "what makes the image: the last up block (transposed), or a convolution after it (conv)",
        choices=typing.get_args(_GeneratorHead),
    )
    discriminator_head: _DiscriminatorHead = option(
        "dense",
        "what makes the logits: a dense layer, one for the image, or a convolution, one for each patch (PatchGAN)",
        choices=typing.get_args(_DiscriminatorHead),
    )
    minibatch_stddev: int = option(
        0,
        "images whose deviation from each other is one more channel in the discriminator, 4 in the paper; 0: none",
        minimum=0,
    )
    learned_variance: bool = option(False, "train the scale of the images' distribution with the generator")
    classes: int = option(0, "classes that all networks are conditioned on; 0: none", minimum=0)
    init: _Init = option(
        "dcgan",
        "weights at the start: dcgan N(0, 0.02), glorot uniform with zero biases, torch its layers' defaults",
        choices=typing.get_args(_Init),
    )

    def __post_init__(self) -> None:
        if isinstance(self.image_size, int):
            object.__setattr__(self, "image_size", self.size)
        super().__post_init__()
        if self.generator_levels == 0:
            raise ConfigError(
                f"generator_channels is {self.generator_channels}; with generator_head 'conv' it needs two or more: "
                "after the dense layer and after each up block"
            )
        if self.minibatch_stddev == 1:
            raise ConfigError("minibatch_stddev is 1; one image does not deviate from itself: 0 (none), or at least 2")
        self._check_levels("encoder", len(self.encoder_channels or ()), "down blocks")
        self._check_levels("generator", self.generator_levels, "up blocks")
        self._check_levels("discriminator", len(self.discriminator_channels or ()), "down blocks")
        if self.latent_map:
            self._check_latent_map()
        if self.prior_rank > self.latent_dim:
            raise ConfigError(f"prior_rank is {self.prior_rank}, but a latent vector has {self.latent_dim} numbers")
        if self.prior_rank and self.encoder_channels is None:
            raise ConfigError(f"prior_rank is {self.prior_rank}, but without an encoder there are no latents to fit to")
        if self.discriminator_blocks and self.discriminator_norm == "spectral":
            raise ConfigError(
                f"discriminator_blocks is {self.discriminator_blocks} with discriminator_norm 'spectral': a residual "
                "block starts at zero, and that weight has no largest singular value to be divided by"
            )
        numbers = self.parameters + self.prior_rank * self.latent_dim
        if numbers > MOST_PARAMETERS:
            raise ConfigError(
                f"a model of this configuration has {numbers:,} parameters; it must be at most {MOST_PARAMETERS:,}: "
                "lower latent_dim, classes, kernel_size, image_size or the channels"
            )

    def _check_levels(self, network: str, levels: int, blocks: str) -> None:
        before_the_last = level_sizes(self.size, levels)[:-1]
        if any(1 in size for size in before_the_last):
            height, width = self.size
            channels = getattr(self, f"{network}_channels")
            raise ConfigError(
                f"{network}_channels is {shown(channels)}, {levels} {blocks}, but an image of "
                f"{height}x{width} can be halved only {(min(self.size) - 1).bit_length()} times"
            )

    def _check_latent_map(self) -> None:
        encoder = self.encoder_channels
        if encoder is not None and len(encoder) != self.generator_levels:
            raise ConfigError(
                f"latent_map is true, encoder_channels {encoder} halves the image {len(encoder)} times and "
                f"generator_channels {self.generator_channels} doubles {self.generator_levels} times; they must agree"
            )
        height, width = level_sizes(self.size, self.generator_levels)[-1]
        if self.latent_dim % (height * width):
            raise ConfigError(
                f"latent_dim is {self.latent_dim}; with latent_map it must be a multiple of {height * width}, the "
                f"pixels of the {height}x{width} map"
            )

    @property
    def size(self) -> tuple[int, int]:
        """``image_size`` as (height, width)."""
        if isinstance(self.image_size, int):
            return (self.image_size, self.image_size)
        return self.image_size

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of the map that a latent vector stands for; (latent_dim,) without one."""
        if not self.latent_map:
            return (self.latent_dim,)
        height, width = level_sizes(self.size, self.generator_levels)[-1]
        return (self.latent_dim // (height * width), height, width)

    @property
    def parameters(self) -> int:
        """How many parameters a model of this configuration has, all networks together."""
        return count_parameters(self)

    @property
    def generator_levels(self) -> int:
        """How often the generator doubles the image's sides."""
        return len(self.generator_channels) - (self.generator_head == "conv")

    @property
    def discriminator_mixes_images(self) -> bool:
        """Whether a logit depends on the other images of its batch: real and generated ones must be batches apart."""
        return self.discriminator_norm == "batch" or self.minibatch_stddev > 0

    def for_mode(self, mode: Mode) -> VAEGANConfig:
        """The same without the network that training in ``mode`` would leave untrained."""
        unused: dict[str, dict[str, Any]] = {
            "gan": {"encoder_channels": None, "learned_variance": False, "prior_rank": 0},
            "vae": {"discriminator_channels": None},
            "vae-gan": {},
        }
        if mode not in unused:
            raise ConfigError(f"mode is {mode!r}; allowed are {', '.join(map(repr, unused))}")
        return self.replace(**unused[mode])
