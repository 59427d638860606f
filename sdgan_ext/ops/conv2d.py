"""Convolution, bias and activation. Math and dispatch: docs/ops/conv.md."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from . import _convolution
from ._checks import check_like, check_tensor
from ._enums import ACTIVATIONS, Activation

__all__ = ["conv2d"]


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    output_scale: float = 1.0,
) -> Tensor:
    """Convolution with bias, residual and activation:
    ``activation(output_scale * (conv2d(input, weight) + bias + residual))``.

    Equivalent to, for symmetric padding and ``activation="leaky_relu"``::

        y = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
        F.leaky_relu(output_scale * (y + residual), negative_slope)

    Args:
        input: ``[N, C, H, W]`` or ``[C, H, W]``. float32, bfloat16, float64, or float16 on CUDA.
        weight: ``[K, C / groups, R, S]``, as torch's.
        bias: ``[K]`` or None.
        stride: pixels between the windows, an int or a (vertical, horizontal) pair.
        padding: zeros around the input: an int, a (vertical, horizontal) pair, or (top, bottom, left, right), which
            makes Keras' ``same`` exact; or torch's ``"valid"`` and ``"same"``.
        dilation: pixels between the kernel's taps, an int or a pair.
        groups: groups of channels that are convolved apart.
        activation: None, ``relu``, ``leaky_relu``, ``tanh``, ``sigmoid``, ``silu`` or ``elu``.
        negative_slope: factor of ``leaky_relu`` below zero, at least 0.
        residual: a tensor of the output's shape, of any layout, that is added before the activation, as at the end of a
            residual block; or None.
        output_scale: factor of the sum, a finite float.

    Returns:
        ``[N, K, (H + top + bottom - dilation * (R - 1) - 1) // stride + 1, ...]``, channels_last where input or
        weight are.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: the product of the Winograd kernels: Lavin & Gray 2016; all algorithms: docs/ops/conv.md.
    """
    _convolution.check_arguments(input, weight, bias, groups, activation, negative_slope, transposed=False)
    geometry = _geometry(input.shape[-2:], weight.shape[2:], stride, padding, dilation)
    settings = *geometry, groups, ACTIVATIONS[activation], float(negative_slope)
    added = _residual_arguments(residual, output_scale, input, weight, geometry)
    return _convolution.call(_conv2d, input, weight, bias, *settings, *added)


def _residual_arguments(
    residual: Tensor | None,
    output_scale: float,
    input: Tensor,
    weight: Tensor,
    geometry: tuple[list[int], list[int], list[int]],
) -> tuple[()] | tuple[Tensor | None, float]:
    """The operator's last two, checked; nothing where they would change nothing."""
    if isinstance(output_scale, bool) or not isinstance(output_scale, (int, float)):
        raise TypeError(f"output_scale is {output_scale!r}; it must be a finite float")
    if not -math.inf < output_scale < math.inf:
        raise ValueError(f"output_scale is {output_scale!r}; it must be a finite float")
    if residual is not None:
        check_tensor("residual", residual)
        size = _convolution.conv_size(input.shape[-2:], weight.shape[2:], *geometry)
        output = *input.shape[:-3], weight.shape[0], *size
        if tuple(residual.shape) != output:
            raise ValueError(f"residual has shape {tuple(residual.shape)}; the output has shape {output}")
        check_like("residual", residual, "input", input)
        if input.dim() == 3:
            residual = residual.unsqueeze(0)
    return (residual, float(output_scale)) if _convolution.residual_or_scale(residual, output_scale) else ()


def _geometry(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, ...] | str,
    dilation: int | tuple[int, int],
) -> tuple[list[int], list[int], list[int]]:
    """Stride, sides and dilation of an image of ``size``, checked."""
    strides = _convolution.integers("stride", stride, 2, at_least=1)
    dilations = _convolution.integers("dilation", dilation, 2, at_least=1)
    if padding == "valid":
        sides = [0, 0, 0, 0]
    elif padding == "same":
        sides = _convolution.same_padding(kernel, strides, dilations)
    else:
        sides = _convolution.sides("padding", padding)
    _convolution.check_output_size(size, kernel, _convolution.conv_size(size, kernel, strides, sides, dilations))
    return strides, sides, dilations


_conv2d = _convolution.register("conv2d", transposed=False)

#: :func:`conv2d` for layers, which call it with the same geometry again and again.
conv2d_of_layer = _convolution.of_layer(conv2d, _conv2d, _geometry, transposed=False)
