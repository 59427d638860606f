"""How a latent diffusion model is trained."""

from __future__ import annotations

from dataclasses import dataclass

from .._config import option
from .._errors import ConfigError
from ..data import TEMPLATE
from ..diffusion.times import DISTRIBUTIONS
from .config import LoopConfig

__all__ = ["DiffusionTrainConfig"]


@dataclass(frozen=True)
class DiffusionTrainConfig(LoopConfig):
    """What the ``DiffusionTrainer`` needs to know.

    Raises:
        ConfigError: one sentence that names the field, what came and what is allowed.
    """

    batch_size: int = option(128, "images a step", minimum=1)
    betas: tuple[float, float] = option((0.9, 0.999), "Adam's betas", minimum=0, maximum=1)
    ema_images: int = option(
        20_000, "images until a weight's share in the average has halved; 0: no average", minimum=0
    )
    evaluate_metric: str = option("fd", "what is evaluated: fd, the distance of features of a small net")

    lr: float = option(1e-3, "AdamW's learning rate of denoiser and text encoder", above=0)
    weight_decay: float = option(0.01, "AdamW's weight decay", minimum=0)
    captions: str = option(TEMPLATE, "the captions of data that have classes alone, each with its name for {class}")
    condition_dropout: float = option(
        0.1,
        "the probability that a caption is dropped, so that guidance has something to lead away from",
        minimum=0,
        maximum=1,
    )
    time_distribution: str = option(
        "logit_normal", "which times between data and noise are trained", choices=DISTRIBUTIONS
    )
    time_mean: float = option(0.0, "of logit_normal; below 0 is nearer to the data")
    time_std: float = option(1.0, "of logit_normal", above=0)
    min_snr_gamma: float | None = option(
        None,
        "times of a larger signal-to-noise ratio weigh as those of this one; 5 in its paper; none: all alike",
        above=0,
    )
    preview_guidance: float = option(2.0, "guidance of the second grid of pictures; 1: there is none", minimum=0)
    latents: str | None = option(
        None, "the file that latents are kept in, to be shared between runs; latents.safetensors in the run's folder"
    )

    def __post_init__(self):
        super().__post_init__()
        others = [kind for kind in self.augment or () if kind != "flip"]
        if others:
            raise ConfigError(
                f"augment has {others[0]!r}, but images are encoded once, before the training; allowed is 'flip'"
            )
        if self.crop != "centre":
            raise ConfigError(
                f"crop is {self.crop!r}, but images are encoded once, before the training; it must be 'centre'"
            )
        if self.evaluate_metric != "fd":
            raise ConfigError(f"evaluate_metric is {self.evaluate_metric!r}; of a diffusion model it must be 'fd'")
