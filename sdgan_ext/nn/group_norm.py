"""Group normalisation with a fused activation."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..ops._enums import Activation
from .conv import _Activated

__all__ = ["GroupNorm"]


class GroupNorm(_Activated, torch.nn.GroupNorm):
    """:class:`torch.nn.GroupNorm` followed by an activation, in one operation.

    Equivalent to ``torch.nn.Sequential(torch.nn.GroupNorm(...), torch.nn.SiLU())`` for ``activation="silu"``, with the
    state dict of the normalisation alone.

    Args:
        num_groups, num_channels, eps, affine, device, dtype: as torch's.
        activation: None, ``relu``, ``leaky_relu``, ``tanh``, ``sigmoid``, ``silu`` or ``elu``.
        negative_slope: factor of ``leaky_relu`` below zero.

    Shape:
        ``[N, C, ...]`` to the same, in the memory layout of the input.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: Wu & He 2018; :func:`sdgan_ext.ops.group_norm`.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: Activation | None = None,
        negative_slope: float = 0.2,
    ):
        if num_groups < 1 or num_channels % num_groups != 0:
            raise ValueError(f"num_groups is {num_groups}; it must divide num_channels, which is {num_channels}")
        super().__init__(num_groups, num_channels, eps, affine, device=device, dtype=dtype)
        self._set_activation(activation, negative_slope)

    def forward(self, input: Tensor) -> Tensor:
        return self._activated(input, self.activation, self.negative_slope)

    def _activated(self, input: Tensor, activation: Activation | None, negative_slope: float) -> Tensor:
        return ops.group_norm(
            input,
            self.num_groups,
            self.weight,
            self.bias,
            self.eps,
            activation=activation,
            negative_slope=negative_slope,
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + self._activation_repr()
