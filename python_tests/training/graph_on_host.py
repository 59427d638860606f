"""A stand-in for CUDA graphs on a machine without a GPU.

A capture notes every operation with the tensors it reads and writes, beneath autograd, where the kernels are; a replay
does the operations again on the same memory, and nothing else. What it keeps of the real thing:

- a capture does nothing: all memory from before is as it was, and its own holds NaN until a replay;
- Python does not run again: a number that it put into an operation is in every replay;
- what makes the host wait, or reads its memory, is refused with CUDA's words.

What it cannot show: streams, the pool's reuse of memory, speed, and kernels that themselves cannot be captured.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
WAITS = {aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.masked_select, aten.nonzero, aten._unique2}
BY_INDEX = {aten.index, aten.index_put, aten.index_put_}
FROM_HOST = {aten.lift_fresh, aten.lift_fresh_copy}  # torch.tensor: its data comes from Python
UNSAID = {aten.native_batch_norm: ("running_mean", "running_var")}  # written, though the schema does not say so
TO_HOST = {"__array__", "cpu", "numpy", "tolist"}  # Tensor methods that are no operation on a CPU


class HostGraphs:
    """``sdgan_ext.training.graph.Graphs``.

    Args:
        host: tensors that would be on the CPU beside a GPU: no captured operation may touch them.
    """

    def __init__(self, host: tuple[Tensor, ...] = ()):
        self._host = host
        self.captures = self.replays = 0
        self.operations: set[str] = set()  # of all captures

    def warm_up(self, work: Callable):
        return work()

    def capture(self, work: Callable):
        tape = _Tape(self._host)
        try:
            with _NoHost(), tape:
                result = work()
        finally:
            tape.undo()
        tape.poison()
        self.captures += 1
        self.operations |= {str(operation) for operation, *_ in tape.notes}

        def replay():
            self.replays += 1
            tape.replay()

        return replay, result


def refuse(what: str):
    raise RuntimeError(f"operation not permitted when stream is capturing: {what}\nCUDA's next line")


class _NoHost(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", None) in TO_HOST:
            refuse(f"Tensor.{function.__name__}")
        return function(*args, **(kwargs or {}))


class _Tape(TorchDispatchMode):
    def __init__(self, host):
        super().__init__()
        self._host = {_key(tensor) for tensor in host}
        self.notes = []  # operation, args, kwargs, the tensors that it made, in the order of its results
        self._made = {}  # storages of the capture's own
        self._before = {}  # storages from before that were written to, with what they held

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = operation.overloadpacket
        if packet in WAITS or packet in FROM_HOST or torch.Tag.nondeterministic_seeded in operation.tags:
            refuse(str(operation))
        if packet in BY_INDEX and any(index.dtype == torch.bool for index in _tensors(args[1])):
            refuse(str(operation))  # counts what is true
        given = {_key(tensor): tensor.untyped_storage() for tensor in _tensors((args, kwargs))}
        if self._host & given.keys():
            refuse(f"{operation} on a tensor of the host")
        written = {_key(tensor) for tensor in _written(operation, args, kwargs)}
        for key in written - self._made.keys() - self._before.keys():
            self._before[key] = given[key], given[key].clone()
        result = operation(*args, **kwargs)
        made = [tensor.detach() if _key(tensor) not in given else None for tensor in _tensors(result)]
        self._made |= {_key(tensor): tensor.untyped_storage() for tensor in made if tensor is not None}
        if written or any(tensor is not None for tensor in made):  # else a view: memory stays where it is
            args, kwargs = tree_map_only(Tensor, lambda t: t.detach() if t.requires_grad else t, (args, kwargs))
            self.notes.append((operation, args, kwargs, made))
        return result

    def undo(self):
        for storage, content in self._before.values():
            storage.copy_(content)

    def poison(self):
        for storage in self._made.values():
            storage.fill_(0xFF)  # a NaN in every floating-point type

    def replay(self):
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for operation, args, kwargs, made in self.notes:
                for old, new in zip(made, _tensors(operation(*args, **kwargs)), strict=True):
                    if old is not None:
                        old.copy_(new)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(tree) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _written(operation, args, kwargs) -> list[Tensor]:
    """The arguments that the operation writes to."""
    given = dict(zip((argument.name for argument in operation._schema.arguments), args, strict=False)) | kwargs
    names = [a.name for a in operation._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    names += UNSAID.get(operation.overloadpacket, ())
    return _tensors([given[name] for name in names if name in given])
