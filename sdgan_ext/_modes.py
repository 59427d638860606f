"""The mode of a module, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["evaluation_mode", "undisturbed"]


@contextlib.contextmanager
def evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode (batch norm by its running statistics), and then each module's own mode again."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextlib.contextmanager
def undisturbed(module: torch.nn.Module) -> Iterator[None]:
    """torch's random state comes back as it was, on the CPU and on the devices of ``module``, whatever it draws."""
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers()) if tensor.is_cuda}
    with torch.random.fork_rng(sorted(device.index for device in devices)):
        yield
