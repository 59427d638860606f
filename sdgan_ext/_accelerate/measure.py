"""Runs the example: whether the accelerated model computes the same, and how fast each layer and the whole are.

Nothing of it stays in the model: buffers and random states are put back, gradients go nowhere.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._torch_internals import tree_leaves, tree_map_only
from .report import Speedup

__all__ = ["Arguments", "Example", "difference", "inputs_seen", "speedup"]

#: Largest relative error in norm of outputs and gradients; whole models, where a batch norm after a batch norm adds up.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 2e-2}
_ROUNDS = (3, 30)

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Example:
    """The model, called with inputs of the user's.

    Args:
        inputs: a tensor, a tuple of what the model takes, or a mapping of its keywords.

    Raises:
        TypeError: inputs is none of these, or the model does not take it.
    """

    def __init__(self, model: nn.Module, inputs: Any):
        self.model = model
        self.args: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}
        if isinstance(inputs, Tensor):
            self.args = (inputs,)
        elif isinstance(inputs, (tuple, list)):
            self.args = tuple(inputs)
        elif isinstance(inputs, Mapping):
            self.options = dict(inputs)
        else:
            raise TypeError(
                f"example_inputs is a {type(inputs).__name__}; it must be a tensor, a tuple of the model's arguments "
                "or a dict of its keywords"
            )

    def outputs(self) -> list[Tensor]:
        return _tensors(self.model(*self.args, **self.options))

    def gradients(self) -> list[Tensor]:
        """Of the sum of the outputs' squares, with respect to all that takes one; nothing is accumulated."""
        outputs = self.outputs()
        loss = sum(output.float().square().mean() for output in outputs if output.requires_grad)
        taking = [t for t in (*self.model.parameters(), *_tensors((self.args, self.options))) if t.requires_grad]
        if not taking or not isinstance(loss, Tensor):
            return []
        gradients = torch.autograd.grad(loss, taking, allow_unused=True)
        return [gradient for gradient in gradients if gradient is not None]

    def results(self) -> list[Tensor]:
        """Outputs and gradients, from the same random numbers and buffers every time."""
        with self.undisturbed():
            outputs = [output.detach() for output in self.outputs()]
        with self.undisturbed():
            return outputs + self.gradients()

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Buffers, the random state and every plain attribute that is a tensor come back as they were."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        devices = {t.device for t in self.model.parameters() if t.is_cuda}
        with torch.random.fork_rng(devices=devices):
            try:
                yield
            finally:
                with torch.no_grad():
                    for buffer, before in buffers:
                        buffer.copy_(before)


def difference(got: list[Tensor], want: list[Tensor]) -> str | None:
    """What differs beyond rounding, in words."""
    if [t.shape for t in got] != [t.shape for t in want]:
        return "the outputs' shapes differ"
    for a, b in zip(got, want, strict=True):
        scale = b.double().norm()
        error = ((a.double() - b.double()).norm() / scale.clamp_min(1e-30)).item()
        if not error <= TOLERANCE.get(b.dtype, 1e-3) and not (scale < 1e-6 and a.double().norm() < 1e-5):
            return f"a result of shape {tuple(b.shape)} differs from stock's by {error:.1e} of its norm"
    return None


def inputs_seen(example: Example, modules: list[nn.Module]) -> dict[nn.Module, Arguments]:
    """The first arguments of each of the modules that ran, detached; they require gradients where those did."""
    seen: dict[nn.Module, Arguments] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            seen.setdefault(module, tree_map_only(Tensor, detached, (args, kwargs)))

    def detached(argument: Tensor) -> Tensor:
        return argument.detach().requires_grad_(argument.requires_grad)

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    try:
        with example.undisturbed():
            example.outputs()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def speedup(
    forward: Callable[[], Any],
    training: Callable[[], Any] | None,
    fuse: Callable[[], Any],
    restore: Callable[[], Any],
    seconds: float,
) -> Speedup:
    """Of stock over ours, where ``restore`` makes stock and ``fuse`` makes ours; leaves it at ours."""
    return Speedup(
        _take_turns(forward, fuse, restore, seconds),
        None if training is None else _take_turns(training, fuse, restore, seconds),
    )


def _take_turns(run: Callable[[], Any], fuse: Callable[[], Any], restore: Callable[[], Any], seconds: float) -> float:
    times: dict[bool, list[float]] = {False: [], True: []}
    for switch in (restore, fuse):
        switch()
        run()
    end = time.perf_counter() + seconds
    least, most = _ROUNDS
    while len(times[True]) < least or (time.perf_counter() < end and len(times[True]) < most):
        for accelerated, switch in ((False, restore), (True, fuse)):
            switch()
            start = time.perf_counter()
            run()
            times[accelerated].append(time.perf_counter() - start)
    return statistics.median(times[False]) / statistics.median(times[True])


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
