"""What a step consists of: which phases, with which penalties, at which weight of the KL divergence."""

from __future__ import annotations

from typing import NamedTuple

from .config import TrainConfig

__all__ = ["Kind", "forwards_of", "is_penalised", "kind_of", "kl_weight_at"]


class Kind(NamedTuple):
    """All that the operations of a step depend on beside its tensors.

    Attributes:
        penalised: for every phase D, whether R1 and R2 are taken in it.
        encoder_generator: whether there is a phase E+G.
        adversarial: whether the adversarial terms are part of it.
    """

    penalised: tuple[bool, ...]
    encoder_generator: bool = True
    adversarial: bool = True


def kind_of(config: TrainConfig, step: int) -> Kind:
    """Of the step ``step``: steps of one kind do the same operations."""
    if config.mode == "vae":
        return Kind((), adversarial=False)
    before = config.disc_start - step
    if before > config.disc_warmup:
        return Kind((), adversarial=False)
    phases = range(step * config.n_critic, (step + 1) * config.n_critic)
    penalised = tuple(is_penalised(config, phase) for phase in phases)
    return Kind(penalised, encoder_generator=before <= 0, adversarial=before <= 0)


def forwards_of(config: TrainConfig) -> int:
    """Forward passes of E and G that a step has noise for."""
    return 1 if config.mode == "vae" else config.n_critic


def is_penalised(config: TrainConfig, discriminator_step: int) -> bool:
    """Whether R1 and R2 are taken in this discriminator step, counted from 0."""
    return (config.r1_gamma > 0 or config.r2_gamma > 0) and discriminator_step % config.r1_every == 0


def kl_weight_at(config: TrainConfig, step: int) -> float:
    """The weight of the KL divergence at ``step``: it grows over ``kl_warmup_steps`` (Bowman et al. 2016)."""
    return config.kl_weight * min(1.0, (step + 1) / max(1, config.kl_warmup_steps))
