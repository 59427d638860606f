"""Convolution, bias and activation. Math and dispatch: docs/ops/conv.md."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import _convolution
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
) -> Tensor:
    """Convolution with bias and activation: ``activation(conv2d(input, weight) + bias)``.

    Equivalent to, for symmetric padding and ``activation="leaky_relu"``::

        F.leaky_relu(F.conv2d(input, weight, bias, stride, padding, dilation, groups), negative_slope)

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
        negative_slope: factor of ``leaky_relu`` below zero.

    Returns:
        ``[N, K, (H + top + bottom - dilation * (R - 1) - 1) // stride + 1, ...]``, channels_last where input or
        weight are.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: the product of the Winograd kernels: Lavin & Gray 2016; all algorithms: docs/ops/conv.md.
    """
    _convolution.check_arguments(input, weight, bias, groups, activation, transposed=False)
    geometry = _geometry(input.shape[-2:], weight.shape[2:], stride, padding, dilation)
    settings = *geometry, groups, ACTIVATIONS[activation], float(negative_slope)
    return _convolution.call(_conv2d, input, weight, bias, *settings)


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
