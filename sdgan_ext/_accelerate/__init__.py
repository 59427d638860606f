"""``sd.accelerate`` and ``sd.restore``: a user's own model on our layers, and back. docs/accelerate.md."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .. import nn as ours
from .._torch_internals import tree_leaves
from . import measure
from .adapters import LAZY, Adapter, adapter_of, unknown
from .chains import Chain, Flow, chain_of, flow_of, scope_of_upsampling
from .functions import Function
from .layers import ACTIVATIONS
from .report import Change, Left, Report, Speedup
from .rules import (
    activation_of,
    check_model,
    held_outside,
    layer_obstacle,
    looks_like_a_layer,
    nothing_gained,
    parts_of,
)
from .swap import Adaptation, Swap, drop_idle_scopes
from .swap import restore as _restore

__all__ = ["Change", "Left", "Report", "Speedup", "accelerate", "restore"]

_OURS = (ours.Conv2d, ours.ConvTranspose2d, ours.BatchNorm2d, ours.GroupNorm)


def accelerate(model: Any, example_inputs: Tensor | tuple[Any, ...] | dict[str, Any] | None = None) -> Report:
    """Makes the convolutions and norms of any model ours, each with the activation behind it, in place.

    ::

        print(sd.accelerate(model, torch.randn(16, 3, 64, 64)))
        print(sd.accelerate(pipeline))

    Parameters, buffers, their names in the state dict, hooks and ``train``/``eval`` stay, the tensors as the same
    objects: an optimizer made before goes on, and a checkpoint of either model loads in the other. An activation
    is taken over where the data flow proves that the layer's output goes there and nowhere else (torch.fx, in training
    and in evaluation mode; ``nn.Sequential`` by its definition). Blocks of diffusers, which torch.fx cannot trace, are
    known by their classes. All else is left as it is; the report says why.

    The modules stay the same objects, of other classes. A part of the model that is taken out, replaced, wrapped or
    hooked afterwards computes what stock would (docs/accelerate.md); called again, this function plans all anew.

    Args:
        model: changed in place. Of DataParallel and DistributedDataParallel the module inside. Of a pipeline of
            diffusers (an object with ``components``) all its modules.
        example_inputs: what to call the model with: a tensor, a tuple of its arguments or a dict of its keywords. With
            them, results and gradients are compared with stock's, and all is put back if they differ; each layer is
            measured at the shapes of its inputs, and put back where stock is faster; and the report has the speed-ups.
            It takes seconds. Without, rules made of measurements decide. A pipeline takes none.

    Returns:
        A :class:`Report` that prints as a table.

    Raises:
        TypeError, ValueError: the model is compiled, scripted, wrapped by FSDP, on the meta device or on several, or
            offloaded, or the example is none; nothing was changed.
    """
    parts = parts_of(model)
    if parts is not None:
        return _accelerate_parts(parts, example_inputs)
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


def restore(model: Any) -> list[str]:
    """Undoes :func:`accelerate`: the modules have torch's classes again.

    Weights, buffers, modes and what was changed or parametrised since stay as they are now. ``model`` may be a part of
    what was accelerated.

    Returns:
        The names of the modules that were changed back; an empty list for a model that was not accelerated.

    Raises:
        TypeError: model is no ``torch.nn.Module`` and no pipeline of them.
    """
    parts = parts_of(model)
    if parts is not None:
        return [f"{part}.{name}" if name else part for part in parts for name in _restore(parts[part])]
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
    return _restore(model)


def _accelerate_parts(parts: dict[str, nn.Module], example_inputs: object) -> Report:
    if example_inputs is not None:
        raise TypeError("example_inputs is given, but model is a pipeline; give it with one of the pipeline's modules")
    for part, module in parts.items():
        check_model(module, part)
    reports = {part: accelerate(module) for part, module in parts.items()}
    return Report(
        tuple(change.of(part) for part, report in reports.items() for change in report.replaced),
        tuple(left.of(part) for part, report in reports.items() for left in report.left),
    )


class _Plan:
    """Modules to make ours.

    Attributes:
        name, words, took: for the report.
        module: the first of them, that takes the input.
        of_first: whether its first argument is all that it is measured with.
        swap: makes them ours and undoes it.
        probe, probe_swap: the same of copies that share the tensors, to be measured alone; None: they are not.
    """

    of_first = True
    probe: nn.Module | None
    probe_swap: Swap | Adaptation

    def __init__(self, name: str, module: nn.Module, words: str, took: str | None, swap: Swap | Adaptation):
        self.name, self.module, self.words, self.took, self.swap = name, module, words, took, swap

    @classmethod
    def of_layer(cls, name: str, layer: nn.Module, chain: Chain | None = None, took: str | None = None) -> _Plan:
        """Of a layer, with the activation at the end of ``chain``."""
        plan = cls(name, layer, type(layer).__name__, took, Swap(layer, chain))
        plan.probe = nn.Sequential(copy.copy(layer))
        probe_chain = None
        if chain is not None:
            following = chain.follower
            if isinstance(following, Function):
                computes, alike = following.name, following.module()
            else:
                computes, alike = ACTIVATIONS[type(following)].computes, copy.copy(following)
            plan.words += f" + {computes}"
            plan.probe.append(alike)
            probe_chain = Chain(plan.probe[1], plan.probe, frozenset(), frozenset())
        plan.probe_swap = Swap(plan.probe[0], probe_chain)
        return plan

    @classmethod
    def of_block(cls, name: str, block: nn.Module, adapter: Adapter) -> _Plan:
        any_class = adapter is LAZY
        swap = Adaptation(block, any_class=any_class)
        plan = cls(name, block, f"{type(block).__name__}: {adapter.words}", None, swap)
        plan.of_first = False
        plan.probe = copy.copy(block) if adapter.alone else None
        plan.probe_swap = swap if plan.probe is None else Adaptation(plan.probe, any_class=any_class)
        return plan

    def change(self, speedup: Speedup) -> Change:
        return Change(self.name, self.words, self.took, speedup)


def _plan(model: nn.Module, *, by_rule: bool) -> tuple[list[_Plan], list[Left]]:
    flow, aliases = flow_of(model), held_outside(model)
    flows: dict[nn.Module, Flow] = {}
    names = {module: name for name, module in model.named_modules()}
    plans, left = [], []
    for layer, name in names.items():
        if (adapter := adapter_of(layer)) is not None:
            plans.append(_Plan.of_block(name, layer, adapter))
        elif obstacle := unknown(layer):
            left.append(Left(name, type(layer).__name__, obstacle))
        if layer in flow.upsampled and LAZY.gains(layer):
            scope = scope_of_upsampling(layer, model, flows)
            if scope is not None:
                plans.append(_Plan.of_block(names[scope], scope, LAZY))
        if not looks_like_a_layer(layer) or isinstance(layer, _OURS):
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
        if not isinstance(found, str):
            took = None if isinstance(found, Function) else names[found]
            plans.append(_Plan.of_layer(name, layer, chain_of(layer, flow, flows), took))
        elif by_rule and (reason := nothing_gained(layer)):
            left.append(Left(name, type(layer).__name__, f"{reason}; no activation to take over: {found}"))
        else:
            plans.append(_Plan.of_layer(name, layer))
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
    inputs = measure.inputs_seen(example, [plan.module for plan in plans if plan.probe is not None])
    known: dict[tuple[Any, ...], Speedup] = {}
    kept, slower = {}, []
    with example.undisturbed():
        for plan in plans:
            ratio = Speedup()
            if plan.module in inputs and plan.probe is not None:
                args, kwargs = inputs[plan.module]
                call = (args[:1], {}) if plan.of_first else (args, kwargs)
                key = repr(plan.probe), *map(_kind_of, tree_leaves(call)), plan.module.training
                ratio = known[key] = known.get(key) or _measure_layer(plan, call)
            if (ratio.forward or 1) + (ratio.training or ratio.forward or 1) >= 2:
                kept[plan] = ratio
            else:
                plan.swap.undo()
                slower.append(Left(plan.name, plan.words, "stock was faster when both were measured"))
    return kept, slower


def _kind_of(argument: Any) -> Any:
    if not isinstance(argument, Tensor):
        return repr(argument)
    return argument.shape, argument.stride(), argument.dtype, argument.requires_grad


def _measure_layer(plan: _Plan, inputs: measure.Arguments) -> Speedup:
    layers, swap = plan.probe, plan.probe_swap
    assert layers is not None
    args, kwargs = inputs
    leaves = (*tree_leaves(inputs), *plan.module.parameters())
    taking = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]

    def forward() -> None:
        with torch.no_grad():
            layers(*args, **kwargs)

    def training() -> None:
        output = layers(*args, **kwargs)
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
