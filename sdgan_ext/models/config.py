"""What a model is made of. Two equal configurations make models whose state dicts fit each other."""

from __future__ import annotations

from dataclasses import dataclass

from .._config import Config, option
from .._errors import ConfigError
from .geometry import level_sizes

__all__ = ["VAEGANConfig"]

_ACTIVATIONS = ("relu", "leaky_relu", "silu", "elu", "tanh", "sigmoid")


@dataclass(frozen=True)
class VAEGANConfig(Config):
    """Sizes of the encoder, the generator and the discriminator, for images of any height, width and channel number.

    Every level halves the image, rounding up; see :mod:`sdgan_ext.models.geometry`.

    Raises:
        ConfigError: one sentence that names the field, what came and what is allowed.
    """

    image_size: int | tuple[int, int] = option(
        28, "height and width of the images, or the side of square ones", minimum=1
    )
    channels: int = option(1, "channels of the images", minimum=1)
    latent_dim: int = option(100, "numbers that stand for one image", minimum=1)
    encoder_channels: tuple[int, ...] | None = option(
        (32, 64), "channels after each halving of the encoder; none: a GAN without an encoder", minimum=1
    )
    generator_channels: tuple[int, ...] = option(
        (64, 32), "channels after the generator's dense layer, then after each doubling", minimum=1
    )
    discriminator_channels: tuple[int, ...] | None = option(
        (32, 64), "channels after each halving of the discriminator; none: a VAE without one", minimum=1
    )
    kernel_size: int = option(4, "side of every convolution kernel", minimum=2)
    residual_blocks: int = option(
        0, "residual blocks after each halving of the encoder and before each doubling of the generator", minimum=0
    )
    discriminator_blocks: int = option(0, "residual blocks after each halving of the discriminator", minimum=0)
    latent_map: bool = option(
        False, "the latent vector is a map, as large as the image after the encoder's halvings, without dense layers"
    )
    prior_rank: int = option(
        0,
        "principal components of the prior that is fitted to the latents in training; 0: the prior is N(0, I)",
        minimum=0,
    )
    encoder_norm: str = option("none", "normalisation in the encoder", choices=("none", "batch", "group"))
    generator_norm: str = option("batch", "normalisation in the generator", choices=("none", "batch", "group"))
    discriminator_norm: str = option(
        "none", "normalisation in the discriminator", choices=("none", "batch", "group", "spectral")
    )
    encoder_activation: str = option("leaky_relu", "activation in the encoder", choices=_ACTIVATIONS)
    generator_activation: str = option(
        "relu", "activation in the generator; its output is a tanh", choices=_ACTIVATIONS
    )
    discriminator_activation: str = option("leaky_relu", "activation in the discriminator", choices=_ACTIVATIONS)
    negative_slope: float = option(0.2, "slope of leaky_relu below zero", minimum=0.0)
    generator_head: str = option(
        "transposed",
        "what makes the image: the last doubling (transposed), or a convolution after it (conv)",
        choices=("transposed", "conv"),
    )
    discriminator_head: str = option(
        "dense",
        "what makes the logits: a dense layer, one for the image, or a convolution, one for each patch (PatchGAN)",
        choices=("dense", "patch"),
    )
    minibatch_stddev: int = option(
        0,
        "images whose deviation from each other the discriminator sees as one more channel, 4 in the paper; 0: none",
        minimum=0,
    )
    learned_variance: bool = option(False, "train the scale of the images' distribution with the generator")
    classes: int = option(0, "classes that all networks are told of an image; 0: none", minimum=0)
    init: str = option(
        "dcgan",
        "weights at the start: dcgan N(0, 0.02), glorot uniform with zero biases, torch its layers' defaults",
        choices=("dcgan", "glorot", "torch"),
    )

    def __post_init__(self):
        if isinstance(self.image_size, int):
            object.__setattr__(self, "image_size", (self.image_size, self.image_size))
        super().__post_init__()
        if self.generator_levels == 0:
            raise ConfigError(
                f"generator_channels is {self.generator_channels}; with generator_head 'conv' it needs two or more: "
                "after the dense layer and after each doubling"
            )
        if self.minibatch_stddev == 1:
            raise ConfigError("minibatch_stddev is 1; one image does not deviate from itself: 0 (none), or at least 2")
        for network in ("encoder", "generator", "discriminator"):
            channels = getattr(self, f"{network}_channels")
            levels = self.generator_levels if network == "generator" else len(channels or ())
            if 1 in (size for level in level_sizes(self.image_size, levels)[:-1] for size in level):
                height, width = self.image_size
                raise ConfigError(
                    f"{network}_channels is {channels}, {levels} halvings, but an image of {height}x{width} can be "
                    f"halved only {(min(self.image_size) - 1).bit_length()} times"
                )
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

    def _check_latent_map(self):
        encoder = self.encoder_channels
        if encoder is not None and len(encoder) != self.generator_levels:
            raise ConfigError(
                f"latent_map is true, encoder_channels {encoder} halves the image {len(encoder)} times and "
                f"generator_channels {self.generator_channels} doubles {self.generator_levels} times; they must agree"
            )
        height, width = level_sizes(self.image_size, self.generator_levels)[-1]
        if self.latent_dim % (height * width):
            raise ConfigError(
                f"latent_dim is {self.latent_dim}; with latent_map it must be a multiple of {height * width}, the "
                f"pixels of the {height}x{width} map"
            )

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of the map that a latent vector stands for; (latent_dim,) without one."""
        if not self.latent_map:
            return (self.latent_dim,)
        height, width = level_sizes(self.image_size, self.generator_levels)[-1]
        return (self.latent_dim // (height * width), height, width)

    @property
    def generator_levels(self) -> int:
        """How often the generator doubles the image's sides."""
        return len(self.generator_channels) - (self.generator_head == "conv")

    @property
    def discriminator_mixes_images(self) -> bool:
        """Whether a logit depends on the other images of its batch: real and generated ones must be batches apart."""
        return self.discriminator_norm == "batch" or self.minibatch_stddev > 0

    def for_mode(self, mode: str) -> VAEGANConfig:
        """The same without the network that training in ``mode`` ("gan", "vae" or "vae-gan") would leave untrained."""
        unused = {
            "gan": {"encoder_channels": None, "learned_variance": False, "prior_rank": 0},
            "vae": {"discriminator_channels": None},
            "vae-gan": {},
        }
        if mode not in unused:
            raise ConfigError(f"mode is {mode!r}; allowed are {', '.join(map(repr, unused))}")
        return self.replace(**unused[mode])
