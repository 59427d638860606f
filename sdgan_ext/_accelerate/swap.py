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
        self.modules, self._link = [layer], None
        if chain is not None:
            if isinstance(chain.follower, nn.Module):
                self.modules.append(chain.follower)
            handshake.make_scope(chain.scope, chain.between, chain.moving)
            self._link = handshake.Link.between(chain.scope, layer, chain.follower)

    def fuse(self) -> None:
        for module in self.modules:
            to_ours(module)
        if self._link is not None:
            handshake.link(self._link, *self.modules)

    def undo(self) -> None:
        for module in self.modules:
            to_stock(module)


class Adaptation:
    """Of a module by the adapter of its class, or by the one for any class."""

    def __init__(self, module: nn.Module, *, any_class: bool = False):
        self.module = module
        self.name = handshake.ANY_CLASS if any_class else handshake.name_of(type(module))

    def fuse(self) -> None:
        handshake.adapt(self.module, self.name)

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
