"""Transposed convolution, bias and activation. Math and dispatch: docs/ops/conv.md."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import _convolution
from ._enums import ACTIVATIONS, Activation

__all__ = ["conv_transpose2d"]


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    groups: int = 1,
    dilation: int | tuple[int, int] = 1,
    *,
    crop: tuple[int, int, int, int] | None = None,
    activation: Activation | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    """Transposed convolution with bias and activation: ``activation(conv_transpose2d(input, weight) + bias)``.

    Equivalent to, without ``crop`` and for ``activation="relu"``::

        F.relu(F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation))

    Args:
        input: ``[N, C, H, W]`` or ``[C, H, W]``. float32, bfloat16, float64, or float16 on CUDA.
        weight: ``[C, K / groups, R, S]``, as torch's.
        bias: ``[K]`` or None.
        stride: output pixels an input pixel stands for, an int or a (vertical, horizontal) pair.
        padding, output_padding: torch's geometry: ``padding`` rows and columns are cropped from every side, of which
            the last ``output_padding`` are kept.
        groups: groups of channels that are convolved apart.
        dilation: output pixels between the kernel's taps, an int or a pair.
        crop: (top, bottom, left, right) rows and columns cropped from the full output, in place of ``padding`` and
            ``output_padding``: Keras' ``same`` with kernel 5 and stride 2 is ``(1, 2, 1, 2)``.
        activation: None, ``relu``, ``leaky_relu``, ``tanh``, ``sigmoid``, ``silu`` or ``elu``.
        negative_slope: factor of ``leaky_relu`` below zero, at least 0.

    Returns:
        ``[N, K, (H - 1) * stride + dilation * (R - 1) + 1 - top - bottom, ...]``, channels_last where input or weight
        are.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: Zeiler et al. 2010 (deconvolutional networks); all algorithms: docs/ops/conv.md.
    """
    _convolution.check_arguments(input, weight, bias, groups, activation, negative_slope, transposed=True)
    geometry = _geometry(input.shape[-2:], weight.shape[2:], stride, padding, output_padding, dilation, crop)
    settings = *geometry, groups, ACTIVATIONS[activation], float(negative_slope)
    return _convolution.call(_conv_transpose2d, input, weight, bias, *settings)


def _geometry(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    output_padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    crop: tuple[int, int, int, int] | None,
) -> tuple[list[int], list[int], list[int]]:
    """Stride, sides and dilation of an image of ``size``, checked."""
    strides = _convolution.integers("stride", stride, 2, at_least=1)
    dilations = _convolution.integers("dilation", dilation, 2, at_least=1)
    pads = _convolution.integers("padding", padding, 2, at_least=0)
    keeps = _convolution.integers("output_padding", output_padding, 2, at_least=0)
    if crop is None:
        for axis in (0, 1):
            below = max(strides[axis], dilations[axis])
            if keeps[axis] >= below:
                raise ValueError(f"output_padding is {output_padding!r}; it must be smaller than stride or dilation")
        sides = [pads[0], pads[0] - keeps[0], pads[1], pads[1] - keeps[1]]
    elif any(pads) or any(keeps):
        raise ValueError(
            f"crop is {crop!r} beside padding {padding!r} and output_padding {output_padding!r}; give one or the other"
        )
    else:
        sides = _convolution.integers("crop", crop, 4, at_least=0)
    full = _convolution.conv_transpose_size(size, kernel, strides, sides, dilations)
    _convolution.check_output_size(size, kernel, full)
    return strides, sides, dilations


_conv_transpose2d = _convolution.register("conv_transpose2d", transposed=True)

#: :func:`conv_transpose2d` for layers, which call it with the same geometry again and again.
conv_transpose2d_of_layer = _convolution.of_layer(conv_transpose2d, _conv_transpose2d, _geometry, transposed=True)
