"""Convolution layers with a fused activation."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from .._torch_internals import output_padding_for, padding_for_pad
from ..ops._checks import check_activation
from ..ops._convolution import integers
from ..ops._enums import Activation
from ..ops.conv2d import conv2d_of_layer
from ..ops.conv_transpose2d import conv_transpose2d_of_layer

__all__ = ["Conv2d", "ConvTranspose2d", "UpsampleConv2d"]


_Pair = int | tuple[int, int]


class _Activated:
    """The two arguments that these layers have beside torch's."""

    activation: Activation | None
    negative_slope: float

    def _set_activation(self, activation: Activation | None, negative_slope: float) -> None:
        check_activation(activation, negative_slope)
        self.activation = activation
        self.negative_slope = negative_slope

    def _activation_repr(self) -> str:
        if self.activation is None:
            return ""
        parameter = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f", activation={self.activation!r}{parameter}"


class Conv2d(_Activated, torch.nn.Conv2d):
    """:class:`torch.nn.Conv2d` followed by an activation, in one operation.

    Equivalent to ``torch.nn.Sequential(torch.nn.Conv2d(...), torch.nn.ReLU())`` for ``activation="relu"``, with the
    state dict of the convolution alone.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias, padding_mode, device, dtype: as torch's.
        padding: as torch's, or (top, bottom, left, right) for zeros that differ from side to side.
        activation: None, ``relu``, ``leaky_relu``, ``tanh``, ``sigmoid``, ``silu`` or ``elu``.
        negative_slope: factor of ``leaky_relu`` below zero.

    Shape:
        ``[N, C, H, W]`` or ``[C, H, W]`` to ``[N, K, H', W']`` or ``[K, H', W']``, as :func:`sdgan_ext.ops.conv2d`.
        ``weight`` is ``[K, C / groups, R, S]``, ``bias`` ``[K]``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Pair,
        stride: _Pair = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: _Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: Activation | None = None,
        negative_slope: float = 0.2,
    ):
        per_side = None
        if isinstance(padding, tuple | list) and len(padding) == 4:
            per_side = tuple(integers("padding", padding, 4, at_least=0))
            if padding_mode != "zeros":
                raise ValueError(f"padding is {per_side}, which needs padding_mode 'zeros', got {padding_mode!r}")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            cast(_Pair, padding) if per_side is None else 0,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        if per_side is not None:
            self.padding = per_side
        self._set_activation(activation, negative_slope)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._activated(input, weight, bias, self.activation, self.negative_slope)

    def _activated(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation | None,
        negative_slope: float,
    ) -> Tensor:
        padding: int | tuple[int, ...] | str = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, padding_for_pad(self), mode=self.padding_mode)
            padding = 0
        return conv2d_of_layer(
            input, weight, bias, self.groups, activation, negative_slope, self.stride, padding, self.dilation
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + self._activation_repr()


class UpsampleConv2d(Conv2d):
    """Nearest upsampling by 2, then :class:`Conv2d`, in one operation.

    Equivalent to ``torch.nn.Sequential(torch.nn.Upsample(scale_factor=2), torch.nn.Conv2d(...), torch.nn.ReLU())`` for
    ``activation="relu"``, with the state dict of the convolution alone.

    Args:
        in_channels, out_channels, kernel_size, groups, bias, device, dtype: as of :class:`torch.nn.Conv2d`.
        scale: 2.
        padding: zeros around the upsampled image, as of :class:`Conv2d`, but on each side smaller than the kernel;
            ``"same"`` is 1 for 3x3 and 2 for 5x5.
        activation: None, ``relu``, ``leaky_relu``, ``tanh``, ``sigmoid``, ``silu`` or ``elu``.
        negative_slope: factor of ``leaky_relu`` below zero.

    Shape:
        ``[N, C, H, W]`` or ``[C, H, W]`` to ``[N, K, H', W']`` or ``[K, H', W']``, as
        :func:`sdgan_ext.ops.upsample_conv2d`. ``weight`` is ``[K, C / groups, R, S]``, ``bias`` ``[K]``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Pair = 3,
        scale: int = 2,
        padding: int | tuple[int, ...] | str = "same",
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: Activation | None = None,
        negative_slope: float = 0.2,
    ):
        if scale != 2:
            raise ValueError(f"scale is {scale!r}; allowed is 2")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            1,
            padding,
            1,
            groups,
            bias,
            "zeros",
            device,
            dtype,
            activation=activation,
            negative_slope=negative_slope,
        )
        self.scale = scale

    def _activated(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation | None,
        negative_slope: float,
    ) -> Tensor:
        return ops.upsample_conv2d(
            input,
            weight,
            bias,
            self.scale,
            cast(_Pair, self.padding),
            self.groups,
            activation=activation,
            negative_slope=negative_slope,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale={self.scale}"


class ConvTranspose2d(_Activated, torch.nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` followed by an activation, in one operation.

    Equivalent to ``torch.nn.Sequential(torch.nn.ConvTranspose2d(...), torch.nn.ReLU())`` for ``activation="relu"``,
    with the state dict of the convolution alone.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode,
            device, dtype: as torch's.
        crop: (top, bottom, left, right) rows and columns cropped from the full output, in place of ``padding`` and
            ``output_padding``; Keras' ``same`` with kernel 5 and stride 2 is ``(1, 2, 1, 2)``.
        activation: None, ``relu``, ``leaky_relu``, ``tanh``, ``sigmoid``, ``silu`` or ``elu``.
        negative_slope: factor of ``leaky_relu`` below zero.

    Shape:
        ``[N, C, H, W]`` or ``[C, H, W]`` to ``[N, K, H', W']`` or ``[K, H', W']``, as
        :func:`sdgan_ext.ops.conv_transpose2d`. ``weight`` is ``[C, K / groups, R, S]``, ``bias`` ``[K]``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Pair,
        stride: _Pair = 1,
        padding: _Pair = 0,
        output_padding: _Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: _Pair = 1,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        crop: tuple[int, int, int, int] | None = None,
        activation: Activation | None = None,
        negative_slope: float = 0.2,
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            device,
            dtype,
        )
        if crop is not None and (any(cast(tuple[int, int], self.padding)) or any(self.output_padding)):
            raise ValueError(
                f"crop is {crop!r} beside padding {padding!r} and output_padding {output_padding!r}; "
                "give one or the other"
            )
        self.crop = None if crop is None else tuple(integers("crop", crop, 4, at_least=0))
        self._set_activation(activation, negative_slope)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As torch's: ``output_size`` (height, width) chooses the output padding, and excludes ``crop``."""
        if output_size is not None and self.crop is not None:
            raise ValueError(f"output_size is {output_size!r}, but the layer's crop already decides the size")
        return self._activated(input, output_size, self.activation, self.negative_slope)

    def _activated(
        self, input: Tensor, output_size: list[int] | None, activation: Activation | None, negative_slope: float
    ) -> Tensor:
        output_padding = output_padding_for(self, input, output_size)
        geometry = self.stride, self.padding, tuple(output_padding), self.dilation, self.crop
        return conv_transpose2d_of_layer(
            input, self.weight, self.bias, self.groups, activation, negative_slope, *geometry
        )

    def extra_repr(self) -> str:
        crop = "" if self.crop is None else f", crop={self.crop}"
        return super().extra_repr() + crop + self._activation_repr()
