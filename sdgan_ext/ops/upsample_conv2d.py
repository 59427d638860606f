"""Nearest upsampling by 2, convolution, bias and activation. Math, cost and which way: docs/ops/upsample_conv2d.md."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _C
from .._torch_internals import transformed
from . import _convolution
from ._enums import ACTIVATIONS, Activation
from ._kept_filters import offer
from .conv2d import conv2d
from .conv_transpose2d import _conv_transpose2d

__all__ = ["upsample_conv2d"]


def upsample_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: int = 2,
    padding: int | tuple[int, ...] | str = "same",
    groups: int = 1,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    """Nearest upsampling by 2 and a convolution, with bias and activation: one transposed convolution of stride 2.

    The upsampled image is not made, and what meets equal pixels is added up in the weight: 3x3 takes 16 multiplications
    instead of 36, and fewer where a Winograd kernel runs; 5x5 takes 36 instead of 100. So it is on the CPU, in float32
    and float64, for images that are not small; elsewhere it is an upsampling and :func:`conv2d`. 3x3 in float32 on the
    CPU, where no gradient is recorded, has a kernel of its own that takes 6.25.

    Equivalent to, for symmetric padding and ``activation="silu"``::

        F.silu(F.conv2d(F.interpolate(input, scale_factor=2, mode="nearest"), weight, bias, 1, padding, 1, groups))

    Args:
        input: ``[N, C, H, W]`` or ``[C, H, W]``. float32, bfloat16, float64, or float16 on CUDA.
        weight: ``[K, C / groups, R, S]``, that of the convolution: a stock checkpoint's.
        bias: ``[K]`` or None.
        scale: 2.
        padding: zeros around the upsampled image, as of :func:`conv2d`, but on each side smaller than the kernel;
            ``"same"`` is 1 for 3x3 and 2 for 5x5.
        groups: groups of channels that are convolved apart.
        activation: None, ``relu``, ``leaky_relu``, ``tanh``, ``sigmoid``, ``silu`` or ``elu``.
        negative_slope: factor of ``leaky_relu`` below zero, at least 0.

    Returns:
        ``[N, K, 2 H + top + bottom - R + 1, 2 W + left + right - S + 1]``, channels_last where input or weight are.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: derived in docs/ops/upsample_conv2d.md.
    """
    if scale != 2:
        raise ValueError(f"scale is {scale!r}; allowed is 2")
    _convolution.check_arguments(input, weight, bias, groups, activation, negative_slope, transposed=False)
    kernel = weight.shape[2:]
    if padding == "valid":
        pads = [0, 0, 0, 0]
    elif padding == "same":
        pads = _convolution.same_padding(kernel, (1, 1), (1, 1))
    else:
        pads = _convolution.sides("padding", padding)
    crop = [kernel[i // 2] - 1 - pad for i, pad in enumerate(pads)]
    if min(crop) < 0:
        raise ValueError(f"padding is {padding!r}; it must be smaller than the kernel, {tuple(kernel)}")
    upsampled = [2 * size for size in input.shape[-2:]]
    size = _convolution.conv_size(upsampled, kernel, (1, 1), pads, (1, 1))
    _convolution.check_output_size(input.shape[-2:], kernel, size)
    image = input if input.dim() == 4 else input.unsqueeze(0)
    if pads == [1, 1, 1, 1] and groups == 1 and _has_kernel(input, weight, bias):
        offer(weight)
        y = torch.ops.sdgan_ext.upsample_conv2d(image, weight, bias, ACTIVATIONS[activation], float(negative_slope))
        return y if input.dim() == 4 else y.squeeze(0)
    if not _pays(input, weight, groups):
        y = conv2d(
            F.interpolate(image, scale_factor=2, mode="nearest"),
            weight,
            bias,
            padding=tuple(pads),
            groups=groups,
            activation=activation,
            negative_slope=negative_slope,
        )
        return y if input.dim() == 4 else y.squeeze(0)
    return _convolution.call(
        _conv_transpose2d,
        input,
        _of_transposed(weight, groups, input),
        bias,
        [2, 2],
        crop,
        [1, 1],
        groups,
        ACTIVATIONS[activation],
        float(negative_slope),
    )


#: Pixels of an image, those times pairs of channels, and a group's channels on its wider side, from which on the sums
#: over the weight cost less than they save. Measured from 3 to 512 channels: docs/ops/upsample_conv2d.md.
_LEAST_PIXELS, _LEAST_PRODUCTS, _LEAST_CHANNELS = 512, 3 * 2**16, 16


def _pays(input: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether the transposed convolution is the faster one. The batch is not asked for: it may be dynamic."""
    height, width = input.shape[-2:]
    return (
        input.is_cpu
        and input.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and isinstance(height, int)  # and no symbol: an export would be for one side of the comparison
        and isinstance(width, int)
        and height * width >= _LEAST_PIXELS
        and height * width * weight.shape[0] * weight.shape[1] >= _LEAST_PRODUCTS
        and max(weight.shape[0] // groups, weight.shape[1]) >= _LEAST_CHANNELS
    )


#: Pixels of an image, and channels of either side, from which on the kernel was faster than all else. It is slow
#: without AVX2.
_KERNEL_PIXELS, _KERNEL_CHANNELS = 64, 16
_KERNEL = _C.build_info()["cpu_isa"] != "generic"


def _has_kernel(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether ``torch.ops.sdgan_ext.upsample_conv2d`` runs, which has no derivative and is a Winograd kernel."""
    return (
        input.is_cpu
        and input.dtype == torch.float32
        and weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) >= _KERNEL_CHANNELS
        and not torch.compiler.is_compiling()
        and input.shape[-2] * input.shape[-1] >= _KERNEL_PIXELS
        and not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (input, weight, bias)))
        and not transformed()
        and not torch.is_autocast_enabled("cpu")
        and _KERNEL
        and _C.conv_backend()[0] in ("auto", "winograd")
    )


@torch.library.register_fake("sdgan_ext::upsample_conv2d")
def _fake(input: Tensor, weight: Tensor, bias: Tensor | None, activation: int, negative_slope: float) -> Tensor:
    either = _convolution.is_channels_last(input) or _convolution.is_channels_last(weight)
    n, _, height, width = input.shape
    layout = torch.channels_last if either else torch.contiguous_format
    return input.new_empty((n, weight.shape[0], 2 * height, 2 * width)).contiguous(memory_format=layout)


def _no_derivative(ctx: Any, grad_output: Tensor) -> NoReturn:
    raise RuntimeError(
        "torch.ops.sdgan_ext.upsample_conv2d has no derivative; sdgan_ext.ops.upsample_conv2d has, with "
        "gradients enabled"
    )


torch.library.register_autograd("sdgan_ext::upsample_conv2d", _no_derivative)


def _of_transposed(weight: Tensor, groups: int, input: Tensor) -> Tensor:
    """``[K, C / groups, R, S]`` of the convolution to ``[C, K / groups, R + 1, S + 1]`` of the transposed one.

    In the order of channels_last, so that channels are added side by side and the gradient comes back in that order.
    """
    taps = _add_neighbours(_add_neighbours(weight.permute(0, 2, 3, 1), 1), 2)
    transposed = taps.unflatten(0, (groups, -1)).permute(0, 4, 1, 2, 3).flatten(0, 1)
    if _convolution.is_channels_last(weight) and not (input.dim() == 4 and _convolution.is_channels_last(input)):
        return transposed.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # it decides the output's layout
    return transposed


def _add_neighbours(weight: Tensor, dim: int) -> Tensor:
    """The taps w[0..n) along ``dim`` to ``w[n - 1], w[n - 2] + w[n - 1], ..., w[0] + w[1], w[0]``."""
    taps = weight.unbind(dim)[::-1]
    return torch.stack([taps[0], *(a + b for a, b in zip(taps, taps[1:], strict=False)), taps[-1]], dim)
