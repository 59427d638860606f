"""Which network gets which gradient: frozen networks and parameters, gradients that are set, and bounds on them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.parametrize import is_parametrized

from ..losses import weight_penalty
from .config import TrainConfig

if TYPE_CHECKING:
    from .networks import Model

__all__ = ["clip_gradients", "frozen", "is_frozen", "set_gradients", "train_mode"]

_NETWORKS = ("encoder", "generator", "discriminator")


@contextlib.contextmanager
def frozen(network: torch.nn.Module) -> Iterator[None]:
    """``network`` as a fixed function: its parameters take no gradient, and its buffers come back as they were.

    Batch norm goes on normalising by the batch, but the batches meanwhile leave no trace in its running statistics;
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


def is_frozen(network: torch.nn.Module | None) -> bool:
    """Whether no parameter of ``network`` is trained; None, a network that is not there, has none."""
    return network is None or not any(parameter.requires_grad for parameter in network.parameters())


def train_mode(model: Model) -> None:
    """Training mode, but evaluation mode for a network that is wholly frozen: its buffers stay as they are too."""
    model.train()
    for name in _NETWORKS:
        network = getattr(model, name)
        if network is not None and is_frozen(network):
            network.eval()


def set_gradients(
    networks: Sequence[torch.nn.Module],
    outputs: Sequence[Tensor],
    output_gradients: Sequence[Tensor | None] | None,
    config: TrainConfig,
) -> dict[str, Tensor]:
    """Parameters of ``networks`` get the gradient of ``outputs`` weighted by ``output_gradients``.

    It takes the place of the gradient they had. Parameters with ``requires_grad=False`` get None, and outputs that
    depend on no trained parameter are left out.

    ``config.weight_l1`` and ``weight_l2`` are part of it: the penalty is returned as ``{"weights": ...}``, where there
    is one.
    """
    parameters = list(itertools.chain.from_iterable(network.parameters() for network in networks))
    for parameter in parameters:
        parameter.grad = None
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    given = zip(outputs, output_gradients or [None] * len(outputs), strict=True)
    pairs = [(output, gradient) for output, gradient in given if output.requires_grad]
    terms = {}
    if (config.weight_l1 or config.weight_l2) and any(parameter.dim() > 1 for parameter in trained):
        terms["weights"] = weight_penalty(trained, config.weight_l1, config.weight_l2)
        pairs.append((terms["weights"], None))
    if trained and pairs:
        torch.autograd.backward(*zip(*pairs, strict=True), inputs=trained)
    return terms


def clip_gradients(model: Model, names: Iterable[str], config: TrainConfig) -> dict[str, Tensor]:
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
