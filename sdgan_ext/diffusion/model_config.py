"""A latent diffusion model's configuration: its networks, and what it has from its autoencoder and its captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._config import Config, option
from .._errors import ConfigError
from .paths import PARAMETRIZATIONS
from .solvers import SOLVERS

__all__ = ["DERIVED", "LatentDiffusionConfig"]

#: Fields that nobody gives: they are those of the autoencoder, of the captions and of the training.
DERIVED = (
    *("image_size", "channels", "latent_channels", "latent_size", "scaling_factor", "shift_factor", "autoencoder"),
    *("vocab_size", "text_length", "captions", "class_captions", "null_condition", "pad"),
)


@dataclass(frozen=True)
class LatentDiffusionConfig(Config):
    """Sizes of diffusers' UNet2DConditionModel and of transformers' CLIPTextModel, and how the model is sampled from.

    Raises:
        ConfigError: one sentence that names the field, what came and what is allowed.
    """

    block_out_channels: tuple[int, ...] = option(
        (128,), "channels of the levels from the latent map's size down; each but the last halves the sides", minimum=1
    )
    layers_per_block: int = option(1, "residual blocks of a level; the way up has one more", minimum=1, maximum=64)
    norm_num_groups: int = option(8, "groups of every group norm", minimum=1, maximum=8192)
    attention_levels: tuple[int, ...] | None = option(
        None, "the levels, from 0, whose blocks look at the caption; the middle block does in any case", minimum=0
    )
    attention_heads: int = option(4, "heads of every attention of the denoiser", minimum=1, maximum=1024)
    text_width: int = option(64, "channels of the text encoder", minimum=1, maximum=8192)
    text_layers: int = option(2, "layers of the text encoder", minimum=1, maximum=64)
    text_heads: int = option(4, "heads of its attention", minimum=1, maximum=1024)
    parametrization: str = option(
        "flow", "what the denoiser predicts: the velocity of a rectified flow, or v", choices=PARAMETRIZATIONS
    )
    shift: float = option(
        1.0, "more time near the noise, in training and in sampling, for latent maps of many pixels; 1: none", above=0
    )
    sampling_steps: int = option(6, "steps of sampling, unless said otherwise", minimum=1, maximum=1000)
    solver: str = option("euler", "how the steps are taken, unless said otherwise", choices=SOLVERS)
    accelerate: bool = option(True, "run the layers of the denoiser on the kernels of sdgan_ext")

    image_size: tuple[int, int] = option((32, 32), "height and width of the images", minimum=1, maximum=8192)
    channels: int = option(3, "channels of the images", minimum=1, maximum=64)
    latent_channels: int = option(4, "channels of the latent map", minimum=1, maximum=1024)
    latent_size: tuple[int, int] = option((8, 8), "height and width of the latent map", minimum=1, maximum=8192)
    scaling_factor: float = option(1.0, "of the latents: 1 / their standard deviation", above=0)
    shift_factor: float = option(0.0, "of the latents: their mean, where it is taken off")
    autoencoder: str | None = option(None, "the run or folder that the autoencoder is from")
    vocab_size: int = option(1, "tokens of the captions", minimum=1)
    text_length: int = option(3, "tokens of a caption, its start and end among them", minimum=3)
    captions: str = option("a photo of a {class}", "the captions of data that have classes alone")
    class_captions: tuple[str, ...] | None = option(None, "the caption of each class, where the data have classes")
    null_condition: bool = option(True, "captions were dropped in training: the empty one stands for none")
    pad: int = option(0, "pixels around the images that are no part of the data", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = len(self.block_out_channels)
        if levels > 8:
            raise ConfigError(f"block_out_channels has {levels} levels; it must be 8 at most")
        for channels in self.block_out_channels:
            for name in ("norm_num_groups", "attention_heads"):
                if channels % getattr(self, name):
                    raise ConfigError(
                        f"{name} is {getattr(self, name)}; it must divide each of block_out_channels, "
                        f"{self.block_out_channels}"
                    )
        if self.text_width % self.text_heads:
            raise ConfigError(f"text_heads is {self.text_heads}; it must divide text_width, {self.text_width}")
        for level in self.attention_levels or ():
            if level >= levels:
                raise ConfigError(f"attention_levels has {level}; there are the levels 0 to {levels - 1}")
        factor = 2 ** (levels - 1)
        if self.latent_size[0] % factor or self.latent_size[1] % factor:
            raise ConfigError(
                f"the latent maps have {self.latent_size[0]}x{self.latent_size[1]} pixels; with {levels} "
                f"block_out_channels both sides must be multiples of {factor}"
            )
        if self.parametrization == "v" and (self.solver == "heun" or self.shift != 1):
            what = f"shift is {self.shift}" if self.shift != 1 else "solver is 'heun'"
            raise ConfigError(f"{what}, which goes with the parametrization 'flow' alone")

    @property
    def size(self) -> tuple[int, int]:
        """``image_size`` as (height, width)."""
        return self.image_size

    @property
    def classes(self) -> int:
        """How many classes :meth:`LatentDiffusion.sample` knows by their numbers; 0: captions alone."""
        return len(self.class_captions or ())

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return (self.latent_channels, *self.latent_size)

    def for_unet(self) -> dict[str, Any]:
        """The arguments of ``diffusers.UNet2DConditionModel``."""
        attending = self.attention_levels or ()
        levels = range(len(self.block_out_channels))
        down = ["CrossAttnDownBlock2D" if level in attending else "DownBlock2D" for level in levels]
        up = ["CrossAttnUpBlock2D" if level in attending else "UpBlock2D" for level in reversed(levels)]
        return {
            "sample_size": self.latent_size[0] if len(set(self.latent_size)) == 1 else list(self.latent_size),
            "in_channels": self.latent_channels,
            "out_channels": self.latent_channels,
            "down_block_types": down,
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "up_block_types": up,
            "block_out_channels": list(self.block_out_channels),
            "layers_per_block": self.layers_per_block,
            "norm_num_groups": self.norm_num_groups,
            "cross_attention_dim": self.text_width,
            "attention_head_dim": self.attention_heads,  # diffusers' name for their number
        }

    def for_text_encoder(self, start: int, end: int) -> dict[str, Any]:
        """The arguments of ``transformers.CLIPTextConfig``; ``start`` and ``end`` are ids of tokens."""
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.text_width,
            "intermediate_size": 4 * self.text_width,
            "projection_dim": self.text_width,
            "num_hidden_layers": self.text_layers,
            "num_attention_heads": self.text_heads,
            "max_position_embeddings": self.text_length,
            "bos_token_id": start,
            "eos_token_id": end,
            "pad_token_id": end,
        }

    def to_dict(self) -> dict[str, Any]:
        return {"model": "LatentDiffusion", **super().to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatentDiffusionConfig:
        if isinstance(values, Mapping):
            values = {name: value for name, value in values.items() if name != "model"}
        return super().from_dict(values)
