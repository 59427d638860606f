"""Which activation follows which layer, and nothing else does: proved from the data flow, never guessed from names."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

__all__ = ["Flow", "flow_of"]


@dataclass
class Flow:
    """
    Attributes:
        follower: for a module whose output goes into one other module and nowhere else, that module.
        reason: for a module of which that is not so, why.
    """

    follower: dict[nn.Module, nn.Module]
    reason: dict[nn.Module, str]


def flow_of(model: nn.Module) -> Flow:
    """Traces the model where torch.fx can, else its children, one by one; an ``nn.Sequential`` needs no tracing.

    A graph is that of one mode, for ``self.training`` is a constant in it: what holds must hold in both.
    """
    flow = Flow({}, {})
    _collect(model, flow)
    shared = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    for module, count in shared.items():
        if count > 1 and module is not model:
            flow.follower.pop(module, None)
            flow.reason[module] = f"it stands at {count} places of the model"
    for module, follower in list(flow.follower.items()):
        if shared[follower] > 1:
            del flow.follower[module]
            flow.reason[module] = f"what follows stands at {shared[follower]} places of the model"
    return flow


def _collect(module: nn.Module, flow: Flow) -> None:
    graphs = [_graph(module, training) for training in (True, False)] if any(module.children()) else []
    if graphs and None not in graphs:
        _read(module, graphs, flow)
        for leaf in {module.get_submodule(node.target) for node in graphs[0].nodes if node.op == "call_module"}:
            _collect(leaf, flow)
        return
    if type(module) is nn.Sequential:
        layers = list(module)
        for layer, following in zip(layers, layers[1:], strict=False):
            flow.follower[layer] = following
    for child in module.children():
        _collect(child, flow)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        # A hook would be called with proxies; and what it sees must stay, so no chain crosses the module's border.
        hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        return bool(hooked or module._backward_pre_hooks) or super().is_leaf_module(module, qualified_name)


def _graph(module: nn.Module, training: bool) -> fx.Graph | None:
    with _mode(module, training), contextlib.suppress(Exception):  # a forward may do anything to a proxy
        return _Tracer().trace(module)
    return None


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


def _read(root: nn.Module, graphs: list[fx.Graph], flow: Flow) -> None:
    found = []
    for graph in graphs:
        nodes = [(node, root.get_submodule(node.target)) for node in graph.nodes if node.op == "call_module"]
        calls = Counter(module for _, module in nodes)
        found.append({module: _follower(root, node, calls) for node, module in nodes})
    for module in {**found[0], **found[1]}:
        answers = [answer.get(module, "it runs in training or in evaluation, not in both") for answer in found]
        first, second = answers
        if isinstance(first, nn.Module) and first is second:
            flow.follower[module] = first
        else:
            words = [answer for answer in answers if isinstance(answer, str)]
            flow.reason[module] = words[0] if words else "what follows differs between training and evaluation"


def _follower(root: nn.Module, node: fx.Node, calls: Counter) -> nn.Module | str:
    if calls[root.get_submodule(node.target)] > 1:
        return f"it is called {calls[root.get_submodule(node.target)]} times"
    if len(node.users) != 1:
        return f"its output is used {len(node.users)} times"
    (user,) = node.users
    if user.op == "output":
        return "its output leaves the model"
    if user.op != "call_module":
        name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", user.target)
        return f"what follows is a function, {name}, and no module"
    following = root.get_submodule(user.target)
    if calls[following] > 1:
        return f"what follows, {user.target}, is called {calls[following]} times"
    if len(user.args) != 1 or user.kwargs:
        return f"what follows, {user.target}, takes more than this output"
    return following
