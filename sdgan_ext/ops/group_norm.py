"""Group normalisation and the activation behind it, forward and backward. Math: docs/ops/group_norm.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference
from ._autograd import differentiable, reference_vjp
from ._checks import check_activation
from ._enums import ACTIVATIONS, Activation
from ._norm import (
    check_image,
    check_vector,
    empty_gradients,
    empty_output,
    empty_statistics,
    first_derivative,
    of_given,
)

__all__ = ["group_norm"]


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    """Normalises each group of channels of each image, scales and shifts each channel, and applies an activation.

    Equivalent to, for ``activation="silu"``::

        F.silu(F.group_norm(input, num_groups, weight, bias, eps))

    Args:
        input: ``[N, C]`` or ``[N, C, ...]``. float32, bfloat16, float64, or float16 on CUDA. Statistics of a half
            precision are float32.
        num_groups: of neighbouring channels; it divides C.
        weight, bias: ``[C]``, of the dtype of ``input`` or, beside a half precision, float32. None stands for 1 and 0.
        eps: added to the (biased) variance; positive.
        activation: None, ``relu``, ``leaky_relu``, ``tanh``, ``sigmoid``, ``silu`` or ``elu``.
        negative_slope: factor of ``leaky_relu`` below zero, at least 0.

    Returns:
        A tensor of the shape, dtype and memory layout of ``input``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: Wu & He 2018, equations 1 to 7.
    """
    check_activation(activation, negative_slope)
    check_image(input)
    if not isinstance(num_groups, int) or isinstance(num_groups, bool):
        raise TypeError(f"num_groups must be an integer, got {type(num_groups).__name__}")
    if num_groups < 1 or input.shape[1] % num_groups != 0:
        raise ValueError(f"num_groups is {num_groups}; it must divide the {input.shape[1]} channels of input")
    check_vector("weight", weight, input)
    check_vector("bias", bias, input)
    if not eps > 0:
        raise ValueError(f"eps is {eps}; it must be positive")
    if input.numel() == num_groups:
        raise ValueError(
            f"num_groups is {num_groups}; of an input of shape {tuple(input.shape)} each group is one value"
        )
    settings = float(eps), ACTIVATIONS[activation], float(negative_slope)
    output: Tensor = _group_norm(input, num_groups, weight, bias, *settings)[0]
    return output


# ------------------------------------------------------------------------------------------------ registration
@torch.library.register_fake("sdgan_ext::group_norm")
def _fake(input: Tensor, num_groups: int, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (empty_statistics(input, input.shape[0], num_groups) for _ in range(2))
    return empty_output(input), mean, rstd


@torch.library.register_fake("sdgan_ext::group_norm_backward")
def _fake_backward(
    grad_output: Tensor, input: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, *others: Any
) -> tuple[Tensor, ...]:
    return empty_gradients(input, weight, bias)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, ctx.num_groups, weight, bias, *ctx.settings = inputs
    ctx.save_for_backward(input, weight, bias, output[1], output[2])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_output: Tensor | None, grad_mean: Tensor | None, grad_rstd: Tensor | None
) -> tuple[Tensor | None, ...]:
    input, weight, bias, mean, rstd = ctx.saved_tensors
    grads = [None, None, None]
    if grad_output is not None:
        grads = _group_norm_backward(
            grad_output, input, ctx.num_groups, weight, bias, mean.detach(), rstd.detach(), *ctx.settings
        )
    grad_input = grads[0]
    if grad_mean is not None or grad_rstd is not None:  # the statistics were used
        eps = ctx.settings[0]
        (more,) = reference_vjp(
            lambda x: reference.group_statistics(x, ctx.num_groups, eps), (input,), (grad_mean, grad_rstd)
        )
        grad_input = more if grad_input is None else grad_input + more
    return grad_input, None, *of_given(grads, weight, bias), *[None] * 3


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_output, input, ctx.num_groups, weight, bias, _, _, *ctx.settings = inputs
    ctx.save_for_backward(grad_output, input, weight, bias)
    ctx.set_materialize_grads(False)


def _double_backward(ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
    def forward(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return reference.group_norm_native(input, ctx.num_groups, weight, bias, *ctx.settings)[0]

    grad_output, grad_input, *vectors = reference_vjp(first_derivative(forward), ctx.saved_tensors, grad_grads)
    return grad_output, grad_input, None, *vectors, *[None] * 5


_group_norm = differentiable("group_norm", _backward, _setup)
_group_norm_backward = differentiable("group_norm_backward", _double_backward, _setup_backward)
