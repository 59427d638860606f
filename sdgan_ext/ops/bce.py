"""Binary cross-entropy, on logits and on probabilities, in one pass. Math: docs/ops/bce.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from .._torch_internals import legacy_reduction, plain_eager
from . import reference
from ._autograd import differentiable, reduced_loss, reference_vjp, register_autocast
from ._checks import check_choice, check_like, check_pair, check_tensor
from ._enums import REDUCTIONS, TORCH_REDUCTIONS, TorchReduction

__all__ = ["binary_cross_entropy", "binary_cross_entropy_with_logits"]


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: TorchReduction = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of logits, finite for any finite logit.

    Equivalent to :func:`torch.nn.functional.binary_cross_entropy_with_logits`, whose signature it has. The loss of an
    element, in nats, is ``-(pos_weight * target * logsigmoid(input) + (1 - target) * logsigmoid(-input))``.

    Args:
        input: logits, any shape. float32, bfloat16, float64, or float16 on CUDA.
        target: same shape, usually in [0, 1].
        weight: factor of each element's loss, broadcast to the shape of ``input``; has no gradient.
        size_average, reduce: torch's deprecated spelling of ``reduction``.
        reduction: ``mean``, ``sum`` or ``none``.
        pos_weight: factor of the positive part ``-target * log(sigmoid(input))``, broadcast likewise; has no gradient.

    Returns:
        A scalar, or the shape and layout of ``input`` with ``reduction="none"``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.
    """
    return _loss(input, target, weight, pos_weight, True, size_average, reduce, reduction)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: TorchReduction = "mean",
) -> Tensor:
    """Binary cross-entropy of probabilities, each logarithm clamped at -100.

    Equivalent to :func:`torch.nn.functional.binary_cross_entropy`, whose signature it has. The loss of an element, in
    nats, is ``-(target * log(input) + (1 - target) * log(1 - input))``. Prefer logits and
    :func:`binary_cross_entropy_with_logits`: a saturated probability has lost its gradient.

    Args:
        input: probabilities, any shape. float32, bfloat16, float64, or float16 on CUDA.
        target: same shape, in [0, 1].
        weight: factor of each element's loss, broadcast to the shape of ``input``; has no gradient.
        size_average, reduce: torch's deprecated spelling of ``reduction``.
        reduction: ``mean``, ``sum`` or ``none``.

    Returns:
        A scalar, or the shape and layout of ``input`` with ``reduction="none"``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.
        RuntimeError: ``input`` or ``target`` has an element outside [0, 1]. On CUDA, where a check would wait for the
            GPU, the loss of such an element and its gradients are NaN instead.
    """
    return _loss(input, target, weight, None, False, size_average, reduce, reduction)


def _loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    logits: bool,
    size_average: bool | None,
    reduce: bool | None,
    reduction: TorchReduction,
) -> Tensor:
    if size_average is not None or reduce is not None:
        reduction = cast(TorchReduction, legacy_reduction(size_average, reduce))
    check_choice("reduction", reduction, TORCH_REDUCTIONS)
    check_pair("target", target, "input", input)
    weight = _expanded("weight", weight, input)
    pos_weight = _expanded("pos_weight", pos_weight, input)
    tensors = input, target, weight, pos_weight
    if reduction != "none" and input.is_cpu and plain_eager():
        if torch.is_grad_enabled():
            _refuse_weight_gradients(*(t is not None and t.requires_grad for t in (weight, pos_weight)))
        return _reduced(tensors, (logits, REDUCTIONS[reduction]))
    return _bce(*tensors, logits, REDUCTIONS[reduction], False, False)[0]


def _expanded(name: str, weight: Tensor | None, input: Tensor) -> Tensor | None:
    if weight is None:
        return None
    check_tensor(name, weight)
    check_like(name, weight, "input", input)
    try:
        return weight.expand(input.shape)
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {tuple(weight.shape)}; it must broadcast to the input's {tuple(input.shape)}"
        ) from None


# ------------------------------------------------------------------------------------------------ registration
@torch.library.register_fake("sdgan_ext::bce")
def _fake(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    logits: bool,
    reduction: int,
    *needs: bool,
) -> tuple[Tensor, ...]:
    loss = torch.empty_like(input) if reduction == REDUCTIONS["none"] else input.new_empty(())
    return loss, *(torch.empty_like(input) if need else input.new_empty((0,)) for need in needs)


@torch.library.register_fake("sdgan_ext::bce_backward")
def _fake_backward(
    grad_loss: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    logits: bool,
    reduction: int,
    *needs: bool,
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(input) if need else input.new_empty((0,)) for need in needs)


def _refuse_weight_gradients(weight: bool, pos_weight: bool) -> None:
    if weight or pos_weight:
        name = "weight" if weight else "pos_weight"
        raise ValueError(f"{name} requires grad, but the loss has no gradient for it; pass {name}.detach()")


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.logits, ctx.reduction, _, _ = inputs
    _refuse_weight_gradients(*ctx.needs_input_grad[2:4])
    ctx.save_for_backward(*tensors)
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad_loss: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    settings = ctx.logits, ctx.reduction
    return *_differentiate(grad_loss, ctx.saved_tensors, settings, ctx.needs_input_grad), *(None,) * 6


def _differentiate(
    grad_loss: Tensor,
    tensors: Sequence[Tensor | None],
    settings: Sequence[Any],
    needs: Sequence[bool],
    beside_loss: Sequence[Tensor | None] = (),
) -> Iterator[Tensor | None]:
    grads = _bce_backward(grad_loss, *tensors, *settings, *needs[:2])
    return (grad if need else None for grad, need in zip(grads, needs, strict=False))


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.logits, ctx.reduction, need_input, need_target = inputs
    _refuse_weight_gradients(*ctx.needs_input_grad[3:5])
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(t for t, need in zip(output, (need_input, need_target), strict=True) if not need))


def _double_backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    grad_loss, input, target, weight, pos_weight = ctx.saved_tensors

    def first_derivative(grad_loss: Tensor, input: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        loss = reference.bce(input, target, weight, pos_weight, ctx.logits, ctx.reduction)
        return torch.autograd.grad(loss, (input, target), grad_loss, create_graph=True)

    return *reference_vjp(first_derivative, (grad_loss, input, target), grad_outputs), *(None,) * 6


_bce = differentiable("bce", _backward, _setup)
_bce_backward = differentiable("bce_backward", _double_backward, _setup_backward)
_reduced = reduced_loss("bce", _differentiate)
register_autocast("bce")
