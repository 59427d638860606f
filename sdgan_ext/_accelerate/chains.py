"""Which activation follows which layer, and nothing else does: proved from the data flow, never guessed from names."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from .._torch_internals import MODULE_REGISTRIES, has_hooks, tree_leaves
from .adapters import is_opaque, upsamples_by_2
from .functions import Function
from .lazy import is_upsampling

__all__ = ["Chain", "Flow", "chain_of", "flow_of", "scope_of_upsampling"]


@dataclass
class Flow:
    """
    Attributes:
        follower: for a module whose output goes into one other module or activation and nowhere else, that.
        proved: for the same modules, the one whose forward shows it.
        reason: for a module of which that is not so, why.
        moving: attributes, by module and name, that change when a forward runs.
        upsampled: convolutions of what is upsampled by 2 and used nowhere else.
        entered: those of them whose input is upsampled from the first argument, which has no other use.
    """

    follower: dict[nn.Module, nn.Module | Function] = field(default_factory=dict)
    proved: dict[nn.Module, nn.Module] = field(default_factory=dict)
    reason: dict[nn.Module, str] = field(default_factory=dict)
    moving: set[tuple[nn.Module, str]] = field(default_factory=set)
    upsampled: set[nn.Module] = field(default_factory=set)
    entered: set[nn.Module] = field(default_factory=set)


@dataclass(frozen=True)
class Chain:
    """
    Attributes:
        follower: the only module or function that takes a layer's output.
        scope: the innermost module whose forward alone shows it.
        between: the modules between scope and the two, whose forwards take part.
        moving: as of :class:`Flow`.
    """

    follower: nn.Module | Function
    scope: nn.Module
    between: frozenset[nn.Module]
    moving: frozenset[tuple[nn.Module, str]]


def chain_of(layer: nn.Module, flow: Flow, flows: dict[nn.Module, Flow]) -> Chain:
    """Of a layer that has a follower in ``flow``; ``flows`` keeps what was traced on the way."""
    outer, follower = flow.proved[layer], flow.follower[layer]
    ends = (layer,) if isinstance(follower, Function) else (layer, follower)
    above = {module: _above(outer, module) for module in ends}
    for scope in above[layer]:
        if all(scope in parts for parts in above.values()):
            inner = flow if scope is outer else flows.setdefault(scope, flow_of(scope))
            if inner.follower.get(layer) == follower:
                break
    between = {part for parts in above.values() for part in parts[: parts.index(scope)]}
    return Chain(follower, scope, frozenset(between), frozenset(flow.moving | inner.moving))


def _above(outer: nn.Module, module: nn.Module) -> list[nn.Module]:
    """The modules that contain it, the innermost first, ``outer`` last."""
    name = next(name for name, part in outer.named_modules() if part is module)
    parts = name.split(".")
    return [outer.get_submodule(".".join(parts[:length])) for length in range(len(parts) - 1, -1, -1)]


def flow_of(model: nn.Module) -> Flow:
    """Traces the model where torch.fx can, else its children, one by one; an ``nn.Sequential`` needs no tracing.

    A graph is that of one mode, for ``self.training`` is a constant in it: what holds must hold in both.
    """
    flow = Flow()
    _collect(model, flow)
    shared = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    for module, count in shared.items():
        if count > 1 and module is not model:
            flow.follower.pop(module, None)
            flow.reason[module] = f"it stands at {count} places of the model"
    for module, follower in list(flow.follower.items()):
        if isinstance(follower, nn.Module) and shared[follower] > 1:
            del flow.follower[module]
            flow.reason[module] = f"what follows stands at {shared[follower]} places of the model"
    return flow


def _collect(module: nn.Module, flow: Flow) -> None:
    graphs = _graphs(module, flow.moving) if any(module.children()) and not is_opaque(module) else None
    if graphs:
        _read(module, graphs, flow)
        _read_upsampling(module, graphs, flow)
        for leaf in {_module_of(module, node) for node in graphs[0].nodes if node.op == "call_module"}:
            _collect(leaf, flow)
        return
    if type(module) is nn.Sequential:
        layers = list(module)
        for layer, following in zip(layers, layers[1:], strict=False):
            flow.follower[layer], flow.proved[layer] = following, module
    for child in module.children():
        _collect(child, flow)


class _Tracer(fx.Tracer):
    """
    Attributes:
        opaque: classes whose calls are nodes, since their forwards cannot be traced.
        failed: the innermost module in whose forward tracing ended.
    """

    def __init__(self, opaque: set[type[nn.Module]]):
        super().__init__()
        self.opaque = opaque
        self.failed: nn.Module | None = None

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        # A hook would be called with proxies; and its arguments must stay, so no chain crosses the module's border.
        if has_hooks(module) or type(module) in self.opaque or is_opaque(module):
            return True
        return super().is_leaf_module(module, qualified_name)

    def call_module(self, module: nn.Module, *args: Any) -> Any:
        try:
            return super().call_module(module, *args)
        except Exception:
            if self.failed is None:
                self.failed = module
            raise


def _graphs(module: nn.Module, moving: set[tuple[nn.Module, str]]) -> list[fx.Graph] | None:
    """In training and in evaluation, with all arguments given and with those left out that may be; None: it fails."""
    optional = {
        name: parameter.default
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.default is not parameter.empty
    }
    graphs: list[fx.Graph] = []
    opaque: set[type[nn.Module]] = set()
    for training in (True, False):
        for constants in (None, optional) if optional else (None,):
            tracer = None
            while tracer is None or tracer.failed is not None:  # again, where a part could not be traced
                tracer = _Tracer(opaque)
                with _mode(module, training), _attributes_kept(module, moving) as kept, _silence():
                    try:
                        graph = tracer.trace(module, concrete_args=constants)
                    except Exception:  # a forward may do anything to a proxy
                        if tracer.failed is None:
                            return None
                        opaque.add(type(tracer.failed))
            for proxy in kept:  # a use that the graph does not have
                graph.call_function(getattr, (proxy.node, "kept in an attribute"))
            graphs.append(graph)
    return graphs


@contextlib.contextmanager
def _attributes_kept(module: nn.Module, moving: set[tuple[nn.Module, str]]) -> Iterator[list[fx.Proxy]]:
    """What a forward leaves in plain attributes while it is traced is undone; the proxies among it are in the list."""
    before = [(part, dict(part.__dict__)) for part in module.modules()]
    lists = [(value, list(value)) for _, own in before for value in own.values() if isinstance(value, list)]
    dicts = [(value, dict(value)) for _, own in before for value in own.values() if type(value) is dict]
    kept: list[fx.Proxy] = []
    try:
        yield kept
    finally:
        for part, own in before:
            now = [value for name, value in part.__dict__.items() if name not in MODULE_REGISTRIES]
            kept += [leaf for leaf in tree_leaves(now) if isinstance(leaf, fx.Proxy)]
            moving |= {(part, name) for name, value in part.__dict__.items() if own.get(name) is not value}
            part.__dict__.clear()
            part.__dict__.update(own)
        for kept_list, items in lists:
            kept_list[:] = items
        for kept_dict, entries in dicts:
            kept_dict.clear()
            kept_dict.update(entries)


@contextlib.contextmanager
def _mode(module: nn.Module, training: bool) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = training
        yield
    finally:
        for part, before in modes:
            part.training = before


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """A forward that is traced with proxies may warn of arguments that nobody gave."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _read(root: nn.Module, graphs: list[fx.Graph], flow: Flow) -> None:
    answers: dict[nn.Module, list[nn.Module | Function | str]] = {}
    for graph in graphs:
        nodes = [(node, _module_of(root, node)) for node in graph.nodes if node.op == "call_module"]
        calls = Counter(module for _, module in nodes)
        found = {module: _follower(root, node, calls) for node, module in nodes}
        for module in {**answers, **found}:
            answers.setdefault(module, []).append(found.get(module, "it does not run in every mode"))
    for module, of_each in answers.items():
        words = [answer for answer in of_each if isinstance(answer, str)]
        if len(of_each) < len(graphs):
            words.append("it does not run in every mode")
        followers = [answer for answer in of_each if not isinstance(answer, str)]
        if not words and len(set(followers)) == 1:
            flow.follower[module], flow.proved[module] = followers[0], root
        else:
            flow.reason[module] = words[0] if words else "what follows differs between training and evaluation"


def _read_upsampling(root: nn.Module, graphs: list[fx.Graph], flow: Flow) -> None:
    upsampled, entered = [], []
    for graph in graphs:
        first = next((node for node in graph.nodes if node.op == "placeholder"), None)
        pairs = [(node, next(iter(node.users))) for node in graph.nodes if len(node.users) == 1]
        found = {
            _module_of(root, user): node.args[0]
            for node, user in pairs
            if user.op == "call_module" and _is_upsampling(root, node)
        }
        upsampled.append(set(found))
        alone = first is not None and len(first.users) == 1
        entered.append({conv for conv, source in found.items() if alone and source is first})
    flow.upsampled |= set.intersection(*upsampled)
    flow.entered |= set.intersection(*entered)


def _is_upsampling(root: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return upsamples_by_2(_module_of(root, node))
    return node.op == "call_function" and is_upsampling(node.target, node.args, node.kwargs)


def scope_of_upsampling(conv: nn.Module, model: nn.Module, flows: dict[nn.Module, Flow]) -> nn.Module | None:
    """The module that contains it, if that one's forward upsamples its argument for it."""
    scope = _above(model, conv)[0]
    if type(scope) is nn.Sequential or is_opaque(scope):
        return None
    return scope if conv in flows.setdefault(scope, flow_of(scope)).entered else None


def _module_of(root: nn.Module, node: fx.Node) -> nn.Module:
    """That a node of ``call_module`` calls."""
    return root.get_submodule(str(node.target))


def _follower(root: nn.Module, node: fx.Node, calls: Counter[nn.Module]) -> nn.Module | Function | str:
    if calls[_module_of(root, node)] > 1:
        return f"it is called {calls[_module_of(root, node)]} times"
    if len(node.users) != 1:
        return f"its output is used {len(node.users)} times"
    (user,) = node.users
    if user.op == "output":
        return "its output leaves the model"
    if user.target is getattr:
        return "its output is kept in an attribute"
    if function := Function.of_call(user.target, user.args, user.kwargs):
        return function
    if user.op != "call_module":
        name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", user.target)
        return f"what follows is a function, {name}, and no module"
    following = _module_of(root, user)
    if calls[following] > 1:
        return f"what follows, {user.target}, is called {calls[following]} times"
    if len(user.args) != 1 or user.kwargs:
        return f"what follows, {user.target}, takes more than this output"
    return following
