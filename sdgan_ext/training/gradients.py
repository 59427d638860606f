"""Who gets which gradient: networks that take none, gradients that are set, and bounds on them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.parametrize import is_parametrized

from ..losses import weight_penalty
from ..models.vae_gan import VAEGAN
from .config import TrainConfig

__all__ = ["clip_gradients", "frozen", "set_gradients"]


@contextlib.contextmanager
def frozen(network: torch.nn.Module) -> Iterator[None]:
    """``network`` as a fixed function: its parameters take no gradient, and its buffers come back as they were.

    Batch norm goes on normalising by the batch, but the batches seen here leave no trace in its running statistics;
    spectral norm divides by the singular values that it last found.
    """
    modules = list(network.modules())
    buffers = [(module, name, buffer) for module in modules for name, buffer in module.named_buffers(recurse=False)]
    parametrizations = [module.parametrizations for module in modules if is_parametrized(module)]
    modes = [(part, part.training) for whole in parametrizations for part in whole.modules()]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for module, name, buffer in buffers:  # replaced, not restored in place: a graph may have saved them
            setattr(module, name, buffer.clone())
        for part, _ in modes:
            part.training = False
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for part, training in modes:
            part.training = training
        for module, name, buffer in buffers:
            setattr(module, name, buffer)


def set_gradients(
    networks: Sequence[torch.nn.Module],
    outputs: Sequence[Tensor],
    slopes: Sequence[Tensor | None] | None,
    config: TrainConfig,
) -> dict[str, Tensor]:
    """Parameters of ``networks`` get the gradient of ``outputs`` weighted by ``slopes``, in place of what they had.

    ``config.weight_l1`` and ``weight_l2`` are part of it: the penalty is returned as ``{"weights": ...}``, where there
    is one.
    """
    parameters = list(itertools.chain.from_iterable(network.parameters() for network in networks))
    for parameter in parameters:
        parameter.grad = None
    terms = {}
    if config.weight_l1 or config.weight_l2:
        terms["weights"] = weight_penalty(parameters, config.weight_l1, config.weight_l2)
        slopes = [*(slopes or [None] * len(outputs)), None]
        outputs = [*outputs, terms["weights"]]
    torch.autograd.backward(outputs, slopes, inputs=parameters)
    return terms


def clip_gradients(model: VAEGAN, names: Iterable[str], config: TrainConfig) -> dict[str, Tensor]:
    """Scales the gradient of each network in ``names`` down to its ``config.clip_<name>``, where that is above 0.

    The norm is of all its parameters as one vector (Pascanu et al. 2013). Between a phase and its optimizers; where
    gradients are summed over processes, after that.

    Returns:
        ``{"gradient_norm_<name>": norm}`` before clipping, of those with a bound.
    """
    norms = {}
    for name in names:
        bound = getattr(config, f"clip_{name}")
        if bound > 0:
            norms[f"gradient_norm_{name}"] = clip_grad_norm_(getattr(model, name).parameters(), bound)
    return norms
