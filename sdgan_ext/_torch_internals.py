"""Every private part of torch that this package uses, and why: a new version of torch is a look at this file.

No other file names one: ``python_tests/test_torch_internals.py`` checks that, and runs each of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.autograd import forward_ad
from torch.nn import _reduction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = [
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FakeTensorMode",
    "MODULE_REGISTRIES",
    "OpOverload",
    "TorchDispatchMode",
    "any_global_hooks",
    "autocast_to_half",
    "below_autograd",
    "check_input_dim",
    "children_of",
    "end_allocation_to_pool",
    "exporting",
    "foreach_add_",
    "foreach_div_",
    "foreach_lerp_",
    "graph_is_kept",
    "has_hooks",
    "legacy_reduction",
    "on_saved",
    "output_padding_for",
    "overload_call",
    "padding_for_pad",
    "plain_apply",
    "plain_eager",
    "run_plain_convolution",
    "saved_tensor_hooks",
    "shares_storage",
    "transformed",
    "tree_leaves",
    "tree_map_only",
    "uncompiled",
    "without_autocast_key",
]

# ------------------------------------------------------------------------------------------------- the dispatcher
# Every call of an op passes here, so these are torch's own functions and no wrappers of ours where that is possible.
_any_autocast = torch._C._is_any_autocast_enabled
_functorch_active = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack

#: A context: a kernel is called past autograd's, whose work the caller does. ``register_autograd`` does it so.
below_autograd = torch._C._AutoDispatchBelowAutograd


def plain_eager(*, casts: bool = True) -> bool:
    """Whether a call goes to the kernel unseen: no tracing, autocast, transforms, fake tensors or other modes.

    ``casts=False`` is for an operator that autocast leaves alone.
    """
    return not (
        torch.compiler.is_compiling()
        or (casts and _any_autocast())
        or _functorch_active()
        or _dispatch_modes()
        or forward_ad._current_level >= 0
    )


def autocast_to_half() -> bool:
    """Whether autocast to float16 is on for the CPU."""
    if not (torch.compiler.is_compiling() or _any_autocast()):  # the quickest look first
        return False
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16


def exporting() -> bool:
    """Whether the call is recorded to run elsewhere: torch.export, torch.jit.trace, either way to ONNX."""
    return torch.compiler.is_exporting() if torch.compiler.is_compiling() else torch._C._is_tracing()


def transformed() -> bool:
    """Whether torch.func or forward-mode derivatives are at work: they need operators that they know."""
    return _functorch_active() or forward_ad._current_level >= 0


def overload_call(overload: OpOverload) -> Callable[..., Any]:
    """The C++ entry of an operator, without the Python frame around it that handles what plain eager mode has not."""
    return overload._op


def without_autocast_key(device: str) -> Callable[[], Any]:
    """Makes the context in which an operator is called past its autocast kernel; device is "CPU" or "CUDA"."""
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device}"))
    return lambda: torch._C._ExcludeDispatchKeyGuard(keys)


# ------------------------------------------------------------------------------------------------------- autograd
def plain_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply`` without what torch does in Python first, for functorch: a third of a small call."""
    return cast(Callable[..., Any], super(torch.autograd.Function, function).apply)  # type: ignore[misc]


def graph_is_kept() -> bool:
    """Whether the backward pass that runs was asked to keep its graph, so that a second one may follow."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def saved_tensor_hooks() -> object:
    """The hooks on all that autograd saves at present (a checkpoint's, an offload's), None where there are none."""
    if torch.compiler.is_compiling():
        return None
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def on_saved(output: Tensor, index: int, pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> None:
    """``saved_tensors_hooks`` for one of the tensors that the node of ``output`` has saved."""
    cast(Any, output.grad_fn)._raw_saved_tensors[index].register_hooks(pack, unpack)


def shares_storage(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in one storage; comparing pointers would refuse fake tensors."""
    return torch._C._is_alias_of(a, b)  # type: ignore[attr-defined, no-any-return, unused-ignore]


# ------------------------------------------------------------------------- many tensors at once, as in torch.optim
foreach_add_ = torch._foreach_add_
foreach_div_ = torch._foreach_div_
foreach_lerp_ = torch._foreach_lerp_


# -------------------------------------------------------------------------------------------------------- modules
#: The attributes of a module that hold what it registers.
MODULE_REGISTRIES = ("_parameters", "_buffers", "_modules")


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """The dictionary of the children itself: writing to it replaces one without ``__setattr__`` of the user's."""
    return module._modules


def has_hooks(module: nn.Module, *, before_forward: bool = True) -> bool:
    """Whether a call of the module calls hooks; ``before_forward=False`` leaves forward pre-hooks out."""
    own = module.__dict__
    if own["_forward_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        return True
    return before_forward and bool(own["_forward_pre_hooks"])


_module = nn.modules.module
_GLOBAL_HOOKS = (
    _module._global_forward_hooks,
    _module._global_forward_pre_hooks,
    _module._global_backward_hooks,
    _module._global_backward_pre_hooks,
)


def any_global_hooks() -> bool:
    """Whether there are hooks that every call of every module calls."""
    return any(_GLOBAL_HOOKS)


def run_plain_convolution(layer: nn.Conv2d, input: Tensor) -> Tensor:
    """``torch.nn.Conv2d.forward``, past what a subclass makes of it."""
    return nn.Conv2d._conv_forward(layer, input, layer.weight, layer.bias)


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """What :func:`torch.compile` was given, or ``function`` itself."""
    return cast(Callable[..., Any], getattr(function, "_orig_mod", function))


def check_input_dim(layer: nn.BatchNorm2d, input: Tensor) -> None:
    """torch's own refusal of an input that is not [N, C, H, W], in its words."""
    layer._check_input_dim(input)


def padding_for_pad(layer: nn.Conv2d) -> list[int]:
    """The padding of a convolution in the order of :func:`torch.nn.functional.pad`."""
    return layer._reversed_padding_repeated_twice


def output_padding_for(layer: nn.ConvTranspose2d, input: Tensor, output_size: list[int] | None) -> list[int]:
    """The output padding that gives ``output_size``, or the layer's own where that is None; refuses as torch does."""
    geometry: tuple[Any, ...] = layer.stride, layer.padding, layer.kernel_size, 2, layer.dilation
    return layer._output_padding(input, output_size, *geometry)


def legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    """The ``reduction`` that torch's deprecated pair of arguments stands for, with torch's warning."""
    return _reduction.legacy_get_string(size_average, reduce)


# ----------------------------------------------------------------------------------------------------- CUDA graphs
def end_allocation_to_pool(device_index: int, pool: tuple[int, int]) -> None:
    """Ends what a failed capture leaves open in torch before 2.12: allocations still go to the graph's pool."""
    torch._C._cuda_endAllocateToPool(device_index, pool)
