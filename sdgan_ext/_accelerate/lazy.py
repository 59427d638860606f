"""Nearest upsampling by 2 that waits for the convolution behind it, in a forward that calls functions.

The first argument of the forward comes in as a tensor whose upsampling is not computed at once. Where that goes into a
convolution, the two are computed as one; whatever else is done with either is done with what stock would have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from .._torch_internals import transformed, tree_map_only

__all__ = ["call_lazily", "is_upsampling", "settings_allow"]


def is_upsampling(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call is nearest upsampling by 2 of its first argument."""
    return (
        function is F.interpolate
        and len(args) == 1
        and kwargs.get("mode", "nearest") == "nearest"
        and kwargs.get("size") is None
        and kwargs.get("scale_factor") in (2, (2, 2), [2, 2])
    )


def settings_allow(kernel: Any, stride: Any, padding: Any, dilation: Any) -> bool:
    """Whether :func:`sdgan_ext.ops.upsample_conv2d` has a convolution of these."""
    if tuple(stride) != (1, 1) or tuple(dilation) != (1, 1):
        return False
    return isinstance(padding, str) or all(p < k for p, k in zip(padding, kernel, strict=True))


class _Lazy(Tensor):
    """
    Attributes:
        source: what is to be upsampled.
    """

    source: Tensor

    @classmethod
    def of(cls, source: Tensor) -> Any:
        made = source.as_subclass(cls)
        made.source = source
        return made

    def computed(self) -> Tensor:
        """What stock has in its place."""
        raise NotImplementedError

    @classmethod
    def shortcut(cls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a call where it takes no :meth:`computed`."""
        return None

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = cls.shortcut(func, args, kwargs or {}) if args and type(args[0]) is cls else None
        if result is not None:
            return result
        args, kwargs = tree_map_only(_Lazy, lambda lazy: lazy.computed(), (args, kwargs or {}))
        return func(*args, **kwargs)


class _Waiting(_Lazy):
    """The argument."""

    def computed(self) -> Tensor:
        return self.source

    @classmethod
    def shortcut(cls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _Upsampled.of(args[0].source) if is_upsampling(func, args, kwargs) else None


class _Upsampled(_Lazy):
    """The argument, upsampled.

    Attributes:
        result: what it is, once it was computed.
        version: of the source when it was to be upsampled.
    """

    result: Tensor | None = None
    version: int | None = None

    @classmethod
    def of(cls, source: Tensor) -> Any:
        made = super().of(source if torch.is_grad_enabled() else source.detach())
        made.version = _version(source)
        return made

    def computed(self) -> Tensor:
        if self.result is None:
            self.result = F.interpolate(self.unchanged(), scale_factor=2.0, mode="nearest")
        return self.result

    def unchanged(self) -> Tensor:
        """
        Raises:
            RuntimeError: the source was written to since.
        """
        if _version(self.source) != self.version:
            raise RuntimeError(
                "what was upsampled has been modified by an inplace operation before it was convolved; call "
                "sdgan_ext.restore(model) first"
            )
        return self.source

    @classmethod
    def shortcut(cls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func == _IS_QUANTIZED:  # as our layers ask of what is no plain tensor
            return False
        if func is not torch.conv2d or kwargs or len(args) != 7 or args[0].result is not None:
            return None
        x, (weight, bias, stride, padding, dilation, groups) = args[0].unchanged(), args[1:]
        alike = isinstance(weight, Tensor) and weight.is_cpu and weight.dtype == torch.float32
        if not alike or weight.shape[1] * groups != x.shape[1] or torch.is_autocast_enabled("cpu"):
            return None
        if not settings_allow(weight.shape[2:], stride, padding, dilation):
            return None
        return ops.upsample_conv2d(x, weight, bias, padding=padding, groups=groups)


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


_IS_QUANTIZED = cast(Any, Tensor.is_quantized).__get__


def call_lazily(stock: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Stock's forward, of a first argument that waits."""
    x: Any = args[0] if args else None
    usual = type(x) is Tensor and x.dim() == 4 and x.is_cpu and x.dtype == torch.float32
    if not usual or torch.compiler.is_compiling() or transformed():
        return stock(module, *args, **kwargs)
    output = stock(module, _Waiting.of(x), *args[1:], **kwargs)
    return tree_map_only(_Lazy, lambda lazy: lazy.computed(), output)
