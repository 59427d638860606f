"""Batch norm over the batches of several processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._peers import sum_over_processes
from .._torch_internals import check_input_dim
from ..ops import reference
from .batch_norm import BatchNorm2d

__all__ = ["SyncBatchNorm2d", "synchronise"]


class _SumOverProcesses(torch.autograd.Function):
    """A loss of each process depends on every process's summand, and the losses are added."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        sum_over_processes(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _SumOverProcesses.apply(grad.contiguous())


class SyncBatchNorm2d(BatchNorm2d):
    """:class:`BatchNorm2d` whose mean and variance, in training, are those of all processes' batches together.

    On the CPU too, which :class:`torch.nn.SyncBatchNorm` does not do. In plain torch operations, differentiable any
    number of times; with one process, and in evaluation, it is :class:`BatchNorm2d`.

    Equivalent to :class:`BatchNorm2d` on ``torch.cat`` of the batches of all processes.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype, activation, negative_slope: as of
            :class:`BatchNorm2d`.

    Shape:
        ``[N, C, H, W]`` to the same. N may differ from process to process.

    Raises:
        TypeError, ValueError: as :class:`BatchNorm2d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        check_input_dim(self, input)
        x = input.float()
        per_channel, shape = (0, 2, 3), (1, -1, 1, 1)
        count = x.new_tensor([x.numel() / x.shape[1]])
        *sums, count = _SumOverProcesses.apply(torch.cat([x.sum(per_channel), count])).split([x.shape[1], 1])
        mean = sums[0] / count
        centred = x - mean.view(shape)
        var = _SumOverProcesses.apply(centred.square().sum(per_channel)) / count
        y = centred * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.float().view(shape) + self.bias.float().view(shape)
        self._track(mean.detach(), (var * count / (count - 1)).detach())
        return reference.activate(y, self.activation, self.negative_slope).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return  # without track_running_stats
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(var.to(self.running_var.dtype), momentum)


def synchronise(model: nn.Module) -> int:
    """Makes every :class:`BatchNorm2d` of ours in ``model`` a :class:`SyncBatchNorm2d`, in place.

    The modules, their weights and their names in the state dict stay. Returns how many there are.
    """
    norms = [module for module in model.modules() if isinstance(module, BatchNorm2d)]
    for norm in norms:
        norm.__class__ = SyncBatchNorm2d
    return len(norms)
