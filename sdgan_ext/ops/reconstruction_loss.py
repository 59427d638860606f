"""The distance of reconstructions to their images, in one pass. Math: docs/ops/reconstruction_loss.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch_internals import plain_eager
from . import reference
from ._autograd import differentiable, reduced_loss, reference_vjp, register_autocast
from ._checks import check_batch, check_choice, check_pair
from ._enums import RECONSTRUCTION_NAMES, RECONSTRUCTIONS, REDUCTION_NAMES, REDUCTIONS, Reconstruction, Reduction

__all__ = ["RECONSTRUCTIONS", "reconstruction_loss"]


def reconstruction_loss(
    x_hat: Tensor, x: Tensor, kind: Reconstruction = "mse", reduction: Reduction = "batchmean"
) -> Tensor:
    """How far the reconstructions ``x_hat`` are from the images ``x``.

    Equivalent to, for the default kind and reduction, ``((x_hat - x) ** 2).sum() / len(x)``.

    Args:
        x_hat: shape ``(batch, *)``. float32, bfloat16, float64, or float16 on CUDA, in any memory layout.
        x: same shape. Its gradient is computed only where ``x`` requires one.
        kind: ``mse`` the squared error; ``l1`` the absolute error; ``bce`` the binary cross-entropy in nats, where
            ``x_hat`` are logits and ``x`` is in [0, 1]; ``gaussian`` the negative log-likelihood
            ``-log N(x; x_hat, I) = ((x_hat - x)^2 + log 2 pi) / 2`` in nats.
        reduction: ``batchmean`` (sum over everything but the batch, mean over the batch: one number per image, which a
            KL divergence may be added to), ``sum``, ``mean`` (over all elements) or ``none`` (elementwise).

    Returns:
        A scalar, or the shape and layout of ``x_hat`` with ``reduction="none"``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: Kingma & Welling 2014, appendix C, for bce and gaussian.
    """
    check_choice("kind", kind, RECONSTRUCTIONS)
    check_choice("reduction", reduction, REDUCTIONS)
    check_pair("x", x, "x_hat", x_hat)
    check_batch("x_hat", x_hat)
    settings = RECONSTRUCTIONS[kind], REDUCTIONS[reduction]
    if reduction != "none" and x_hat.is_cpu and plain_eager():
        return _reduced((x_hat, x), settings)
    return _reconstruction_loss(x_hat, x, *settings, False, False)[0]


# ------------------------------------------------------------------------------------------------ registration
@torch.library.register_fake("sdgan_ext::reconstruction_loss")
def _fake(x_hat: Tensor, x: Tensor, kind: int, reduction: int, *needs: bool) -> tuple[Tensor, ...]:
    loss = torch.empty_like(x_hat) if reduction == REDUCTIONS["none"] else x_hat.new_empty(())
    return loss, *(torch.empty_like(x_hat) if need else x_hat.new_empty((0,)) for need in needs)


@torch.library.register_fake("sdgan_ext::reconstruction_loss_backward")
def _fake_backward(
    grad_loss: Tensor, x_hat: Tensor, x: Tensor, kind: int, reduction: int, *needs: bool
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x_hat) if need else x_hat.new_empty((0,)) for need in needs)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x_hat, x, *ctx.settings, _, _ = inputs
    ctx.save_for_backward(x_hat, x)
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad_loss: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_differentiate(grad_loss, ctx.saved_tensors, ctx.settings, ctx.needs_input_grad), *(None,) * 4


def _differentiate(
    grad_loss: Tensor,
    tensors: Sequence[Tensor],
    settings: Sequence[int],
    needs: Sequence[bool],
    beside_loss: Sequence[Tensor | None] = (),
) -> Iterator[Tensor | None]:
    grads = _reconstruction_loss_backward(grad_loss, *tensors, *settings, *needs[:2])
    return (grad if need else None for grad, need in zip(grads, needs, strict=False))


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_loss, x_hat, x, *ctx.settings, need_x_hat, need_x = inputs
    ctx.save_for_backward(grad_loss, x_hat, x)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(t for t, need in zip(output, (need_x_hat, need_x), strict=True) if not need))


def _double_backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    kind, reduction = ctx.settings

    def first_derivative(grad_loss: Tensor, x_hat: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        loss = reference.reconstruction_loss(x_hat, x, RECONSTRUCTION_NAMES[kind], REDUCTION_NAMES[reduction])
        return torch.autograd.grad(loss, (x_hat, x), grad_loss, create_graph=True)

    return *reference_vjp(first_derivative, ctx.saved_tensors, grad_outputs), None, None, None, None


_reconstruction_loss = differentiable("reconstruction_loss", _backward, _setup)
_reconstruction_loss_backward = differentiable("reconstruction_loss_backward", _double_backward, _setup_backward)
_reduced = reduced_loss("reconstruction_loss", _differentiate)
register_autocast("reconstruction_loss")
