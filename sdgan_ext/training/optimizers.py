"""One Adam for each network, and learning rates that are a function of the step alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

from torch import Tensor
from torch.optim import Adam, Optimizer

from .compatible import check_compatible
from .config import MODES, TrainConfig
from .gradients import is_frozen
from .networks import Model

__all__ = ["learning_rate_scale", "make_optimizers", "set_learning_rates", "tensor_learning_rates"]


def make_optimizers(model: Model, config: TrainConfig) -> dict[str, Adam]:
    """``{"encoder": Adam, "generator": Adam, "discriminator": Adam}``, of them those that ``config.mode`` trains.

    A network whose parameters all have ``requires_grad=False`` has no optimizer, and so no phase. One that is frozen in
    part has all its parameters in its optimizer, so that its state does not depend on which they are; those without a
    gradient are left as they are and have no state.

    Where R1 or R2 is taken every k discriminator steps, the discriminator's Adam has ``lr * c`` and ``beta ** c`` with
    ``c = k / (k + 1)`` (lazy regularisation, Karras et al. 2020, appendix B).

    Raises:
        ConfigError: the model lacks what the mode needs, or all of it is frozen.
    """
    check_compatible(model, config)
    optimizers = {}
    for name in MODES[config.mode]:
        if is_frozen(getattr(model, name)):
            continue
        penalised = config.r1_gamma > 0 or config.r2_gamma > 0
        lazy = name == "discriminator" and penalised and config.r1_every > 1
        c = config.r1_every / (config.r1_every + 1) if lazy else 1.0
        lr = getattr(config, f"lr_{name}") * c
        betas = tuple(beta**c for beta in config.betas)
        optimizers[name] = Adam(getattr(model, name).parameters(), lr=lr, betas=betas, fused=True)
        optimizers[name].param_groups[0]["initial_lr"] = lr
    return optimizers


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


def set_learning_rates(optimizers: Mapping[str, Optimizer], config: TrainConfig, step: int) -> None:
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
