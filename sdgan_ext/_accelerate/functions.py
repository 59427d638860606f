"""Activations that are functions in a forward, as torch.fx and ``__torch_function__`` show their calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops._enums import Activation

__all__ = ["Function"]


@dataclass(frozen=True)
class Function:
    """
    Attributes:
        name, negative_slope: what it computes, in the words of ``ops``.
    """

    name: Activation
    negative_slope: float = 0.2

    @classmethod
    def of_call(cls, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Function | None:
        """That of a call with a tensor and nothing else but settings that ``ops`` has."""
        name = _NAMES.get(getattr(Tensor, function, None) if isinstance(function, str) else function)
        settings = {key: value for key, value in kwargs.items() if key != "inplace"}
        negative_slope = settings.pop("negative_slope", 0.01) if name == "leaky_relu" else 0.2
        alpha = settings.pop("alpha", 1) if name == "elu" else 1
        if name is None or len(args) != 1 or settings or alpha != 1:
            return None
        return cls(name, negative_slope) if isinstance(negative_slope, float) and negative_slope >= 0 else None

    def module(self) -> nn.Module:
        """The module that computes the same."""
        return nn.LeakyReLU(self.negative_slope) if self.name == "leaky_relu" else _MODULES[self.name]()

    def __str__(self) -> str:
        return f"the function {self.name}"


_NAMES: dict[Any, Activation] = {
    F.relu: "relu",
    torch.relu: "relu",
    Tensor.relu: "relu",
    F.leaky_relu: "leaky_relu",
    torch.tanh: "tanh",
    Tensor.tanh: "tanh",
    torch.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    F.silu: "silu",
    F.elu: "elu",
}
_MODULES: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "elu": nn.ELU,
}
