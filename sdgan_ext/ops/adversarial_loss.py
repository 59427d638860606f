"""Both halves of a GAN objective with their gradients, in one pass. Math: docs/ops/adversarial_loss.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch_internals import plain_eager
from . import reference
from ._autograd import add_grads, differentiable, reduced_loss, reference_vjp, register_autocast
from ._checks import check_choice, check_pair, check_tensor
from ._enums import DISCRIMINATOR, GENERATOR, OBJECTIVES, REDUCTIONS, TORCH_REDUCTIONS, Objective, TorchReduction

__all__ = ["discriminator_loss", "generator_loss", "OBJECTIVES"]

_TAKES_REAL_TARGET = ("non_saturating", "minimax", "least_squares")


def discriminator_loss(
    real_logits: Tensor,
    fake_logits: Tensor,
    objective: Objective = "non_saturating",
    *,
    real_target: float = 1.0,
    reduction: TorchReduction = "mean",
) -> Tensor:
    """The discriminator's loss: how far it is from calling ``real_logits`` real and ``fake_logits`` fake.

    Equivalent to, for the default objective::

        F.binary_cross_entropy_with_logits(real_logits, torch.full_like(real_logits, real_target))
        + F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))

    and, with r and f for real and fake logits, to the sum of both reduced halves of: minimax, the same; hinge
    ``relu(1 - r)``, ``relu(1 + f)``; least_squares ``(r - real_target)**2 / 2``, ``f**2 / 2``; wasserstein ``-r``,
    ``f``; relativistic ``softplus(f - r)`` alone.

    Args:
        real_logits: ``D(x)``, any shape. float32, bfloat16, float64, or float16 on CUDA.
        fake_logits: ``D(G(z))``, any shape; each half has its own mean, so the two numbers of logits may differ.
            With ``objective="relativistic"`` or ``reduction="none"`` they pair one to one and must have one shape.
        objective: ``non_saturating`` and ``minimax`` (the same loss for the discriminator), ``hinge``,
            ``least_squares``, ``wasserstein`` or ``relativistic`` (relativistic pairing).
        real_target: what "real" means: 0.9 is one-sided label smoothing (Salimans et al. 2016). Only for
            non_saturating, minimax and least_squares.
        reduction: ``mean``, ``sum``, or ``none`` for one loss a pair.

    Returns:
        A scalar, or the shape of the logits with ``reduction="none"``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: Goodfellow et al. 2014 (non_saturating, minimax), Lim & Ye 2017 (hinge), Mao et al. 2017 (least_squares),
    Arjovsky et al. 2017 (wasserstein), Huang et al. 2024 (relativistic).
    """
    check_choice("objective", objective, OBJECTIVES)
    check_choice("reduction", reduction, TORCH_REDUCTIONS)
    paired = objective == "relativistic" or reduction == "none"
    check_pair("fake_logits", fake_logits, "real_logits", real_logits, same_shape=paired)
    if not 0.0 < real_target <= 1.0:
        raise ValueError(f"real_target is {real_target}; it must be in (0, 1], 0.9 is one-sided label smoothing")
    if real_target != 1.0 and objective not in _TAKES_REAL_TARGET:
        raise ValueError(f"real_target is {real_target}, but objective {objective!r} has no target; leave it at 1.0")
    return _loss(real_logits, fake_logits, OBJECTIVES[objective], DISCRIMINATOR, float(real_target), reduction)


def generator_loss(
    fake_logits: Tensor,
    real_logits: Tensor | None = None,
    objective: Objective = "non_saturating",
    *,
    reduction: TorchReduction = "mean",
) -> Tensor:
    """The generator's loss: how far the discriminator is from calling ``fake_logits`` real.

    Equivalent to, with f for the fake and r for the real logits, the reduced: non_saturating ``softplus(-f)``; minimax
    ``-softplus(f)``; hinge and wasserstein ``-f``; least_squares ``(f - 1)**2 / 2``; relativistic ``softplus(r - f)``.

    Args:
        fake_logits: ``D(G(z))``, any shape. float32, bfloat16, float64, or float16 on CUDA.
        real_logits: ``D(x)`` of the same shape; needed by, and only read by, ``objective="relativistic"``.
        objective: as in :func:`discriminator_loss`. ``minimax`` is the saturating ``-softplus(C)``.
        reduction: ``mean``, ``sum`` or ``none``.

    Returns:
        A scalar, or the shape of the logits with ``reduction="none"``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: as :func:`discriminator_loss`.
    """
    check_choice("objective", objective, OBJECTIVES)
    check_choice("reduction", reduction, TORCH_REDUCTIONS)
    check_tensor("fake_logits", fake_logits)
    if objective == "relativistic":
        if real_logits is None:
            raise ValueError("real_logits is missing; objective 'relativistic' compares fake logits with real ones")
        check_pair("real_logits", real_logits, "fake_logits", fake_logits)
    else:
        real_logits = None
    return _loss(real_logits, fake_logits, OBJECTIVES[objective], GENERATOR, 1.0, reduction)


def _loss(
    real: Tensor | None, fake: Tensor, objective: int, role: int, real_target: float, reduction: TorchReduction
) -> Tensor:
    settings = objective, role, real_target, REDUCTIONS[reduction]
    if plain_eager():
        if reduction != "none" and fake.is_cpu:
            return _reduced((real, fake), settings)
        if not torch.is_grad_enabled():
            return _adversarial_loss(real, fake, *settings, False, False)[0]
    return _adversarial_loss(real, fake, *settings, real is not None, True)[0]


# ------------------------------------------------------------------------------------------------ registration
@torch.library.register_fake("sdgan_ext::adversarial_loss")
def _fake(
    real: Tensor | None,
    fake: Tensor,
    objective: int,
    role: int,
    real_target: float,
    reduction: int,
    need_real: bool,
    need_fake: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    loss = fake.new_empty(fake.shape if reduction == REDUCTIONS["none"] else ())
    grad_real = real.new_empty(real.shape) if need_real and real is not None else fake.new_empty((0,))
    return loss, grad_real, fake.new_empty(fake.shape if need_fake else (0,))


@torch.library.register_fake("sdgan_ext::adversarial_loss_backward")
def _fake_backward(
    grad_loss: Tensor, real: Tensor | None, fake: Tensor, grad_real: Tensor, grad_fake: Tensor, *settings: float
) -> tuple[Tensor, Tensor]:
    return grad_real.new_empty(grad_real.shape), grad_fake.new_empty(grad_fake.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    real, fake, *ctx.settings, need_real, need_fake = inputs
    ctx.has = need_real and real is not None, need_fake
    ctx.save_for_backward(real, fake, output[1], output[2])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(t for t, has in zip(output[1:], ctx.has, strict=True) if not has))


def _backward(
    ctx: Any, grad_loss: Tensor | None, grad_of_grad_real: Tensor | None, grad_of_grad_fake: Tensor | None
) -> tuple[Tensor | None, ...]:
    real, fake, grad_real, grad_fake = ctx.saved_tensors
    for name, needs, has in zip(("real", "fake"), ctx.needs_input_grad, ctx.has, strict=False):
        if needs and not has:
            raise RuntimeError(f"{name} requires grad, but adversarial_loss was called with need_{name}=False")
    total_real = total_fake = None
    if grad_loss is not None:
        total_real, total_fake = _adversarial_loss_backward(
            grad_loss, real, fake, grad_real.detach(), grad_fake.detach(), *ctx.settings
        )
    if grad_of_grad_real is not None or grad_of_grad_fake is not None:  # the gradients beside the loss were used
        ones = fake.new_ones(fake.shape if ctx.settings[-1] == REDUCTIONS["none"] else ())
        _, more_real, more_fake = _second_derivative(
            ctx.settings, ones, real, fake, grad_of_grad_real, grad_of_grad_fake
        )
        total_real = add_grads(total_real, more_real)
        total_fake = add_grads(total_fake, more_fake)
    has_real, has_fake = ctx.has
    return total_real if has_real else None, total_fake if has_fake else None, *(None,) * 6


def _differentiate(
    grad_loss: Tensor,
    tensors: Sequence[Tensor],
    settings: Sequence[float],
    needs: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> Iterator[Tensor | None]:
    real, fake = tensors
    nothing = fake.new_empty((0,))
    beside_loss = (nothing if grad is None else grad for grad in grads)
    total = _adversarial_loss_backward(grad_loss, real, fake, *beside_loss, *settings)
    return (grad if need else None for grad, need in zip(total, needs, strict=False))


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_loss, real, fake, _, _, *ctx.settings = inputs
    ctx.save_for_backward(grad_loss, real, fake)
    ctx.set_materialize_grads(False)


def _double_backward(
    ctx: Any, grad_of_grad_real: Tensor | None, grad_of_grad_fake: Tensor | None
) -> tuple[Tensor | None, ...]:
    grad_loss, real, fake = ctx.saved_tensors
    grads = _second_derivative(ctx.settings, grad_loss, real, fake, grad_of_grad_real, grad_of_grad_fake)
    return *grads, None, None, None, None, None, None


def _second_derivative(
    settings: Sequence[Any],
    grad_loss: Tensor,
    real: Tensor | None,
    fake: Tensor,
    grad_of_grad_real: Tensor | None,
    grad_of_grad_fake: Tensor | None,
) -> tuple[Tensor | None, ...]:
    def first_derivative(grad_loss: Tensor, real: Tensor | None, fake: Tensor) -> tuple[Tensor | None, ...]:
        loss = reference.adversarial_loss(real, fake, *settings)
        logits = [t for t in (real, fake) if t is not None]
        grads = torch.autograd.grad(loss, logits, grad_loss, create_graph=True)
        return grads if real is not None else (None, *grads)

    return reference_vjp(first_derivative, (grad_loss, real, fake), (grad_of_grad_real, grad_of_grad_fake))


_adversarial_loss = differentiable("adversarial_loss", _backward, _setup)
_adversarial_loss_backward = differentiable("adversarial_loss_backward", _double_backward, _setup_backward)
_reduced = reduced_loss("adversarial_loss", _differentiate)
register_autocast("adversarial_loss")
