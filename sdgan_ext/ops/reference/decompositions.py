"""The operators of ``torch.ops.sdgan_ext`` in stock torch, argument for argument as in csrc/ops/library.cpp.

They stand in for the kernels where a program is transformed by rules for stock operators: under :mod:`torch.func`, in
forward mode, and in export to ONNX and other formats. The mathematics is that of :mod:`.functions`.

Some of them are used by name in the derivatives of the operators; :data:`DECOMPOSITIONS` has all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._enums import (
    ACTIVATION_NAMES,
    ACTIVATIONS,
    DISCRIMINATOR,
    OBJECTIVE_NAMES,
    RECONSTRUCTION_NAMES,
    REDUCTION_NAMES,
    Activation,
)
from . import functions
from .functions import activate, add_residual, at_least_float, batch_statistics, group_statistics

__all__ = ["DECOMPOSITIONS"]

_SILU = ACTIVATIONS["silu"]

#: A gradient for each input, an empty tensor where none is needed.
_Grads = tuple[Tensor, ...]


def _gradients(function: Callable[..., Any], tensors: Sequence[Tensor], grad_output: Tensor) -> tuple[Tensor, ...]:
    """Of ``function(*tensors)``, by a transform of its own, so that further transforms may lie around it."""
    return torch.func.vjp(function, *tensors)[1](grad_output)


def _if_needed(gradient: Tensor, needed: bool, like: Tensor) -> Tensor:
    return gradient if needed else like.new_empty((0,))


# ------------------------------------------------------------------------------------------------- activations
def activation_gradient(activation: int, negative_slope: float, saved: Tensor) -> Tensor | None:
    """act' from the output, or for silu from the input; None stands for 1."""
    name = ACTIVATION_NAMES[activation]
    if name is None:
        return None
    one = torch.ones_like(saved)
    gradients: dict[Activation, Callable[[Tensor], Tensor]] = {
        "relu": lambda y: (y > 0).to(y.dtype),
        "leaky_relu": lambda y: torch.where(y > 0, one, one * negative_slope),
        "tanh": lambda y: 1 - y * y,
        "sigmoid": lambda y: y * (1 - y),
        "silu": lambda x: torch.sigmoid(x) * (1 + x * (1 - torch.sigmoid(x))),
        "elu": lambda y: torch.where(y < 0, y + 1, one),
    }
    return gradients[name](saved)


def activation_second_derivative(activation: int, saved: Tensor) -> Tensor | None:
    """The derivative of :func:`activation_gradient` by ``saved``; None stands for 0."""
    derivatives: dict[Activation | None, Callable[[Tensor], Tensor]] = {
        "tanh": lambda y: -2 * y,
        "sigmoid": lambda y: 1 - 2 * y,
        "silu": lambda x: torch.sigmoid(x) * torch.sigmoid(-x) * (2 - x * torch.tanh(x / 2)),
        "elu": lambda y: (y < 0).to(y.dtype),
    }
    derivative = derivatives.get(ACTIVATION_NAMES[activation])
    return None if derivative is None else derivative(saved)


# ------------------------------------------------------------------------------------------------ convolutions
def _conv2d_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    top, bottom, left, right = padding
    if top == bottom and left == right:
        return F.conv2d(input, weight, bias, stride, (top, left), dilation, groups)
    return F.conv2d(F.pad(input, (left, right, top, bottom)), weight, bias, stride, 0, dilation, groups)


def _conv_transpose2d_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    crop: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    top, bottom, left, right = crop
    keeps = top - bottom, left - right
    if all(0 <= keep < max(s, d) for keep, s, d in zip(keeps, stride, dilation, strict=True)):
        return F.conv_transpose2d(input, weight, bias, stride, (top, left), keeps, groups, dilation)
    full = F.conv_transpose2d(input, weight, bias, stride, 0, 0, groups, dilation)
    return F.pad(full, (-left, -right, -top, -bottom))


def _convolution(linear: Callable[..., Tensor]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The operator and its backward, of the convolution without an activation."""

    def forward(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        sides: list[int],
        dilation: list[int],
        groups: int,
        activation: int,
        negative_slope: float,
        residual: Tensor | None = None,
        output_scale: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        x = add_residual(linear(input, weight, bias, stride, sides, dilation, groups), residual, output_scale)
        y = activate(x, ACTIVATION_NAMES[activation], negative_slope)
        return y, x if activation == _SILU else x.new_empty((0,))

    def backward(grad_output: Tensor, input: Tensor, weight: Tensor, saved: Tensor, *settings: Any) -> _Grads:
        *geometry, activation, negative_slope, need_input, need_weight, need_bias = settings
        factor = activation_gradient(activation, negative_slope, saved)
        v = grad_output if factor is None else grad_output * factor

        def without_bias(input: Tensor, weight: Tensor) -> Tensor:
            return linear(input, weight, None, *geometry)

        grad_input, grad_weight = _gradients(without_bias, (input, weight), v)
        return (
            _if_needed(grad_input, need_input, input),
            _if_needed(grad_weight, need_weight, input),
            _if_needed(v.sum((0, 2, 3)), need_bias, input),
        )

    return forward, backward


# -------------------------------------------------------------------------------------------------- batch_norm
def batch_norm_native(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    activation: int,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator: without given statistics it takes those of the batch; the ones in use come back, at least float."""
    if mean is None or var is None:
        mean, var = batch_statistics(input)
    x, mean, var = at_least_float(input), at_least_float(mean), at_least_float(var)
    channels = (1, -1, *[1] * (x.dim() - 2))
    y = (x - mean.view(channels)) * torch.rsqrt(var + eps).view(channels)
    y = y if weight is None else y * weight.view(channels)
    y = y if bias is None else y + bias.view(channels)
    return activate(y, ACTIVATION_NAMES[activation], negative_slope).to(input.dtype), mean, var


def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    activation: int,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    vectors = [t for t in (weight, bias, mean, var) if t is not None]
    if mean is None or var is None or any(t.dtype != input.dtype for t in vectors):
        return batch_norm_native(input, weight, bias, mean, var, eps, activation, negative_slope)
    y = F.batch_norm(input, mean, var, weight, bias, False, 0.0, eps)
    return activate(y, ACTIVATION_NAMES[activation], negative_slope), mean.clone(), var.clone()


def _batch_norm_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    *settings: Any,
) -> _Grads:
    statistics = (None, None) if training else (mean, var)
    given = [t for t in (weight, bias) if t is not None]

    def normalize(input: Tensor, *vectors: Tensor) -> Tensor:
        remaining = iter(vectors)
        w, b = (None if t is None else next(remaining) for t in (weight, bias))
        return batch_norm_native(input, w, b, *statistics, *settings)[0]

    grad_input, *others = _gradients(normalize, (input, *given), grad_output)
    grads = iter(others)
    return grad_input, *(input.new_empty((0,)) if t is None else next(grads) for t in (weight, bias))


# -------------------------------------------------------------------------------------------------- group_norm
def group_norm_native(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: int,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator: the statistics come back, at least float."""
    mean, rstd = group_statistics(input, num_groups, eps)
    groups, channels = (*mean.shape, *[1] * (input.dim() - 1)), (1, -1, *[1] * (input.dim() - 2))
    x = at_least_float(input).unflatten(1, (num_groups, -1))
    y = ((x - mean.view(groups)) * rstd.view(groups)).flatten(1, 2)
    y = y if weight is None else y * weight.view(channels)
    y = y if bias is None else y + bias.view(channels)
    return activate(y, ACTIVATION_NAMES[activation], negative_slope).to(input.dtype), mean, rstd


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: int,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    plain = all(t is None or t.dtype == torch.float32 for t in (input, weight, bias))
    if not plain or (weight is None and bias is not None):  # stock torch cannot differentiate a bias alone
        return group_norm_native(input, num_groups, weight, bias, eps, activation, negative_slope)
    y = F.group_norm(input, num_groups, weight, bias, eps)
    return activate(y, ACTIVATION_NAMES[activation], negative_slope), *group_statistics(input, num_groups, eps)


def _group_norm_backward(
    grad_output: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    *settings: Any,
) -> _Grads:
    given = [t for t in (weight, bias) if t is not None]

    def normalize(input: Tensor, *vectors: Tensor) -> Tensor:
        remaining = iter(vectors)
        w, b = (None if t is None else next(remaining) for t in (weight, bias))
        return group_norm_native(input, num_groups, w, b, *settings)[0]

    grad_input, *others = _gradients(normalize, (input, *given), grad_output)
    grads = iter(others)
    return grad_input, *(input.new_empty((0,)) if t is None else next(grads) for t in (weight, bias))


# ------------------------------------------------------------------------------------------------------ losses
# The gradients that the kernels give beside a loss are left out: only the derivative of the operator reads them, and
# that of a decomposition is torch's.


def _loss_alone(loss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return loss, loss.new_empty((0,)), loss.new_empty((0,))


def _loss_gradients(loss: Callable[..., Tensor], tensors: Sequence[Tensor | None], grad_loss: Tensor) -> _Grads:
    """Gradients of ``loss(*tensors)`` for a given one of the loss; an empty tensor stands for that of None."""
    given = [t for t in tensors if t is not None]

    def loss_of_given(*values: Tensor) -> Tensor:
        remaining = iter(values)
        return loss(*(None if t is None else next(remaining) for t in tensors))

    grads = iter(_gradients(loss_of_given, given, grad_loss))
    return tuple(given[0].new_empty((0,)) if t is None else next(grads) for t in tensors)


def adversarial_loss(
    real: Tensor | None, fake: Tensor, objective: int, role: int, real_target: float, reduction: int
) -> Tensor:
    """The loss of the operator ``adversarial_loss``."""
    name, reduced = OBJECTIVE_NAMES[objective], REDUCTION_NAMES[reduction]
    if role == DISCRIMINATOR:
        assert real is not None
        return functions.discriminator_loss(real, fake, name, real_target=real_target, reduction=reduced)
    return functions.generator_loss(fake, real, name, reduction=reduced)


def _adversarial_loss(
    real: Tensor | None,
    fake: Tensor,
    objective: int,
    role: int,
    real_target: float,
    reduction: int,
    need_real: bool,
    need_fake: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _loss_alone(adversarial_loss(real, fake, objective, role, real_target, reduction))


def _adversarial_loss_backward(
    grad_loss: Tensor, real: Tensor | None, fake: Tensor, grad_real: Tensor, grad_fake: Tensor, *settings: Any
) -> _Grads:
    return _loss_gradients(lambda r, f: adversarial_loss(r, f, *settings), (real, fake), grad_loss)


def bce(
    input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, logits: bool, reduction: int
) -> Tensor:
    """The loss of the operator ``bce``."""
    name = REDUCTION_NAMES[reduction]
    if logits:
        return functions.binary_cross_entropy_with_logits(input, target, weight, reduction=name, pos_weight=pos_weight)
    return functions.binary_cross_entropy(input, target, weight, reduction=name)


def _bce(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    logits: bool,
    reduction: int,
    need_input: bool,
    need_target: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _loss_alone(bce(input, target, weight, pos_weight, logits, reduction))


def _bce_backward(
    grad_loss: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    logits: bool,
    reduction: int,
    *needs: bool,
) -> _Grads:
    grads = _loss_gradients(lambda x, t: bce(x, t, weight, pos_weight, logits, reduction), (input, target), grad_loss)
    return tuple(_if_needed(grad, need, input) for grad, need in zip(grads, needs, strict=True))


def _reconstruction(kind: int, reduction: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: functions.reconstruction_loss(a, b, RECONSTRUCTION_NAMES[kind], REDUCTION_NAMES[reduction])


def _reconstruction_loss(
    x_hat: Tensor, x: Tensor, kind: int, reduction: int, need_x_hat: bool, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _loss_alone(_reconstruction(kind, reduction)(x_hat, x))


def _reconstruction_loss_backward(
    grad_loss: Tensor, x_hat: Tensor, x: Tensor, kind: int, reduction: int, *needs: bool
) -> _Grads:
    grads = _loss_gradients(_reconstruction(kind, reduction), (x_hat, x), grad_loss)
    return tuple(_if_needed(grad, need, x) for grad, need in zip(grads, needs, strict=True))


# ---------------------------------------------------------------------------------------------------- gaussian
def gaussian_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mean: Tensor,
    logvar: Tensor,
    z: Tensor | None,
    reduction: int,
    need_eps: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operator, but for the gradient of eps: None, and no empty tensor, where it is not needed."""
    grad_mean = grad_logvar = torch.zeros_like(mean)
    grad_eps = None
    if grad_z is not None:
        assert z is not None
        grad_mean = grad_z
        grad_logvar = 0.5 * grad_z * (z - mean)
        grad_eps = grad_z * (logvar / 2).exp() if need_eps else None
    if grad_kl is not None:
        grad_kl = grad_kl / {"batchmean": mean.shape[0], "mean": mean.numel()}.get(REDUCTION_NAMES[reduction], 1)
        grad_mean = grad_mean + grad_kl * mean
        grad_logvar = grad_logvar + 0.5 * grad_kl * (logvar.exp() - 1)
    return grad_mean, grad_logvar, grad_eps


def _gaussian(
    mean: Tensor, logvar: Tensor, eps: Tensor | None, seed: Tensor | None, reduction: int
) -> tuple[Tensor, Tensor]:
    name = REDUCTION_NAMES[reduction]
    if eps is None and seed is None:
        return mean.new_empty((0,)), functions.gaussian_kl(mean, logvar, name)
    return functions.sample_gaussian(mean, logvar, seed=seed, eps=eps, reduction=name)


def _gaussian_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mean: Tensor,
    logvar: Tensor,
    z: Tensor | None,
    reduction: int,
    need_eps: bool,
) -> _Grads:
    grad_mean, grad_logvar, grad_eps = gaussian_backward(grad_z, grad_kl, mean, logvar, z, reduction, need_eps)
    return grad_mean.clone(), grad_logvar.clone(), mean.new_empty((0,)) if grad_eps is None else grad_eps


def _upsample_conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: int, negative_slope: float
) -> Tensor:
    y = F.conv2d(F.interpolate(input, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    return activate(y, ACTIVATION_NAMES[activation], negative_slope)


_conv2d, _conv2d_backward = _convolution(_conv2d_linear)
_conv_transpose2d, _conv_transpose2d_backward = _convolution(_conv_transpose2d_linear)

#: By the name of the operator.
DECOMPOSITIONS: dict[str, Callable[..., Any]] = {
    "adversarial_loss": _adversarial_loss,
    "adversarial_loss_backward": _adversarial_loss_backward,
    "batch_norm": _batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "bce": _bce,
    "bce_backward": _bce_backward,
    "conv2d": _conv2d,
    "conv2d_backward": _conv2d_backward,
    "conv_transpose2d": _conv_transpose2d,
    "conv_transpose2d_backward": _conv_transpose2d_backward,
    "gaussian": _gaussian,
    "gaussian_backward": _gaussian_backward,
    "group_norm": _group_norm,
    "group_norm_backward": _group_norm_backward,
    "reconstruction_loss": _reconstruction_loss,
    "reconstruction_loss_backward": _reconstruction_loss_backward,
    "upsample_conv2d": _upsample_conv2d,
}
