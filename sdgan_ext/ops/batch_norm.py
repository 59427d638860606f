"""Batch normalisation and the activation behind it, forward and backward. Math: docs/ops/batch_norm.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._torch_internals import below_autograd, foreach_lerp_, overload_call, plain_eager
from . import reference
from ._autograd import autograd_function, differentiable, reference_vjp
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

__all__ = ["batch_norm"]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    """Normalises each channel, scales and shifts it, and applies an activation.

    Equivalent to, for ``activation="relu"``::

        F.relu(F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps))

    With ``training`` the mean and the (biased) variance of the batch normalise, and the running statistics, where
    given, move in place towards the mean and the *unbiased* variance. Without, the running statistics normalise.

    Args:
        input: ``[N, C]`` or ``[N, C, ...]``. float32, bfloat16, float64, or float16 on CUDA. Statistics of a half
            precision are float32.
        running_mean, running_var: ``[C]``, both or neither; needed unless ``training``. They take no gradient.
        weight, bias: ``[C]``, of the dtype of ``input`` or, beside a half precision, float32. None stands for 1 and 0.
        momentum: how far the running statistics move: ``running += momentum * (batch - running)``.
        eps: added to the variance; positive.
        activation: None, ``relu``, ``leaky_relu``, ``tanh``, ``sigmoid``, ``silu`` or ``elu``.
        negative_slope: factor of ``leaky_relu`` below zero, at least 0.

    Returns:
        A tensor of the shape, dtype and memory layout of ``input``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: Ioffe & Szegedy 2015, algorithm 1.
    """
    check_activation(activation, negative_slope)
    check_image(input)
    check_vector("weight", weight, input)
    check_vector("bias", bias, input)
    _check_running(running_mean, running_var, training, input)
    if not isinstance(momentum, (int, float)):
        raise TypeError(f"momentum must be a number, got {type(momentum).__name__}")
    if not eps > 0:
        raise ValueError(f"eps is {eps}; it must be positive")
    values = input.numel() // max(1, input.shape[1])
    if training and values == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(input.shape)}")
    tensors = input, weight, bias, None if training else running_mean, None if training else running_var
    settings = float(eps), ACTIVATIONS[activation], float(negative_slope)
    running: tuple[Any, ...] | None = None  # what moves
    if training and running_mean is not None and input.numel() > 0:
        running = running_mean, running_var, values, momentum
    if plain_eager(casts=False) and torch.is_grad_enabled():
        return _apply(*tensors, settings, running)
    output, mean, var = _batch_norm(*tensors, *settings)
    if running is not None:
        try:
            _update(mean.detach(), var.detach(), *running)
        except RuntimeError as error:
            if not str(error).startswith("vmap:"):
                raise
            raise RuntimeError(
                "running_mean is one for all samples of vmap, which cannot all move it; map it too, leave it out, or "
                "normalise by it (training=False)"
            ) from error
    return output


def _update(
    mean: Tensor, biased_var: Tensor, running_mean: Tensor, running_var: Tensor, values: int, momentum: float
) -> None:
    var = biased_var * (values / (values - 1))
    if running_mean.is_cuda:  # one kernel
        batch = mean.to(running_mean.dtype), var.to(running_var.dtype)
        foreach_lerp_((running_mean, running_var), batch, momentum)
    else:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_(var.to(running_var.dtype), momentum)


def _check_running(running_mean: Tensor | None, running_var: Tensor | None, training: bool, input: Tensor) -> None:
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must be given both or neither")
    if running_mean is None and not training:
        raise ValueError("running_mean and running_var are None; they are needed unless training is True")
    for name, value in (("running_mean", running_mean), ("running_var", running_var)):
        check_vector(name, value, input)
        if value is not None and value.requires_grad:
            raise ValueError(f"{name} requires a gradient, which does not exist; pass {name}.detach()")


# ------------------------------------------------------------------------------------------------ registration
@torch.library.register_fake("sdgan_ext::batch_norm")
def _fake(input: Tensor, weight: Tensor | None, bias: Tensor | None, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    mean, var = (empty_statistics(input, input.shape[1]) for _ in range(2))
    return empty_output(input), mean, var


@torch.library.register_fake("sdgan_ext::batch_norm_backward")
def _fake_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor | None, bias: Tensor | None, *others: Any
) -> tuple[Tensor, ...]:
    return empty_gradients(input, weight, bias)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, weight, bias, given_mean, _, *ctx.settings = inputs
    ctx.training = given_mean is None
    ctx.save_for_backward(input, weight, bias, output[1], output[2])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_output: Tensor | None, grad_mean: Tensor | None, grad_var: Tensor | None
) -> tuple[Tensor | None, ...]:
    input, weight, bias, mean, var = ctx.saved_tensors
    grads = [None, None, None]
    if grad_output is not None:
        grads = _batch_norm_backward(
            grad_output, input, weight, bias, mean.detach(), var.detach(), ctx.training, *ctx.settings
        )
    grad_input = grads[0]
    if ctx.training and (grad_mean is not None or grad_var is not None):  # the statistics were used
        (more,) = reference_vjp(reference.batch_statistics, (input,), (grad_mean, grad_var))
        grad_input = more if grad_input is None else grad_input + more
    return grad_input, *of_given(grads, weight, bias), *[None] * 5


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_output, input, weight, bias, mean, var, ctx.training, *ctx.settings = inputs
    ctx.save_for_backward(grad_output, input, weight, bias, mean, var)
    ctx.set_materialize_grads(False)


def _double_backward(ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad_output, input, weight, bias, mean, var = ctx.saved_tensors

    def forward(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        statistics = (None, None) if ctx.training else (mean, var)
        return reference.batch_norm_native(input, weight, bias, *statistics, *ctx.settings)[0]

    grads = reference_vjp(first_derivative(forward), (grad_output, input, weight, bias), grad_grads)
    return *grads, *[None] * 6


_batch_norm = differentiable("batch_norm", _backward, _setup)
_batch_norm_backward = differentiable("batch_norm_backward", _double_backward, _setup_backward)


_kernel = overload_call(torch.ops.sdgan_ext.batch_norm.default)


# In plain eager mode the statistics move in here: autograd has one output to track, not three; and a checkpoint, which
# ends its second run where the last tensor was saved, moves them as often as torch's own batch norm.
def _plain_forward(
    ctx: Any,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    given_mean: Tensor | None,
    given_var: Tensor | None,
    settings: tuple[Any, ...],
    running: tuple[Any, ...] | None,
) -> Tensor:
    with below_autograd():
        output, mean, var = _kernel(input, weight, bias, given_mean, given_var, *settings)
    if running is not None:
        _update(mean, var, *running)
    ctx.training = given_mean is None
    ctx.settings = settings
    ctx.save_for_backward(input, weight, bias, mean, var)
    return output


def _plain_backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, bias, mean, var = ctx.saved_tensors
    grads = _batch_norm_backward(grad_output, input, weight, bias, mean, var, ctx.training, *ctx.settings)
    return grads[0], *of_given(grads, weight, bias), None, None, None, None


_apply = autograd_function("batch_norm", _plain_forward, _plain_backward)
