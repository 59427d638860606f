"""``sd.accelerate`` and ``sd.restore``: a user's own model on our layers, and back. docs/accelerate.md."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .. import nn as ours
from . import measure
from .chains import Chain, Flow, chain_of, flow_of
from .layers import ACTIVATIONS
from .report import Change, Left, Report, Speedup
from .rules import (
    activation_of,
    check_model,
    held_outside,
    layer_obstacle,
    looks_like_a_layer,
    nothing_gained,
)
from .swap import Swap, drop_idle_scopes
from .swap import restore as _restore

__all__ = ["Change", "Left", "Report", "Speedup", "accelerate", "restore"]


def accelerate(model: nn.Module, example_inputs: Tensor | tuple[Any, ...] | dict[str, Any] | None = None) -> Report:
    """Makes the convolutions and batch norms of any model ours, each with the activation behind it, in place.

    ::

        print(sd.accelerate(model, torch.randn(16, 3, 64, 64)))

    Parameters, buffers, their names in the state dict, hooks and ``train``/``eval`` stay, the tensors as the same
    objects: an optimizer made before goes on, and a checkpoint of either model loads in the other. An activation
    is taken over where the data flow proves that the layer's output goes there and nowhere else (torch.fx, in training
    and in evaluation mode; ``nn.Sequential`` by its definition). All else is left as it is; the report says why.

    The modules stay the same objects, of other classes. A part of the model that is taken out, replaced, wrapped or
    hooked afterwards computes what stock would (docs/accelerate.md); called again, this function plans all anew.

    Args:
        model: changed in place. Of DataParallel and DistributedDataParallel the module inside.
        example_inputs: what to call the model with: a tensor, a tuple of its arguments or a dict of its keywords. With
            them, results and gradients are compared with stock's, and all is put back if they differ; each layer is
            measured at the shapes of its inputs, and put back where stock is faster; and the report has the speed-ups.
            It takes seconds. Without, rules made of measurements decide.

    Returns:
        A :class:`Report` that prints as a table.

    Raises:
        TypeError, ValueError: the model is compiled, scripted, wrapped by FSDP, on the meta device or on several, or
            the example is none; nothing was changed.
    """
    model = check_model(model)
    example = None if example_inputs is None else measure.Example(model, example_inputs)
    _restore(model)  # who calls it again has changed something: all is planned anew
    stock = [] if example is None else example.results()  # what the model itself raises, it raises before any change
    plans, left = _plan(model, by_rule=example is None)
    for plan in plans:
        plan.swap.fuse()
    if example is None:
        return Report(tuple(plan.change(Speedup()) for plan in plans), tuple(left))
    different = _compare(example, stock)
    if different is not None:
        return _put_back(model, plans, left, different)
    kept, slower = _keep_what_wins(example, plans)
    whole = _measure_model(example, kept) if kept else Speedup()
    if kept and whole.slowest < 0.97:
        why = f"the whole model was slower, forward and training {whole}"
        return _put_back(model, kept, [*left, *slower], why)
    drop_idle_scopes(model)
    return Report(tuple(plan.change(ratio) for plan, ratio in kept.items()), (*left, *slower), whole)


def restore(model: nn.Module) -> list[str]:
    """Undoes :func:`accelerate`: the modules have torch's classes again.

    Weights, buffers, modes and what was changed or parametrised since stay as they are now. ``model`` may be a part of
    what was accelerated.

    Returns:
        The names of the modules that were changed back; an empty list for a model that was not accelerated.

    Raises:
        TypeError: model is no ``torch.nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
    return _restore(model)


class _Plan:
    """A layer to make ours, with the activation at the end of ``chain``.

    Attributes:
        name, words, took: for the report.
        swap: makes them ours and undoes it.
        probe, probe_swap: the same of copies that share the tensors, one behind the other, to be measured alone.
    """

    def __init__(self, name: str, layer: nn.Module, chain: Chain | None = None, took: str | None = None):
        self.name, self.layer, self.took = name, layer, took
        self.words = type(layer).__name__
        self.swap = Swap(layer, chain)
        self.probe = nn.Sequential(copy.copy(layer))
        probe_chain = None
        if chain is not None:
            self.words += f" + {ACTIVATIONS[type(chain.follower)].computes}"
            self.probe.append(copy.copy(chain.follower))
            probe_chain = Chain(self.probe[1], self.probe, frozenset(), frozenset())
        self.probe_swap = Swap(self.probe[0], probe_chain)

    def change(self, speedup: Speedup) -> Change:
        return Change(self.name, self.words, self.took, speedup)


def _plan(model: nn.Module, *, by_rule: bool) -> tuple[list[_Plan], list[Left]]:
    flow, aliases = flow_of(model), held_outside(model)
    flows: dict[nn.Module, Flow] = {}
    names = {module: name for name, module in model.named_modules()}
    plans, left = [], []
    for layer, name in names.items():
        if not looks_like_a_layer(layer) or isinstance(layer, (ours.Conv2d, ours.ConvTranspose2d, ours.BatchNorm2d)):
            continue
        obstacle = layer_obstacle(layer)
        if layer in aliases:
            obstacle = obstacle or "the model holds it a second time, outside of its modules"
        if obstacle:
            left.append(Left(name, type(layer).__name__, obstacle))
            continue
        found = activation_of(layer, flow)
        if found in aliases:
            found = "the model holds what follows a second time, outside of its modules"
        if isinstance(found, nn.Module):
            plans.append(_Plan(name, layer, chain_of(layer, flow, flows), names[found]))
        elif by_rule and (reason := nothing_gained(layer)):
            left.append(Left(name, type(layer).__name__, f"{reason}; no activation to take over: {found}"))
        else:
            plans.append(_Plan(name, layer))
    return plans, left


def _compare(example: measure.Example, stock: list[Tensor]) -> str | None:
    try:
        return measure.difference(example.results(), stock)
    except Exception as error:  # whatever it is, the user's model shall work as it did
        return f"it raised {type(error).__name__}: {str(error).splitlines()[0]}"


def _put_back(model: nn.Module, plans: Iterable[_Plan], left: list[Left], why: str) -> Report:
    _restore(model)
    return Report(left=(*(Left(plan.name, plan.words, f"put back, {why}") for plan in plans), *left))


def _keep_what_wins(example: measure.Example, plans: list[_Plan]) -> tuple[dict[_Plan, Speedup], list[Left]]:
    """Measures each layer and puts back what is slower: what is kept, with its speed-up, and what is not."""
    inputs = measure.inputs_seen(example, [plan.layer for plan in plans])
    known: dict[tuple[Any, ...], Speedup] = {}
    kept, slower = {}, []
    with example.undisturbed():
        for plan in plans:
            ratio = Speedup()
            if plan.layer in inputs:
                x = inputs[plan.layer]
                key = repr(plan.probe), x.shape, x.stride(), x.dtype, x.requires_grad, plan.layer.training
                ratio = known[key] = known.get(key) or _measure_layer(plan, x)
            if (ratio.forward or 1) + (ratio.training or ratio.forward or 1) >= 2:
                kept[plan] = ratio
            else:
                plan.swap.undo()
                slower.append(Left(plan.name, plan.words, "stock was faster when both were measured"))
    return kept, slower


def _measure_layer(plan: _Plan, x: Tensor) -> Speedup:
    layers, swap = plan.probe, plan.probe_swap
    taking = [t for t in (x, *plan.layer.parameters()) if t.requires_grad]

    def forward() -> None:
        with torch.no_grad():
            layers(x)

    def training() -> None:
        output = layers(x)
        torch.autograd.grad(output, taking, torch.ones_like(output))

    return measure.speedup(forward, training if taking else None, swap.fuse, swap.undo, seconds=0.15)


def _measure_model(example: measure.Example, plans: Iterable[_Plan]) -> Speedup:
    def all_of(what: str) -> Callable[[], Any]:
        return lambda: [getattr(plan.swap, what)() for plan in plans]

    def forward() -> None:
        with torch.no_grad():
            example.outputs()

    trains = any(parameter.requires_grad for parameter in example.model.parameters())
    with example.undisturbed():
        return measure.speedup(
            forward, example.gradients if trains else None, all_of("fuse"), all_of("undo"), seconds=1.0
        )
