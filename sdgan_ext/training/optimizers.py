"""One Adam for each network, and learning rates that are a function of the step alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

from torch import Tensor
from torch.optim import Adam

from .._errors import ConfigError
from ..models.vae_gan import VAEGAN
from .config import MODES, TrainConfig

__all__ = ["learning_rate_scale", "make_optimizers", "set_learning_rates", "tensor_learning_rates"]


def make_optimizers(model: VAEGAN, config: TrainConfig) -> dict[str, Adam]:
    """``{"encoder": Adam, "generator": Adam, "discriminator": Adam}``, of them those that ``config.mode`` trains.

    Where R1 or R2 is taken every k discriminator steps, the discriminator's Adam has ``lr * c`` and ``beta ** c`` with
    ``c = k / (k + 1)`` (lazy regularisation, Karras et al. 2020, appendix B).

    Raises:
        ConfigError: the model has not what the mode needs.
    """
    check_compatible(model, config)
    optimizers = {}
    for name in MODES[config.mode]:
        penalised = config.r1_gamma > 0 or config.r2_gamma > 0
        lazy = name == "discriminator" and penalised and config.r1_every > 1
        c = config.r1_every / (config.r1_every + 1) if lazy else 1.0
        lr = getattr(config, f"lr_{name}") * c
        betas = tuple(beta**c for beta in config.betas)
        optimizers[name] = Adam(getattr(model, name).parameters(), lr=lr, betas=betas, fused=True)
        optimizers[name].param_groups[0]["initial_lr"] = lr
    return optimizers


def check_compatible(model: VAEGAN, config: TrainConfig) -> None:
    """Raises ConfigError where ``model`` cannot be trained as ``config`` says."""
    for name in MODES[config.mode]:
        if getattr(model, name) is None:
            raise ConfigError(
                f"mode {config.mode!r} trains the {name}, but the model has none ({name}_channels is None)"
            )
    height, width = model.config.image_size
    if "rotate90" in (config.augment or ()) and height != width:
        raise ConfigError(f"augment has 'rotate90', which needs square images; the model's are {height}x{width}")
    if model.config.learned_variance and not (config.pixel_weight and config.mode != "gan"):
        reason = "mode is 'gan'" if config.mode == "gan" else "pixel_weight is 0"
        raise ConfigError(
            f"learned_variance must be false: it is the scale of the distance of pixels, but {reason}, so that nothing "
            "would train it"
        )
    if model.config.learned_variance and config.pixel_loss == "bernoulli":
        raise ConfigError("learned_variance must be false: pixel_loss is 'bernoulli', which has no scale")
    if config.binarise and model.config.channels != 1:
        raise ConfigError(
            f"binarise must be false: the model's images have {model.config.channels} channels; binarised images are "
            "grey, of 1 channel"
        )
    if config.mode == "vae":
        return
    _check_slopes(model, config)
    group = model.config.minibatch_stddev
    if group and config.batch_size // config.accumulate % group:
        parts = "" if config.accumulate == 1 else f" in {config.accumulate} parts"
        raise ConfigError(
            f"batch_size is {config.batch_size}{parts}; with minibatch_stddev {group} it must be a multiple of {group}"
        )
    layers = len(model.config.discriminator_channels)
    if config.feature_weight and not -layers <= config.feature_layer < layers:
        raise ConfigError(
            f"feature_layer is {config.feature_layer}; the discriminator has {layers} layers, "
            f"so {-layers} to {layers - 1} are allowed"
        )


def _check_slopes(model: VAEGAN, config: TrainConfig) -> None:
    norm = model.config.discriminator_norm
    for name in ("r1_gamma", "r2_gamma", "gp_weight"):
        if getattr(config, name) > 0 and norm == "batch":
            raise ConfigError(
                f"{name} must be 0 with discriminator_norm 'batch': the penalty is on the gradient of each image's own "
                "logit, and batch norm mixes the images; use 'none' or 'spectral'"
            )
    bounded = config.gp_weight > 0 or config.r1_gamma > 0 or norm == "spectral"
    if config.objective == "wasserstein" and not bounded:
        raise ConfigError(
            "objective 'wasserstein' needs a discriminator whose slope is bounded; "
            "use gp_weight or r1_gamma above 0, or discriminator_norm 'spectral'"
        )


def learning_rate_scale(config: TrainConfig, step: int) -> float:
    """The factor of the learning rates at ``step`` (from 0): a linear rise, 1, then a fall.

    It rises over ``lr_warmup_steps``. After ``lr_hold_steps`` it halves every ``lr_halving_steps``, or goes along half
    a cosine over ``lr_cosine_steps`` to ``lr_final`` and stays there (Loshchilov & Hutter 2017, without restarts).

    The number of steps in all has no part in it, so a run that is resumed for more goes on as one that had them from
    the start.
    """
    scale = min(1.0, (step + 1) / config.lr_warmup_steps) if config.lr_warmup_steps else 1.0
    falling = max(0, step - config.lr_hold_steps)
    if config.lr_halving_steps:
        scale *= 0.5 ** (falling / config.lr_halving_steps)
    if config.lr_cosine_steps:
        way = min(1.0, falling / config.lr_cosine_steps)
        scale *= config.lr_final + (1 - config.lr_final) * 0.5 * (1 + math.cos(math.pi * way))
    return scale


def set_learning_rates(optimizers: dict[str, Adam], config: TrainConfig, step: int) -> None:
    """Sets every learning rate to that of ``step``; nothing is remembered, so a resumed run has the same ones."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * learning_rate_scale(config, step)


@contextlib.contextmanager
def tensor_learning_rates(
    optimizers: Mapping[str, Adam], rates: Mapping[str, Tensor], *, capturable: bool = False
) -> Iterator[None]:
    """Meanwhile the optimizers read their learning rates from tensors, as the steps in a CUDA graph must.

    Nothing of it stays: a checkpoint has a number for a learning rate, wherever and however its run was trained. Nor is
    ``capturable`` more than leave to be captured: the state of a fused Adam is on the device all the same.
    """
    numbers = {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()}
    try:
        for name, optimizer in optimizers.items():
            optimizer.param_groups[0].update(lr=rates[name], capturable=capturable)
        yield
    finally:
        for name, optimizer in optimizers.items():
            optimizer.param_groups[0].update(lr=numbers[name], capturable=False)
