"""How a layer and the activation that it took over agree, at every call, on which of the two computes it.

The data flow is proved for the forward of one module, the *scope*: in it the layer's output goes into the activation
and nowhere else. Whoever takes the model apart afterwards, wraps, replaces or hooks a part, gets what stock gives:

- the layer fuses only in a call of its scope, if both stand where they stood and nobody watches what is between;
- the activation passes on the very tensor that its layer has activated in this call, and applies itself to any other.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from .._torch_internals import (
    any_global_hooks,
    children_of,
    exporting,
    has_hooks,
    saved_tensor_hooks,
    transformed,
    tree_leaves,
)
from ..ops._enums import Activation
from .functions import Function

__all__ = [
    "ADAPTERS",
    "ANY_CLASS",
    "COMPUTES",
    "FUSES",
    "Link",
    "Ready",
    "adapt",
    "is_idle_scope",
    "link",
    "link_of",
    "make_scope",
    "name_of",
    "no_script",
    "owe",
    "pay",
    "ready",
    "unadapt",
    "unlink",
    "unmake_scope",
]

#: Our layers' classes, and our activations' with what they compute in the words of ``ops``; :mod:`.layers` fills them.
#: What is derived from one of them may do anything, and never fuses.
FUSES: set[type[nn.Module]] = set()
COMPUTES: dict[type[nn.Module], Activation] = {}


class _Adapter(Protocol):
    """As :class:`.adapters.Adapter`."""

    @property
    def forward(self) -> Callable[..., Any]: ...

    def knows(self, kind: type[nn.Module]) -> bool: ...


#: What computes the calls of classes that are not ours, by module and name of the class; :mod:`.adapters` fills it.
ADAPTERS: dict[str, _Adapter] = {}
ANY_CLASS = "*"

# In __dict__ alone: no part of a state dict, but deepcopy and pickle carry them.
_LINK, _LINKS, _SWITCHES = "_link_of_accelerate", "_links_of_accelerate", "_switches_of_accelerate"
_ADAPTED = "_adapted_by_accelerate"
_SWITCH_TYPES = (bool, int, float, str, type(None))
_NO_SWITCHES = frozenset((*vars(nn.Module()), _LINK, _LINKS, _SWITCHES, _ADAPTED))
_MISSING = object()
_NEW = object().__reduce_ex__(2)[0]  # what makes an object of a class, in a pickle

Path = tuple[str, ...]


# -------------------------------------------------------------------------------------------------------- the pair
class Link:
    """What a layer and its activation both hold. It names modules and refers to none, so copies of a model share it.

    Attributes:
        layer, activation: the names that lead from the scope to each; of an activation that is a function, that.
    """

    def __init__(self, layer: Path, activation: Path | Function):
        self.layer, self.activation = layer, activation

    @classmethod
    def between(cls, scope: nn.Module, layer: nn.Module, activation: nn.Module | Function) -> Link:
        """Of two parts of what :func:`make_scope` has made a scope, which keeps it."""
        names = {module: tuple(name.split(".")) for name, module in scope.named_modules()}
        pair = cls(names[layer], activation if isinstance(activation, Function) else names[activation])
        scope.__dict__[_LINKS].append(pair)
        return pair

    def __deepcopy__(self, memo: dict[int, Any]) -> Link:
        return self

    @property
    def follower(self) -> str:
        """The activation in words."""
        return str(self.activation) if isinstance(self.activation, Function) else ".".join(self.activation)


def link(pair: Link, *modules: nn.Module) -> None:
    for module in modules:
        module.__dict__[_LINK] = pair


def unlink(module: nn.Module) -> None:
    module.__dict__.pop(_LINK, None)


def link_of(module: nn.Module) -> Link | None:
    return module.__dict__.get(_LINK)


# --------------------------------------------------------------------------------------------------- while a call runs
class Ready(NamedTuple):
    """A pair that may fuse in the call of its scope that runs.

    Attributes:
        layer: that of this scope; a copy of it holds the same link.
        function, negative_slope: what the activation computes now, in the words of ``ops``.
        hooks: on what autograd saved when the call began. A checkpoint that begins inside the call computes its part a
            second time without the scope and must save the same, so inside it nothing fuses.
    """

    layer: nn.Module
    function: Activation
    negative_slope: float
    hooks: object


class _Running(threading.local):
    """Of the calls of scopes that this thread is in.

    Attributes:
        ready: the pairs that may fuse.
        owed: outputs that are activated and have not come to their activation yet.
    """

    def __init__(self) -> None:
        self.ready: dict[Link | None, Ready] = {}
        self.owed: dict[Link | None, Tensor] = {}


running = _Running()


def ready(layer: nn.Module) -> Ready | None:
    """Where ``layer`` may compute its activation, what that is. Its output is then owed: :func:`owe`."""
    found = running.ready.get(layer.__dict__.get(_LINK))
    if found is None or found.layer is not layer:
        return None
    return None if torch.is_grad_enabled() and saved_tensor_hooks() != found.hooks else found


def owe(layer: nn.Module, output: Tensor) -> Tensor:
    """``output`` of a layer that is ready is activated; what to pass on."""
    pair = layer.__dict__[_LINK]
    running.owed[pair] = output
    if isinstance(pair.activation, tuple):
        return output
    passed = output.as_subclass(_Owed)
    passed.pair = pair
    return passed


class _Owed(Tensor):
    """Of a layer whose activation is a function: its activated output, which that function passes on.

    Attributes:
        pair: the link of the two.
    """

    pair: Link

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """
        Raises:
            RuntimeError: it is given to another function.
        """
        pair = next(leaf.pair for leaf in tree_leaves((args, kwargs)) if type(leaf) is _Owed)
        output = running.owed.get(pair)
        if output is None or Function.of_call(func, args, kwargs or {}) != pair.activation:
            raise _unpaid(pair)
        del running.owed[pair]
        return output if torch.is_grad_enabled() or not output.requires_grad else output.detach()


def pay(activation: nn.Module, input: Tensor) -> bool:
    """Whether ``input`` is what the partner of ``activation`` has just activated.

    Raises:
        RuntimeError: the partner has activated another tensor in this call.
    """
    pair = activation.__dict__.get(_LINK)
    output = running.owed.pop(pair, None)
    if output is None or output is input:
        return output is not None
    raise _unpaid(pair)


def _look_up(scope: nn.Module) -> dict[Link | None, Ready]:
    """The pairs of ``scope`` that may fuse as it is now. Every call comes here, so it makes few calls itself."""
    found: dict[Link | None, Ready] = {}
    if exporting() or any_global_hooks() or _switched(scope):
        return found
    children, hooks = children_of(scope), saved_tensor_hooks()
    no_functions = torch.compiler.is_compiling() or transformed()
    for pair in scope.__dict__[_LINKS]:
        first, second = pair.layer, pair.activation
        layer: Any = children.get(first[0]) if len(first) == 1 else _at(scope, first)
        if isinstance(second, Function):
            if no_functions or type(layer) not in FUSES or layer.__dict__.get(_LINK) is not pair:
                continue
            if "forward" not in layer.__dict__ and not has_hooks(layer, before_forward=False):
                found[pair] = Ready(layer, second.name, second.negative_slope, hooks)
            continue
        activation: Any = children.get(second[0]) if len(second) == 1 else _at(scope, second)
        function = COMPUTES.get(type(activation))
        if function is None or type(layer) not in FUSES:
            continue
        one, other = layer.__dict__, activation.__dict__
        if one.get(_LINK) is not pair or other.get(_LINK) is not pair or "forward" in one or "forward" in other:
            continue
        if has_hooks(layer, before_forward=False) or has_hooks(activation):
            continue
        negative_slope = other.get("negative_slope", 0.2)
        if negative_slope >= 0 and other.get("alpha", 1) == 1:
            found[pair] = Ready(layer, function, negative_slope, hooks)
    return found


def _at(scope: nn.Module, path: Path) -> Any:
    """The module that stands there now; None behind one that is hooked or may do something else than it did."""
    for name in path[:-1]:
        below = children_of(scope).get(name)
        if below is None or has_hooks(below) or "forward" in below.__dict__ or _switched(below):
            return None
        scope = below
    return children_of(scope).get(path[-1])


# ----------------------------------------------------------------------------------------------------------- scopes
class Scope(nn.Module):
    """Mixed into the class of a module, as torch's parametrizations are; the object stays the same."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(protocol)
        if _is_ours(type(self)) and isinstance(reduced, tuple) and reduced[0] is _NEW:  # which cannot be imported
            return _unpickled, (_base(type(self)), *reduced[1][1:]), *reduced[2:]
        return reduced

    def __prepare_scriptable__(self) -> nn.Module:
        raise no_script()


def no_script() -> RuntimeError:
    return RuntimeError(
        "the model is accelerated, and torch.jit.script would read the code of its new layers; call "
        "sdgan_ext.restore(model) first"
    )


def _base(kind: type[nn.Module]) -> type[nn.Module]:
    """The user's class behind one of :func:`_scope_class`."""
    return kind.__mro__[kind.__mro__.index(Scope) + 1]


def _is_ours(kind: type[nn.Module]) -> bool:
    """Whether it is one of :func:`_scope_class`, and none that someone has derived from it since."""
    return issubclass(kind, Scope) and kind is _scope_class(_base(kind))


def _unpickled(base: type[nn.Module], *arguments: Any) -> nn.Module:
    kind = _scope_class(base)
    return kind.__new__(kind, *arguments)


@cast(Any, functools.cache)  # mypy takes modules for unhashable
def _scope_class(base: type[nn.Module]) -> type[nn.Module]:
    stock = base.forward
    adapters = {name: ADAPTERS[name] for name in (name_of(base), ANY_CLASS) if name in ADAPTERS}
    adapted = {name: functools.partial(it.forward, stock) for name, it in adapters.items() if it.knows(base)}

    @functools.wraps(stock)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        run, links = base.forward, self.__dict__.get(_LINKS)
        if run is stock and _ADAPTED in self.__dict__:  # and not patched since
            if not (exporting() or any_global_hooks()):
                run = adapted.get(self.__dict__[_ADAPTED], run)
        if links is None:
            return run(self, *args, **kwargs)
        now, owed = running.ready, running.owed
        outer = {pair: now.pop(pair) for pair in links if pair in now}  # a call within a call
        found = _look_up(self)
        now.update(found)
        unpaid = None
        try:
            result = run(self, *args, **kwargs)
        finally:
            for pair in found:
                del now[pair]
                if owed.pop(pair, None) is not None:
                    unpaid = pair
            now.update(outer)
        if unpaid is not None:
            raise _unpaid(unpaid)
        return result

    members = {"forward": forward, "__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (Scope, base), members)


def name_of(kind: type[nn.Module]) -> str:
    """As :data:`ADAPTERS` names it."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _unpaid(pair: Any) -> RuntimeError:
    return RuntimeError(
        f"the output of {'.'.join(pair.layer)} did not go into {pair.follower}, as it did when "
        "sdgan_ext.accelerate was called: what the forward depends on has changed; call sdgan_ext.restore first, then "
        "change it, then accelerate again"
    )


def _enter_class(module: nn.Module) -> None:
    if not isinstance(module, Scope):
        module.__class__ = _scope_class(type(module))


def _leave_class(module: nn.Module) -> None:
    if not (_LINKS in module.__dict__ or _ADAPTED in module.__dict__) and _is_ours(type(module)):
        module.__class__ = _base(type(module))


def adapt(module: nn.Module, name: str) -> None:
    """From now on that of :data:`ADAPTERS`, the one of its class or of any, computes the calls of ``module``."""
    _enter_class(module)
    module.__dict__[_ADAPTED] = name


def unadapt(module: nn.Module) -> bool:
    """Undoes :func:`adapt`; False for a module that was not adapted."""
    was = module.__dict__.pop(_ADAPTED, None)
    _leave_class(module)
    return was is not None


def make_scope(module: nn.Module, parts: Collection[nn.Module], moving: Collection[tuple[nn.Module, str]]) -> None:
    """From now on calls of ``module`` are noted; ``parts`` are the modules between it and what will be linked in it.

    Their plain attributes that are numbers, words or None may be switches that the data flow depends on: while one
    differs from what it is now, nothing fuses. Those in ``moving`` change from call to call and are none.
    """
    _enter_class(module)
    module.__dict__.setdefault(_LINKS, [])
    for part in (module, *parts):
        part.__dict__[_SWITCHES] = {
            name: value
            for name, value in vars(part).items()
            if isinstance(value, _SWITCH_TYPES) and name not in _NO_SWITCHES and (part, name) not in moving
        }


def unmake_scope(module: nn.Module) -> None:
    """Undoes :func:`make_scope`."""
    for name in (_LINKS, _SWITCHES):
        module.__dict__.pop(name, None)
    _leave_class(module)


def is_idle_scope(module: nn.Module, live: Collection[Link | None]) -> bool:
    """Whether it is a scope whose links, if any, are not among ``live``."""
    links = module.__dict__.get(_LINKS)
    return links is not None and not any(pair in live for pair in links)


def _switched(module: nn.Module) -> bool:
    own = module.__dict__
    switches = own.get(_SWITCHES)
    if not switches:
        return False
    for name, value in switches.items():
        now = own.get(name, _MISSING)
        if now is not value and (type(now) is not type(value) or now != value):
            return True
    return False
