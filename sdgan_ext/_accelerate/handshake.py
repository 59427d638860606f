"""How a layer and the activation that it took over agree, at every call, on which of the two computes it.

The data flow is proved for the forward of one module, the *scope*: in it the layer's output goes into the activation
and nowhere else. Whoever takes the model apart afterwards, wraps, replaces or hooks a part, gets what stock gives:

- the layer fuses only in a call of its scope, while both stand where they stood and nobody watches what is between;
- the activation passes on the very tensor that its layer has activated in this call, and applies itself to any other.
"""

from __future__ import annotations

import functools
import threading
import uuid
from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn

from .._torch_internals import any_global_hooks, children_of, has_hooks, saved_tensor_hooks

__all__ = ["Call", "link", "link_of", "make_scope", "owe", "pay", "running_with", "token_of", "unlink", "unmake_scope"]

# In __dict__ alone: no part of a state dict, but deepcopy and pickle carry them.
_LINK, _TOKEN, _SWITCHES = "_link_of_accelerate", "_token_of_accelerate", "_switches_of_accelerate"
_SWITCH_TYPES = (bool, int, float, str, type(None))
_NO_SWITCHES = frozenset((*vars(nn.Module()), _LINK, _TOKEN, _SWITCHES))
_MISSING = object()
_NEW = object().__reduce_ex__(2)[0]  # what makes an object of a class, in a pickle

Path = tuple[str, ...]


# -------------------------------------------------------------------------------------------------------- the pair
class Link:
    """What a layer and its activation both hold. It names modules and refers to none, so copies of a model share it.

    Attributes:
        token: of the scope.
        layer, activation: the names that lead from the scope to each.
    """

    def __init__(self, token: str, layer: Path, activation: Path):
        self.token, self.layer, self.activation = token, layer, activation

    @classmethod
    def between(cls, scope: nn.Module, layer: nn.Module, activation: nn.Module) -> Link:
        """Of two modules in what :func:`make_scope` has made a scope."""
        names = {module: tuple(name.split(".")) for name, module in scope.named_modules()}
        return cls(scope.__dict__[_TOKEN], names[layer], names[activation])

    def __deepcopy__(self, memo: dict[int, Any]) -> Link:
        return self


def link(pair: Link, layer: nn.Module, activation: nn.Module) -> None:
    layer.__dict__[_LINK] = activation.__dict__[_LINK] = pair


def unlink(module: nn.Module) -> None:
    module.__dict__.pop(_LINK, None)


def link_of(module: nn.Module) -> Link | None:
    return module.__dict__.get(_LINK)


# ------------------------------------------------------------------------------------------------------------ calls
class Call:
    """Of a scope's forward.

    Attributes:
        owed: outputs that are activated and have not come to their activation yet.
        hooks: on what autograd saves, as they were when the call began. A checkpoint that begins inside computes its
            part a second time without the scope and must save the same, so inside it nothing fuses.
    """

    def __init__(self, scope: nn.Module):
        self.scope = scope
        self.owed: dict[Link, Tensor] = {}
        self.hooks = saved_tensor_hooks()


class _Running(threading.local):
    """The innermost call of each scope that this thread is in, by its token."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}


_running = _Running()


def running_with(layer: nn.Module) -> tuple[Call | None, nn.Module | None]:
    """The call in which ``layer`` may fuse, and the activation that it then owes its output to; or (None, None)."""
    own = layer.__dict__
    pair: Link | None = own.get(_LINK)
    if pair is None:
        return None, None
    call = _running.calls.get(pair.token)
    if call is None or _at(call.scope, pair.layer) is not layer:
        return None, None
    partner = _at(call.scope, pair.activation)
    if (
        partner is None
        or partner.__dict__.get(_LINK) is not pair
        or has_hooks(layer, before_forward=False)
        or has_hooks(partner)
        or any_global_hooks()
        or "forward" in own
        or "forward" in partner.__dict__
        or (torch.is_grad_enabled() and saved_tensor_hooks() != call.hooks)
    ):
        return None, None
    return call, partner


def owe(call: Call, layer: nn.Module, output: Tensor) -> None:
    """``output`` of ``layer`` is activated already."""
    call.owed[layer.__dict__[_LINK]] = output


def pay(activation: nn.Module, input: Tensor) -> bool:
    """Whether ``input`` is what the partner of ``activation`` has just activated.

    Raises:
        RuntimeError: the partner has activated another tensor in this call.
    """
    pair: Link | None = activation.__dict__.get(_LINK)
    if pair is None:
        return False
    call = _running.calls.get(pair.token)
    output = None if call is None else call.owed.pop(pair, None)
    if call is None or output is None:
        return False
    if output is not input:
        raise _unpaid(call, pair)
    return True


def _at(scope: nn.Module, path: Path) -> nn.Module | None:
    """What stands there now; None behind a module that is hooked or may do something else than it did."""
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
        if isinstance(reduced, tuple) and reduced[0] is _NEW:  # the class itself cannot be imported
            return _unpickled, (_base(type(self)), *reduced[1][1:]), *reduced[2:]
        return reduced


def _base(kind: type[nn.Module]) -> type[nn.Module]:
    """The user's class behind one of :func:`_scope_class`."""
    return kind.__mro__[kind.__mro__.index(Scope) + 1]


def _unpickled(base: type[nn.Module], *arguments: Any) -> nn.Module:
    kind = _scope_class(base)
    return kind.__new__(kind, *arguments)


@cast(Any, functools.cache)  # mypy takes modules for unhashable
def _scope_class(base: type[nn.Module]) -> type[nn.Module]:
    @functools.wraps(base.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        token = self.__dict__.get(_TOKEN)
        if token is None or _switched(self):
            return base.forward(self, *args, **kwargs)
        calls = _running.calls
        outer = calls.get(token)
        calls[token] = call = Call(self)
        try:
            result = base.forward(self, *args, **kwargs)
        finally:
            if outer is None:
                del calls[token]
            else:
                calls[token] = outer
        for pair in call.owed:
            raise _unpaid(call, pair)
        return result

    members = {"forward": forward, "__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (Scope, base), members)


def _unpaid(call: Call, pair: Link) -> RuntimeError:
    return RuntimeError(
        f"the output of {'.'.join(pair.layer)} did not go into {'.'.join(pair.activation)} of this "
        f"{type(call.scope).__name__}, as it did when sdgan_ext.accelerate was called: what the forward depends on has "
        "changed; call sdgan_ext.restore first, then change it, then accelerate again"
    )


def make_scope(module: nn.Module, parts: Collection[nn.Module], moving: Collection[tuple[nn.Module, str]]) -> None:
    """From now on calls of ``module`` are noted; ``parts`` are the modules between it and what will be linked in it.

    Their plain attributes that are numbers, words or None may be switches that the data flow depends on: while one
    differs from what it is now, nothing fuses. Those in ``moving`` change from call to call and are none.
    """
    if not isinstance(module, Scope):
        module.__class__ = _scope_class(type(module))
    module.__dict__.setdefault(_TOKEN, uuid.uuid4().hex)
    for part in (module, *parts):
        part.__dict__[_SWITCHES] = {
            name: value
            for name, value in vars(part).items()
            if isinstance(value, _SWITCH_TYPES) and name not in _NO_SWITCHES and (part, name) not in moving
        }


def unmake_scope(module: nn.Module) -> None:
    """Undoes :func:`make_scope`; of a class that someone has derived from the scope's since, the class stays."""
    for name in (_TOKEN, _SWITCHES):
        module.__dict__.pop(name, None)
    kind = type(module)
    if issubclass(kind, Scope) and kind is _scope_class(_base(kind)):
        module.__class__ = _base(kind)


def token_of(scope: nn.Module) -> str | None:
    return scope.__dict__.get(_TOKEN)


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
