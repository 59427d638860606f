"""Modules whose calls an adapter computes: blocks of diffusers that torch.fx cannot trace, and ``nn.Sequential``.

An adapter computes what the forward of its class computes, on our operators and without copies between them. It is
found by the name of the class, since diffusers may not be there, and used where the source of that forward is one that
it was written for. It works piece by piece: a piece that is hooked, patched, wrapped, of another class, dtype or device
than it relies on is called as stock calls it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import ops
from .._torch_internals import children_of, has_hooks, plain_eager, tree_map_only
from ..ops._convolution import is_channels_last
from ..ops._enums import Activation
from ..ops.conv2d import conv2d_of_layer
from . import handshake
from .layers import ACTIVATIONS, LAYERS, Conv2d, GroupNorm, served
from .lazy import call_lazily, settings_allow

__all__ = ["LAZY", "Adapter", "adapter_of", "upsamples_by_2", "gains_by_upsampling", "is_opaque", "unknown"]


@dataclass(frozen=True)
class Adapter:
    """
    Attributes:
        forward: called with stock's forward, the module and the arguments of its call.
        words: what it does, for the report.
        gains: whether a module of the class, as it is set up, gains by it.
        sources: of the forwards that ``forward`` stands for, their :func:`digest`; empty: it calls stock's own.
        alone: whether the gain is to be measured of a module alone.
    """

    forward: Callable[..., Any]
    words: str
    gains: Callable[[nn.Module], bool]
    sources: frozenset[str] = frozenset()
    alone: bool = True

    def knows(self, kind: type[nn.Module]) -> bool:
        return not self.sources or digest(kind.forward) in self.sources


def adapter_of(module: nn.Module) -> Adapter | None:
    """That a module gains by."""
    adapter = _ADAPTERS.get(handshake.name_of(type(module)))
    if adapter is None or "forward" in module.__dict__ or not adapter.knows(type(module)):
        return None
    return adapter if adapter.gains(module) else None


def unknown(module: nn.Module) -> str | None:
    """Of a class that has an adapter, but with another forward: a clause about it."""
    adapter = _ADAPTERS.get(handshake.name_of(type(module)))
    if adapter is None or adapter.knows(type(module)):
        return None
    library = type(module).__module__.partition(".")[0]
    version = getattr(sys.modules.get(library), "__version__", "of an unknown version")
    return f"the forward of {type(module).__name__} in {library} {version} is none that this package knows"


def is_opaque(module: nn.Module) -> bool:
    """Whether an adapter computes all of the module, so that no data flow through it is to be proved."""
    adapter = adapter_of(module)
    return adapter is not None and bool(adapter.sources)


@functools.cache
def digest(forward: Callable[..., Any]) -> str:
    """Of its source, without comments and empty lines; "" where there is none."""
    try:
        lines = textwrap.dedent(inspect.getsource(forward)).splitlines()
    except (OSError, TypeError):
        return ""
    code = [line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------- pieces
def _is_plain(module: object, *kinds: type[nn.Module]) -> bool:
    """Whether a call of it is that of torch's class, or of ours for it, and nothing else."""
    return (
        (type(module) in kinds or any(type(module) is LAYERS.get(kind) for kind in kinds))
        and not has_hooks(cast(nn.Module, module))
        and "forward" not in cast(nn.Module, module).__dict__
    )


def _name(activation: object) -> Activation | None:
    """In the words of ``ops``, of one without settings."""
    for kind in (nn.SiLU, nn.ReLU):
        if type(activation) in (kind, ACTIVATIONS[kind]) and not has_hooks(cast(nn.Module, activation)):
            return None if "forward" in cast(nn.Module, activation).__dict__ else ACTIVATIONS[kind].computes
    return None


def _normalised(norm: nn.Module, activation: nn.Module, x: Tensor) -> Tensor:
    """``activation(norm(x))``."""
    name = _name(activation)
    if name and _is_plain(norm, nn.GroupNorm) and served(norm, x, may_export=True):
        return GroupNorm._fused(cast(Any, norm), x, name, 0.2)
    return cast(Tensor, activation(norm(x)))


def _convolved(conv: nn.Module, activation: nn.Module, x: Tensor) -> Tensor:
    """``activation(conv(x))``."""
    name = _name(activation)
    if name and _is_plain(conv, nn.Conv2d) and served(conv, x, may_export=True):
        return Conv2d._fused(cast(Any, conv), x, name, 0.2)
    return cast(Tensor, activation(conv(x)))


def _added(conv: nn.Module, x: Tensor, residual: Tensor, activation: nn.Module | None = None) -> Tensor:
    """``activation(conv(x) + residual)``: in one operation, or in place where nobody else has that of ``conv``."""
    plain = plain_eager() and _is_plain(conv, nn.Conv2d)
    name = None if activation is None else _name(activation)
    if plain and (activation is None or name) and served(conv, x, may_export=True) and _takes(conv, x, residual):
        layer = cast(Any, conv)
        geometry = layer.stride, layer.padding, layer.dilation
        return conv2d_of_layer(x, layer.weight, layer.bias, layer.groups, name, 0.2, *geometry, residual=residual)
    y: Tensor = conv(x)
    if not plain or torch.is_grad_enabled() or y.dtype != residual.dtype:
        y = y + residual
    else:
        fits = torch.broadcast_shapes(y.shape, residual.shape) == y.shape
        y = y.add_(residual) if fits else y + residual
    return y if activation is None else cast(Tensor, activation(y))


def _takes(conv: Any, x: Tensor, residual: Tensor) -> bool:
    """Whether ``residual`` is as the output of a convolution that keeps the image's size."""
    if conv.padding_mode != "zeros" or conv.stride != (1, 1) or isinstance(conv.padding, str) or x.dim() != 4:
        return False
    sizes = zip(conv.padding, conv.dilation, conv.kernel_size, strict=True)
    if any(2 * padding != dilation * (kernel - 1) for padding, dilation, kernel in sizes):
        return False
    same = residual.dtype == x.dtype and residual.device == x.device
    return same and residual.shape == (x.shape[0], conv.out_channels, *x.shape[2:])


def _upsampled(conv: nn.Module, x: Tensor) -> Tensor | None:
    """``conv(F.interpolate(x, scale_factor=2, mode="nearest"))``, or None where that is for torch to compute."""
    if not _is_plain(conv, nn.Conv2d) or not served(conv, x, may_export=True):
        return None
    layer = cast(nn.Conv2d, conv)
    if x.dim() != 4 or x.shape[1] != layer.in_channels or not _can_follow_upsampling(layer):
        return None
    ready = handshake.ready(layer)
    function, negative_slope = (None, 0.2) if ready is None else (ready.function, ready.negative_slope)
    y = ops.upsample_conv2d(
        x,
        layer.weight,
        layer.bias,
        padding=layer.padding,
        groups=layer.groups,
        activation=function,
        negative_slope=negative_slope,
    )
    return y if ready is None else handshake.owe(layer, y)


def _can_follow_upsampling(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and settings_allow(conv.kernel_size, conv.stride, conv.padding, conv.dilation)


def _is_float32_on_cpu(module: nn.Module) -> bool:
    """Where our convolutions are faster than the library's."""
    return all(p.is_cpu and p.dtype == torch.float32 for p in module.parameters())


# ------------------------------------------------------------------------------------------------------ nn.Sequential
def _sequential(stock: Callable[..., Any], layers: nn.Module, input: Any) -> Any:
    following: Any
    modules = iter(itertools.pairwise((*children_of(layers).values(), None)))
    for module, following in modules:
        y = None
        if following is not None and isinstance(input, Tensor) and upsamples_by_2(module):
            y = _upsampled(following, input)
        if y is None:
            input = cast(Any, module)(input)
        else:
            input = y
            next(modules)
    return input


def upsamples_by_2(module: object) -> bool:
    """Whether it is nearest upsampling by 2."""
    if not isinstance(module, nn.Upsample) or not _is_plain(module, nn.Upsample, nn.UpsamplingNearest2d):
        return False
    return module.mode == "nearest" and module.size is None and module.scale_factor in (2, (2, 2))


def _upsamples(layers: nn.Module) -> bool:
    return any(upsamples_by_2(a) and gains_by_upsampling(b) for a, b in itertools.pairwise(layers.children()))


def gains_by_upsampling(conv: nn.Module) -> bool:
    """Whether it is a convolution that nearest upsampling by 2 may be part of, and gains so."""
    return _is_plain(conv, nn.Conv2d) and _can_follow_upsampling(cast(Any, conv)) and _is_float32_on_cpu(conv)


#: Of modules of any class whose forward upsamples its argument by :func:`torch.nn.functional.interpolate`.
LAZY = Adapter(call_lazily, "nearest upsampling + convolution", gains_by_upsampling)


# ---------------------------------------------------------------------------------------------------------- diffusers
def _resnet_block(
    stock: Callable[..., Any], block: Any, input_tensor: Any, temb: Any, *args: Any, **kwargs: Any
) -> Any:
    if args or kwargs or not isinstance(input_tensor, Tensor) or not _is_usual(block):
        return stock(block, input_tensor, temb, *args, **kwargs)
    x = _normalised(block.norm1, block.nonlinearity, input_tensor)
    if block.time_emb_proj is not None:
        if not block.skip_time_act:
            temb = block.nonlinearity(temb)
        temb = block.time_emb_proj(temb)[:, :, None, None]
    shifted = temb is not None and block.time_embedding_norm == "default"
    x = _added(block.conv1, x, temb) if shifted else block.conv1(x)
    x = block.dropout(_normalised(block.norm2, block.nonlinearity, x))
    if block.conv_shortcut is not None:
        input_tensor = block.conv_shortcut(input_tensor)
    x = _added(block.conv2, x, input_tensor)
    return x if block.output_scale_factor == 1 else x / block.output_scale_factor


def _is_usual(block: Any) -> bool:
    return block.upsample is None and block.downsample is None and block.time_embedding_norm != "scale_shift"


def _upsample(
    stock: Callable[..., Any], block: Any, hidden_states: Any, output_size: Any = None, *args: Any, **kwargs: Any
) -> Any:
    y = None
    if not (args or kwargs) and output_size is None and block.norm is None and isinstance(hidden_states, Tensor):
        if block.interpolate and block.use_conv and not block.use_conv_transpose:
            y = _upsampled(block.conv if block.name == "conv" else block.Conv2d_0, hidden_states)
    return stock(block, hidden_states, output_size, *args, **kwargs) if y is None else y


def _downsample(stock: Callable[..., Any], block: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
    conv = block.conv
    if (
        args
        or kwargs
        or not isinstance(hidden_states, Tensor)
        or not (block.use_conv and block.padding == 0 and block.norm is None)
        or not (_is_plain(conv, nn.Conv2d) and conv.padding == (0, 0) and served(conv, hidden_states, may_export=True))
        or hidden_states.shape[1] != block.channels
    ):
        return stock(block, hidden_states, *args, **kwargs)
    geometry = conv.stride, (0, 1, 0, 1), conv.dilation, conv.groups
    return ops.conv2d(hidden_states, conv.weight, conv.bias, *geometry)


def _tiny_block(stock: Callable[..., Any], block: Any, x: Any) -> Any:
    layers = block.conv
    if not isinstance(x, Tensor) or not _is_plain(layers, nn.Sequential) or len(layers) != 5:
        return stock(block, x)
    skip = x if _is_plain(block.skip, nn.Identity) else block.skip(x)
    for conv, activation in ((layers[0], layers[1]), (layers[2], layers[3])):
        x = _convolved(conv, activation, x)
    return _added(layers[4], x, skip, block.fuse)


def _in_channels_last(stock: Callable[..., Any], model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Stock's forward, of a first argument that is turned to channels_last; what comes out is turned back.

    The layout goes through all layers in between, of ours and of torch's, without any change of the weights.
    """
    x = args[0] if args else None
    if not (isinstance(x, Tensor) and x.dim() == 4 and x.is_cpu and x.dtype == torch.float32) or is_channels_last(x):
        return stock(model, *args, **kwargs)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or is_channels_last(first.weight):
        return stock(model, *args, **kwargs)
    output = stock(model, x.contiguous(memory_format=torch.channels_last), *args[1:], **kwargs)
    return tree_map_only(Tensor, lambda t: t.contiguous() if t.dim() == 4 else t, output)


_AUTOENCODER, _U_NET = "diffusers.models.autoencoders.vae", "diffusers.models.unets"
# Sources: diffusers 0.30 to 0.42, whose forwards differ in layouts and in words alone.
_CHANNELS_LAST = Adapter(_in_channels_last, "in channels_last", _is_float32_on_cpu, alone=False)
_ADAPTERS = {
    "torch.nn.modules.container.Sequential": Adapter(
        _sequential, "nearest upsampling + convolution", _upsamples, alone=False
    ),
    "diffusers.models.resnet.ResnetBlock2D": Adapter(
        _resnet_block,
        "group norms + activation, convolution + residual",
        _is_usual,
        frozenset(["14eee5641d695fd9", "19fb5f7d94caf766", "09614de2c837ddb5"]),
    ),
    "diffusers.models.upsampling.Upsample2D": Adapter(
        _upsample,
        "nearest upsampling + convolution",
        lambda block: bool(block.use_conv and block.interpolate) and _is_float32_on_cpu(block),
        frozenset(["92c07c0bcc0be7f9", "1aee130d64783466", "104b2a8bff44ad67"]),
    ),
    "diffusers.models.downsampling.Downsample2D": Adapter(
        _downsample,
        "padding inside the convolution",
        lambda block: bool(block.use_conv and block.padding == 0) and _is_float32_on_cpu(block),
        frozenset(["0a4170ae11914fea"]),
    ),
    f"{_U_NET}.unet_2d_blocks.AutoencoderTinyBlock": Adapter(
        _tiny_block,
        "convolutions + activation + residual",
        lambda block: _name(cast(Any, block.conv)[1]) is not None,
        frozenset(["500f170d5673db95"]),
    ),
    f"{_AUTOENCODER}.Encoder": _CHANNELS_LAST,
    f"{_AUTOENCODER}.Decoder": _CHANNELS_LAST,
    f"{_AUTOENCODER}.EncoderTiny": _CHANNELS_LAST,
    f"{_AUTOENCODER}.DecoderTiny": _CHANNELS_LAST,
    f"{_U_NET}.unet_2d.UNet2DModel": _CHANNELS_LAST,
    f"{_U_NET}.unet_2d_condition.UNet2DConditionModel": _CHANNELS_LAST,
}
handshake.ADAPTERS.update(_ADAPTERS)
handshake.ADAPTERS[handshake.ANY_CLASS] = LAZY
