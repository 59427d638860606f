"""Batch normalisation with a fused activation."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from .._torch_internals import check_input_dim
from ..ops._enums import Activation
from .conv import _Activated

__all__ = ["BatchNorm2d"]


class BatchNorm2d(_Activated, torch.nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` followed by an activation, in one operation.

    Equivalent to ``torch.nn.Sequential(torch.nn.BatchNorm2d(...), torch.nn.ReLU())`` for ``activation="relu"``, with
    the state dict of the normalisation alone.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype: as torch's; ``momentum=None`` makes the
            running statistics the average over all batches.
        activation: None, ``relu``, ``leaky_relu``, ``tanh``, ``sigmoid``, ``silu`` or ``elu``.
        negative_slope: factor of ``leaky_relu`` below zero.

    Shape:
        ``[N, C, H, W]`` to the same, in the memory layout of the input.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: Ioffe & Szegedy 2015; :func:`sdgan_ext.ops.batch_norm`.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: Activation | None = None,
        negative_slope: float = 0.2,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self._set_activation(activation, negative_slope)

    def forward(self, input: Tensor) -> Tensor:
        return self._activated(input, self.activation, self.negative_slope)

    def _activated(self, input: Tensor, activation: Activation | None, negative_slope: float) -> Tensor:
        check_input_dim(self, input)
        tracks = not self.training or self.track_running_stats
        momentum = self.momentum
        if self.training and tracks and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        return ops.batch_norm(
            input,
            self.running_mean if tracks else None,
            self.running_var if tracks else None,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            0.0 if momentum is None else momentum,
            self.eps,
            activation=activation,
            negative_slope=negative_slope,
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + self._activation_repr()
