"""The configuration of diffusers' AutoencoderKL under the Trainer, from and to its own."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from .._config import Config, option
from .._errors import ConfigError
from ..models import VAEGANConfig
from ..models.config import Mode

__all__ = ["LAYERS", "AutoencoderConfig"]

_Norm = Literal["none", "batch", "group", "spectral"]
_Part = Literal["all", "decoder"]

#: What the networks are made of: fields whose names are those of diffusers' configuration.
LAYERS = ("latent_channels", "block_out_channels", "layers_per_block", "norm_num_groups", "mid_block_add_attention")
#: Entries of diffusers' configuration that other fields stand for, or that say where it came from.
_SAID_OTHERWISE = (*LAYERS, "in_channels", "out_channels", "_class_name", "_diffusers_version", "_name_or_path")


@dataclass(frozen=True)
class AutoencoderConfig(Config):
    """Sizes of diffusers' AutoencoderKL and of the discriminator beside it, and which part is trained.

    With L entries in ``block_out_channels`` the latent map has sides smaller by f = 2 ** (L - 1), so that three are f4
    and five f16.

    Raises:
        ConfigError: one sentence that names the field, what came and what is allowed.
    """

    classes: ClassVar[int] = 0

    image_size: int | tuple[int, int] = option(
        64, "height and width of the images, or the side of square ones", minimum=1, maximum=8192
    )
    channels: int = option(3, "channels of the images", minimum=1, maximum=64)
    latent_channels: int = option(4, "channels of the latent map, 4, 8 or 16 in common", minimum=1, maximum=1024)
    block_out_channels: tuple[int, ...] = option(
        (32, 64, 128),
        "channels of the levels from the image's size down; each but the last halves the sides",
        minimum=1,
        maximum=8192,
    )
    layers_per_block: int = option(1, "residual blocks of a level; the decoder has one more", minimum=1, maximum=64)
    norm_num_groups: int = option(8, "groups of every group norm", minimum=1, maximum=8192)
    mid_block_add_attention: bool = option(True, "attention over the pixels of the latent map, in both networks")
    discriminator_channels: tuple[int, ...] | None = option(
        (32, 64, 128), "channels after each down block of the PatchGAN; none: a VAE without one", minimum=1
    )
    discriminator_norm: _Norm = option("batch", "normalisation in the discriminator", choices=typing.get_args(_Norm))
    learned_variance: bool = option(True, "train the scale of the images' distribution with the decoder")
    train: _Part = option(
        "all",
        "all, or decoder: the encoder of --init stays as it is, and with it the latents of every model made for it",
        choices=typing.get_args(_Part),
    )
    fit_shift: bool = option(
        False, "measure shift_factor, the mean of the latents, beside scaling_factor, 1 / their standard deviation"
    )
    accelerate: bool = option(True, "run the layers of encoder and decoder on the kernels of sdgan_ext")
    init: str | None = option(None, "folder or file whose weights it began with")
    diffusers: dict[str, Any] | None = option(None, "other entries of the configuration that diffusers wrote")

    def __post_init__(self) -> None:
        if isinstance(self.image_size, int):
            object.__setattr__(self, "image_size", (self.image_size, self.image_size))
        super().__post_init__()
        if len(self.block_out_channels) > 8:
            raise ConfigError(f"block_out_channels has {len(self.block_out_channels)} levels; it must be 8 at most")
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise ConfigError(
                    f"norm_num_groups is {self.norm_num_groups}; it must divide each of block_out_channels, "
                    f"{self.block_out_channels}"
                )
        height, width = self.size
        if height % self.factor or width % self.factor:
            raise ConfigError(
                f"image_size is {height}x{width}; with {len(self.block_out_channels)} block_out_channels both sides "
                f"must be multiples of {self.factor}"
            )
        if self.discriminator_channels is not None:
            self.for_discriminator()  # what is wrong with it is said now

    @property
    def size(self) -> tuple[int, int]:
        """``image_size`` as (height, width)."""
        return typing.cast("tuple[int, int]", self.image_size)

    @property
    def factor(self) -> int:
        """How many pixels of a side become one of the latent map."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.channels, *self.size)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return (self.latent_channels, *(side // self.factor for side in self.size))

    def for_mode(self, mode: Mode) -> AutoencoderConfig:
        """The same without the network that training in ``mode`` would leave untrained.

        Raises:
            ConfigError: the mode trains no encoder and no decoder together.
        """
        if mode == "gan":
            raise ConfigError(
                "mode is 'gan', which trains no encoder; of an autoencoder allowed are 'vae' and 'vae-gan'"
            )
        return self.replace(discriminator_channels=None) if mode == "vae" else self

    def for_discriminator(self) -> VAEGANConfig:
        """Of the PatchGAN (Isola et al. 2017)."""
        return VAEGANConfig(
            image_size=self.size,
            channels=self.channels,
            encoder_channels=None,
            generator_channels=(1,),
            discriminator_channels=self.discriminator_channels,
            discriminator_norm=self.discriminator_norm,
            discriminator_head="patch",
            init="torch",
        )

    # ------------------------------------------------------------------------------------------------ to and from
    def for_diffusers(self) -> dict[str, Any]:
        """The arguments of ``diffusers.AutoencoderKL``."""
        levels = len(self.block_out_channels)
        return {
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "sample_size": max(self.size),
            "scaling_factor": 1.0,
            "force_upcast": False,
            **(self.diffusers or {}),
            **{name: getattr(self, name) for name in LAYERS},
            "in_channels": self.channels,
            "out_channels": self.channels,
        }

    @classmethod
    def of_diffusers(cls, config: Mapping[str, Any], source: str, **given: Any) -> AutoencoderConfig:
        """Of an AutoencoderKL's own configuration.

        Args:
            config: with every argument of the class, in JSON's types.
            source: what to call it in an error.
            given: fields that are not the configuration's, as ``image_size``, which is its ``sample_size`` otherwise.

        Raises:
            ConfigError: a field that is given differs from the networks', or they take images of other channels than
                they make.
        """
        if config["in_channels"] != config["out_channels"]:
            raise ConfigError(
                f"{source} has in_channels {config['in_channels']} and out_channels {config['out_channels']}; an "
                "autoencoder is trained with as many of both"
            )
        own = {name: config[name] for name in LAYERS} | {"channels": config["in_channels"]}
        networks = cls(
            image_size=given.pop("image_size", config["sample_size"]),
            discriminator_channels=None,
            fit_shift=config["shift_factor"] is not None,
            diffusers={name: value for name, value in config.items() if name not in _SAID_OTHERWISE},
            **own,
        )
        for name in own:
            came, there = given.get(name), getattr(networks, name)
            if name in given and (tuple(came) if isinstance(came, list) else came) != there:
                raise ConfigError(f"{name} is {came}, but {source} has {there}")
        return networks.replace(**{"discriminator_channels": cls.discriminator_channels, **given})

    def to_dict(self) -> dict[str, Any]:
        return {"model": "AutoencoderKL", **super().to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutoencoderConfig:
        if isinstance(values, Mapping):
            values = {name: value for name, value in values.items() if name != "model"}
        return super().from_dict(values)
