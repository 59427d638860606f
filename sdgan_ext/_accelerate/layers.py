"""The classes that a model's own modules have while it is accelerated; the objects stay the user's.

A layer computes with our operators, the activation in the same operation where :mod:`.handshake` allows it. What ours
do not serve (float16 on the CPU, another device, an export to torch's own operators) torch's own forward computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from .. import nn as ours
from .. import ops
from .._torch_internals import FakeTensor, autocast_to_half, exporting, run_plain_convolution
from ..ops._checks import CUDA_OBSTACLE, HALVES
from ..ops._enums import DTYPES, Activation
from . import handshake

__all__ = ["ACTIVATIONS", "LAYERS", "served", "to_ours", "to_stock"]


# ------------------------------------------------------------------------------------------------------ activations
class _Absorbed(nn.Module):
    """Passes on what the layer before has activated, and is the activation itself for all else.

    Attributes:
        computes: its name in ``ops``.
    """

    computes: Activation

    def forward(self, input: Tensor) -> Tensor:
        if not isinstance(self, _Absorbed):
            return _restored(self, input)
        if not handshake.pay(self, input):
            return _leaf(self, input) if isinstance(input, fx.Proxy) else super().forward(input)
        return input if torch.is_grad_enabled() or not input.requires_grad else input.detach()

    def __prepare_scriptable__(self) -> nn.Module:
        raise handshake.no_script()

    def extra_repr(self) -> str:
        pair = handshake.link_of(self)
        own = super().extra_repr()
        return own if pair is None else f"{own}{', ' if own else ''}computed by {'.'.join(pair.layer)}"


class ReLU(_Absorbed, nn.ReLU):
    computes = "relu"


class LeakyReLU(_Absorbed, nn.LeakyReLU):
    computes = "leaky_relu"


class Tanh(_Absorbed, nn.Tanh):
    computes = "tanh"


class Sigmoid(_Absorbed, nn.Sigmoid):
    computes = "sigmoid"


class SiLU(_Absorbed, nn.SiLU):
    computes = "silu"


class ELU(_Absorbed, nn.ELU):
    computes = "elu"


#: Of torch's activations, ours.
ACTIVATIONS: dict[type[nn.Module], type[_Absorbed]] = {
    nn.ReLU: ReLU,
    nn.LeakyReLU: LeakyReLU,
    nn.Tanh: Tanh,
    nn.Sigmoid: Sigmoid,
    nn.SiLU: SiLU,
    nn.ELU: ELU,
}


# ----------------------------------------------------------------------------------------------------------- layers
class _Layer(nn.Module):
    """A layer of ours whose activation is the one that its call allows."""

    activation: Activation | None = None
    negative_slope: float = 0.2

    def _stock(self, input: Tensor, *args: Any) -> Tensor:
        raise NotImplementedError

    def _fused(self, input: Tensor, activation: Activation | None, negative_slope: float, *args: Any) -> Tensor:
        raise NotImplementedError

    def forward(self, input: Tensor, *args: Any) -> Tensor:
        if not isinstance(self, _Layer):
            return _restored(self, input, *args)
        ready = handshake.ready(self)
        if not served(self, input, may_export=ready is None):
            if isinstance(input, fx.Proxy):
                return _leaf(self, input, *args)
            if input.is_quantized:
                raise RuntimeError(
                    f"the model was quantised, its accelerated layers were not; {_RESTORE}, then quantise"
                )
            return self._stock(input, *args)
        if ready is None:
            return self._fused(input, None, 0.2, *args)
        return handshake.owe(self, self._fused(input, ready.function, ready.negative_slope, *args))

    def __prepare_scriptable__(self) -> nn.Module:
        raise handshake.no_script()

    def extra_repr(self) -> str:
        pair = handshake.link_of(self)
        return super().extra_repr() + (f", fused with {pair.follower}" if pair else "")


class Conv2d(_Layer, ours.Conv2d):
    def _stock(self, input: Tensor, *args: Any) -> Tensor:
        return run_plain_convolution(self, input)

    def _fused(self, input: Tensor, activation: Activation | None, negative_slope: float, *args: Any) -> Tensor:
        return self._activated(input, self.weight, self.bias, activation, negative_slope)


class ConvTranspose2d(_Layer, ours.ConvTranspose2d):
    crop: tuple[int, ...] | None = None

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(input) if output_size is None else super().forward(input, output_size)

    def _stock(self, input: Tensor, *args: Any) -> Tensor:
        return nn.ConvTranspose2d.forward(self, input, *args)

    def _fused(self, input: Tensor, activation: Activation | None, negative_slope: float, *args: Any) -> Tensor:
        (output_size,) = args or (None,)
        return self._activated(input, output_size, activation, negative_slope)


class BatchNorm2d(_Layer, ours.BatchNorm2d):
    def _stock(self, input: Tensor, *args: Any) -> Tensor:
        return nn.BatchNorm2d.forward(self, input)

    def _fused(self, input: Tensor, activation: Activation | None, negative_slope: float, *args: Any) -> Tensor:
        return self._activated(input, activation, negative_slope)


class GroupNorm(_Layer, ours.GroupNorm):
    def _stock(self, input: Tensor, *args: Any) -> Tensor:
        return nn.GroupNorm.forward(self, input)

    def _fused(self, input: Tensor, activation: Activation | None, negative_slope: float, *args: Any) -> Tensor:
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        if input.is_cuda and torch.is_autocast_enabled("cuda"):  # where torch's is one of float32
            input = input.float()
            weight, bias = (None if t is None else t.float() for t in (weight, bias))
        return ops.group_norm(
            input, self.num_groups, weight, bias, self.eps, activation=activation, negative_slope=negative_slope
        )


#: Of torch's layers, ours.
LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.GroupNorm: GroupNorm,
}


_TENSORS = {Tensor, nn.Parameter, FakeTensor}  # other classes, of quantised weights say, have operators of their own


def served(layer: nn.Module, input: Tensor, *, may_export: bool) -> bool:
    """Whether our operators take this call. The weight of a parametrised layer is not looked at: it costs, or moves."""
    if may_export and exporting():
        return False  # what is exported shall run where this package is not
    weight = layer.__dict__["_parameters"].get("weight")
    if input.__class__ is Tensor and weight.__class__ is nn.Parameter:
        if input.is_cpu and input.dtype is torch.float32 and weight.dtype is torch.float32:
            return not autocast_to_half()  # as is most often so
    if not _can_serve(input) or not (weight is None or _can_serve(weight)):
        return False
    return not (input.is_cpu and autocast_to_half())


def _can_serve(tensor: Tensor) -> bool:
    if tensor.__class__ not in _TENSORS or tensor.dtype not in DTYPES:
        return False
    return tensor.dtype not in HALVES if tensor.is_cpu else tensor.is_cuda and not CUDA_OBSTACLE


def _leaf(module: nn.Module, input: Any, *args: Any) -> Any:
    """For torch.fx a module of these classes is what torch's own is: a node."""
    tracer = input.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (input, *args), {})


def _restored(module: nn.Module, input: Tensor, *args: Any) -> Tensor:
    """For who kept this forward, bound or in a class of his own, when the model was restored."""
    stock = next(kind for kind in _OURS if isinstance(module, kind))
    return stock.forward(module, input, *args)


_RESTORE = "call sdgan_ext.restore(model) first"


# --------------------------------------------------------------------------------------------------------- exchange
handshake.FUSES.update(LAYERS.values())
handshake.COMPUTES.update((kind, kind.computes) for kind in ACTIVATIONS.values())

_OURS: dict[type[nn.Module], type[nn.Module]] = {**LAYERS, **ACTIVATIONS}
_STOCK = {new: stock for stock, new in _OURS.items()}


def to_ours(module: nn.Module) -> None:
    """From torch's class to that of the same name here."""
    module.__class__ = _OURS[type(module)]


def to_stock(module: nn.Module) -> bool:
    """Back again; False for a module that has none of these classes.

    A class that someone has derived for this module since (a parametrisation) is derived from torch's then.
    """
    kind = type(module)
    if not issubclass(kind, (_Layer, _Absorbed)):
        return False
    if kind in _STOCK:
        module.__class__ = _STOCK[kind]
    else:
        kind.__bases__ = tuple(_STOCK.get(base, base) for base in kind.__bases__)
    handshake.unlink(module)
    return True
