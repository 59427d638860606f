"""Layers become ours by changing their class. Ours are subclasses of torch's with the same state, so the object stays:
parameters, buffers, hooks, names and whoever else holds it notice nothing, and so do deepcopy and pickle."""

from __future__ import annotations

from torch import Tensor, nn

from .rules import FUSED

__all__ = ["Absorbed", "fuse", "restore_module"]

_BEFORE = "_class_before_accelerate"


class Absorbed(nn.Module):
    """Stands where an activation was that the layer before computes now. Returns its input."""

    def forward(self, input: Tensor) -> Tensor:
        return input

    def extra_repr(self) -> str:
        return f"{self.__dict__[_BEFORE].__name__}, by the layer before"


def fuse(layer: nn.Module, activation: nn.Module | None, name: str | None, slope: float) -> None:
    """``layer`` becomes ours with the activation called ``name``; ``activation`` becomes :class:`Absorbed`."""
    _retype(layer, FUSED[type(layer)])
    if isinstance(layer, nn.ConvTranspose2d):
        layer.crop = None
    layer.activation, layer.negative_slope = name, slope
    if activation is not None:
        _retype(activation, Absorbed)


def restore_module(module: nn.Module) -> bool:
    """Whether it was one of ours by :func:`fuse`; it is torch's again."""
    before = module.__dict__.pop(_BEFORE, None)
    if before is None:
        return False
    module.__class__ = before
    for name in ("activation", "negative_slope", "crop"):
        if not isinstance(module, nn.LeakyReLU):
            module.__dict__.pop(name, None)
    return True


def _retype(module: nn.Module, to: type) -> None:
    module.__dict__[_BEFORE] = type(module)
    module.__class__ = to
