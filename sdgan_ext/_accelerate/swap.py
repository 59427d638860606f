"""A layer and the activation behind it change places with ours, in their parents: who else holds the originals, another
model or a default argument, keeps what they do. Ours share the originals' parameters, buffers and hooks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .._torch_internals import children_of
from .rules import FUSED

__all__ = ["Absorbed", "Swap", "restore"]

# In __dict__ alone: they are no submodules, but deepcopy and pickle carry them.
_ORIGINAL, _PARTNERS = "_original_of_accelerate", "_partners_of_accelerate"


class Absorbed(nn.Module):
    """Stands where an activation was that the layer before computes now. Returns its input."""

    def forward(self, input: Tensor) -> Tensor:
        return input

    def extra_repr(self) -> str:
        return f"{self.__dict__[_ORIGINAL]}, by the layer before"


class Swap:
    """Of ``layer``, which gets the activation named ``function``, and of the module ``activation``, where one is given.

    Attributes:
        probe: both behind each other, for a measurement; they change there too.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module,
        activation: nn.Module | None,
        function: str | None,
        negative_slope: float,
    ):
        kind = FUSED[type(layer)]
        settings: dict[str, Any] = {"activation": function, "negative_slope": negative_slope}
        if isinstance(layer, nn.ConvTranspose2d):
            settings["crop"] = None
        pairs = [(layer, _like(layer, kind, settings))]
        if activation is not None:
            pairs.append((activation, _like(activation, Absorbed, {})))
        for _, ours in pairs:
            ours.__dict__[_PARTNERS] = [other for _, other in pairs]
        self.probe = nn.Sequential(*(stock for stock, _ in pairs))
        self._places = [
            (children_of(parent), name, stock, ours)
            for stock, ours in pairs
            for parent in (*model.modules(), self.probe)
            for name, child in children_of(parent).items()
            if child is stock
        ]

    def fuse(self) -> None:
        for children, name, stock, ours in self._places:
            ours.training = stock.training
            children[name] = ours

    def undo(self) -> None:
        for children, name, stock, _ in self._places:
            children[name] = stock


def restore(model: nn.Module) -> list[str]:
    """Puts the originals back, with the present mode; the names of what was changed.

    Raises:
        ValueError: ``model`` is part of what was accelerated, and one of a pair is outside of it; nothing is changed.
    """
    changed = [(name, module) for name, module in model.named_modules() if _ORIGINAL in module.__dict__]
    inside = {module for _, module in changed}
    for name, module in changed:
        if not inside.issuperset(module.__dict__[_PARTNERS]):
            raise ValueError(
                f"{name} is one of a layer and its activation, and the other is outside; restore the whole"
            )
    for name, module in changed:
        parent, _, child = name.rpartition(".")
        original = module.__dict__[_ORIGINAL]
        original.training = module.training
        children_of(model.get_submodule(parent))[child] = original
    return [name for name, _ in changed]


def _like(module: nn.Module, kind: type[nn.Module], settings: dict[str, Any]) -> nn.Module:
    """A ``kind`` with the state of ``module``: the very dictionaries, so that neither can leave the other behind."""
    made = kind.__new__(kind)
    made.__dict__.update(module.__dict__, **settings, **{_ORIGINAL: module})
    return made
