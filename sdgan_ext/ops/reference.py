"""The specification: every public op written in stock torch, for reading, testing and exporting.

The public functions here take what ``sdgan_ext.ops`` takes and do what it does; ``adversarial_loss`` and its kin beside
them take the integers of the native schemas (csrc/ops/library.cpp).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["discriminator_loss", "generator_loss"]


def _reduce(x: Tensor, reduction: str) -> Tensor:
    """``batchmean`` is the sum over everything but the batch, averaged over the batch."""
    if reduction == "batchmean":
        return x.sum() / x.shape[0]
    return {"none": lambda: x, "mean": x.mean, "sum": x.sum}[reduction]()


# -------------------------------------------------------------------------------------------- adversarial_loss
def discriminator_loss(real_logits, fake_logits, objective="non_saturating", *, real_target=1.0, reduction="mean"):
    real, fake = {
        "non_saturating": lambda r, f: (F.softplus(r) - real_target * r, F.softplus(f)),
        "minimax": lambda r, f: (F.softplus(r) - real_target * r, F.softplus(f)),
        "hinge": lambda r, f: (F.relu(1 - r), F.relu(1 + f)),
        "least_squares": lambda r, f: (0.5 * (r - real_target) ** 2, 0.5 * f**2),
        "wasserstein": lambda r, f: (-r, f),
        "relativistic": lambda r, f: (F.softplus(f - r), torch.zeros_like(f)),
    }[objective](real_logits, fake_logits)
    return _reduce(real, reduction) + _reduce(fake, reduction)


def generator_loss(fake_logits, real_logits=None, objective="non_saturating", *, reduction="mean"):
    loss = {
        "non_saturating": lambda: F.softplus(-fake_logits),
        "minimax": lambda: -F.softplus(fake_logits),
        "hinge": lambda: -fake_logits,
        "least_squares": lambda: 0.5 * (fake_logits - 1) ** 2,
        "wasserstein": lambda: -fake_logits,
        "relativistic": lambda: F.softplus(real_logits - fake_logits),
    }[objective]()
    return _reduce(loss, reduction)


def adversarial_loss(real, fake, objective, role, real_target, reduction):
    objective = _OBJECTIVES[objective]
    reduction = _REDUCTIONS[reduction]
    if role == 0:
        return discriminator_loss(real, fake, objective, real_target=real_target, reduction=reduction)
    return generator_loss(fake, real, objective, reduction=reduction)


_OBJECTIVES = ("non_saturating", "minimax", "hinge", "least_squares", "wasserstein", "relativistic")
_REDUCTIONS = ("none", "mean", "sum", "batchmean")
