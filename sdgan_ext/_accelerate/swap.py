"""Gives a layer and the activation behind it our classes, or a module its adapter, and takes them back."""

from __future__ import annotations

from torch import nn

from . import handshake
from .chains import Chain
from .layers import to_ours, to_stock

__all__ = ["Adaptation", "Swap", "drop_idle_scopes", "restore"]


class Swap:
    """Of ``layer`` and, where a chain is given, of the activation behind it."""

    def __init__(self, layer: nn.Module, chain: Chain | None = None):
        self.layer, self.chain = layer, chain
        if chain is not None:
            handshake.make_scope(chain.scope, chain.between, chain.moving)
            self._link = handshake.Link.between(chain.scope, layer, chain.follower)

    def fuse(self) -> None:
        to_ours(self.layer)
        if self.chain is not None:
            to_ours(self.chain.follower)
            handshake.link(self._link, self.layer, self.chain.follower)

    def undo(self) -> None:
        to_stock(self.layer)
        if self.chain is not None:
            to_stock(self.chain.follower)


class Adaptation:
    """Of a module that has an adapter."""

    def __init__(self, module: nn.Module):
        self.module = module

    def fuse(self) -> None:
        handshake.adapt(self.module)

    def undo(self) -> None:
        handshake.unadapt(self.module)


def restore(model: nn.Module) -> list[str]:
    """Back to torch's classes; the names of the modules that were changed."""
    changed = [name for name, module in model.named_modules() if to_stock(module) or handshake.unadapt(module)]
    for module in model.modules():
        handshake.unmake_scope(module)
    return changed


def drop_idle_scopes(model: nn.Module) -> None:
    """Makes modules in which nothing is linked any more what they were."""
    live = {handshake.link_of(module) for module in model.modules()}
    for module in model.modules():
        if handshake.is_idle_scope(module, live):
            handshake.unmake_scope(module)
