"""How the operators are differentiated and called: registered with torch, and a shorter way in plain eager mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _native  # noqa: F401  it registers torch.ops.sdgan_ext
from .._torch_internals import below_autograd, graph_is_kept, overload_call, plain_apply, plain_eager, transformed
from .reference import DECOMPOSITIONS

#: A gradient for each input of an operator, None where there is none.
Grads = Sequence[Tensor | None]


def autograd_function(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """The ``apply`` of an autograd function, for plain eager mode: without what torch does first for functorch."""
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return plain_apply(type(name, (torch.autograd.Function,), members))


def differentiable(op: str, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> Callable[..., Any]:
    """Registers the derivative of ``torch.ops.sdgan_ext.<op>`` and returns the function to call it by.

    ``backward`` and ``setup_context`` are as in :func:`torch.library.register_autograd`. What is returned does what the
    operator does. In plain eager mode it skips the dispatcher's way through Python, which takes longer than a small
    kernel: a loss of 64 logits is all call overhead. Tracing and autocast go the registered way; under the transforms
    of torch.func and in forward mode the decomposition into stock torch takes its place.
    """
    decomposition = DECOMPOSITIONS[op]
    overload = getattr(torch.ops.sdgan_ext, op).default
    kernel = overload_call(overload)
    torch.library.register_autograd(f"sdgan_ext::{op}", backward, setup_context=setup_context)

    def forward(ctx: Any, *inputs: Any) -> Any:
        with below_autograd():
            output = kernel(*inputs)
        setup_context(ctx, inputs, output)
        return output

    apply = autograd_function(op, forward, backward)

    def call(*inputs: Any) -> Any:
        if not plain_eager():
            return decomposition(*inputs) if transformed() else overload(*inputs)
        if torch.is_grad_enabled():
            return apply(*inputs)
        with below_autograd():
            return kernel(*inputs)

    return call


def reduced_loss(op: str, differentiate: Callable[..., Iterator[Tensor | None]]) -> Callable[..., Tensor]:
    """A loss of one element, ``torch.ops.sdgan_ext.<op>(a, b, ..., need_a, need_b) -> (loss, grad_a, grad_b)``, as a
    function of (the tensors, the other arguments without the last two) for CPU tensors in plain eager mode.

    The gradients are computed beside the loss. Where they cannot be read a second time, the backward pass returns
    these very tensors, scaled in place if the gradient that arrives is not 1: no second pass, no fresh memory. Else
    ``differentiate(grad_loss, tensors, rest, needs, grads)`` computes them anew, differentiably.
    """
    kernel = overload_call(getattr(torch.ops.sdgan_ext, op).default)

    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, rest = inputs
        needs = ctx.needs_input_grad
        with below_autograd():
            loss, grad_a, grad_b = kernel(*tensors, *rest, needs[0], needs[1])
        ctx.grads = grad_a if needs[0] else None, grad_b if needs[1] else None
        ctx.rest = rest
        ctx.save_for_backward(*tensors)
        return loss

    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors  # raises where the graph was freed
        no_grads = (None,) * (len(tensors) - 1)  # of the other inputs
        factor = _one_number(grad_loss) if _runs_once() else None
        if factor is None:
            return *differentiate(grad_loss, tensors, ctx.rest, ctx.needs_input_grad, ctx.grads), *no_grads
        grads, ctx.grads = ctx.grads, None  # theirs alone: whoever receives them may write to them
        if factor != 1:
            for grad in grads:
                if grad is not None:
                    grad.mul_(factor)
        return *grads, *no_grads

    apply = autograd_function(op, forward, backward)

    def call(tensors: Sequence[Tensor | None], rest: Sequence[Any]) -> Tensor:
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors[:2]):
            return apply(*tensors, rest)
        with below_autograd():
            return kernel(*tensors, *rest, False, False)[0]

    return call


def _runs_once() -> bool:
    """Whether the backward pass that runs is the last of its graph and is not differentiated itself."""
    return not torch.is_grad_enabled() and not graph_is_kept()


def _one_number(grad: Tensor) -> float | None:
    """The value of a scalar, None where it has none: under modes and transforms, or with ``is_grads_batched``."""
    if type(grad) is not Tensor or not plain_eager():
        return None
    try:
        return grad.item()
    except RuntimeError:
        return None


def register_autocast(op: str) -> None:
    """Under autocast a loss is computed in float32, as torch does with its own."""
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(f"sdgan_ext::{op}", device, torch.float32)


def reference_vjp(function: Callable[..., Any], inputs: Grads, grad_outputs: Grads) -> tuple[Tensor | None, ...]:
    """Gradients of ``function(*inputs)``, a reference in plain torch, for the given output gradients.

    This is how ``<op>_backward`` is differentiated: rarely needed (gradient penalties), so the specification itself
    serves. The result can be differentiated again when the caller records a graph. An input that is None, or that
    ``function`` does not depend on, gets None.
    """
    record = torch.is_grad_enabled()

    def separate(t: Tensor) -> Tensor:
        """A node of its own in the graph: one input may be made from another, which is no path of ``function``."""
        return t.view_as(t) if record and t.requires_grad else t.detach().requires_grad_(True)

    with torch.enable_grad():
        leaves = [None if t is None else separate(t) for t in inputs]
        outputs = function(*leaves)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        pairs = [(o, g) for o, g in zip(outputs, grad_outputs, strict=True) if o is not None and g is not None]
        grads = iter(
            torch.autograd.grad(
                [output for output, _ in pairs],
                [leaf for leaf in leaves if leaf is not None],
                [grad for _, grad in pairs],
                create_graph=record,
                allow_unused=True,
            )
        )
    return tuple(None if leaf is None else next(grads) for leaf in leaves)


def add_grads(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum, where None stands for zeros."""
    if a is None:
        return b
    if b is None:
        return a
    return a + b
