"""What the files of this folder share: argument checks that name the argument, and the tables behind the integers."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _native  # it registers torch.ops.sdgan_ext
from ._twins import TWINS

FLOATS = (torch.float32, torch.bfloat16, torch.float64)
HALVES = (torch.float16,)

#: The integers are those of csrc/kernels/activation.h.
ACTIVATIONS = {None: 0, "relu": 1, "leaky_relu": 2, "tanh": 3, "sigmoid": 4, "silu": 5, "elu": 6}
#: csrc/kernels/scalar.h
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2, "batchmean": 3}
TORCH_REDUCTIONS = ("none", "mean", "sum")


def check_choice(name: str, value, choices) -> None:
    if value not in choices:
        allowed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} is {value!r}; allowed are {allowed}")


def cuda_obstacle(build: dict, running: str | None = torch.version.cuda) -> str | None:
    """Why a build of :func:`sdgan_ext.build_info` cannot work on CUDA tensors of this torch, and the fix; or None."""
    rebuild = f"SDGAN_CUDA=ON {_native.REBUILD}"
    if not build["cuda"] or build["cuda_architectures"] == ["host"]:
        return f"this build of sdgan_ext has no CUDA kernels ({build['cuda_reason']}); rebuild it with `{rebuild}`"
    compiled = build["cuda_version"].split(".")[0]
    wanted = (running or compiled).split(".")[0]
    if compiled == wanted:
        return None
    return (
        f"this build of sdgan_ext was compiled with CUDA {compiled}, torch {torch.__version__} runs CUDA {running}; "
        f"rebuild it with the nvcc of CUDA {wanted} (`CUDACXX=/usr/local/cuda-{wanted}/bin/nvcc {rebuild}`)"
    )


_CUDA_OBSTACLE = cuda_obstacle(_native.build_info())  # once a process: a check must cost less than a small loss


def check_tensor(name: str, value, *, dim: int | None = None, runs: bool = True) -> None:
    """A floating-point tensor of a dtype and, where a kernel ``runs`` on it, on a device that this build takes."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if runs and not value.is_cpu:
        _check_device(name, value)
    if value.dtype not in FLOATS and (value.is_cpu or value.dtype not in HALVES):
        raise TypeError(f"{name} has dtype {value.dtype}; allowed are float32, bfloat16, float64, and float16 on CUDA")
    if dim is not None and value.dim() != dim:
        raise ValueError(f"{name} must have {dim} dimensions, got shape {tuple(value.shape)}")


def _check_device(name, value):
    if value.is_cuda:
        if _CUDA_OBSTACLE is not None:
            raise ValueError(f"{name} is on {value.device}, but {_CUDA_OBSTACLE}")
    elif not value.is_meta:
        raise ValueError(f"{name} is on {value.device}; allowed are cpu and cuda")


def check_like(name: str, value, other_name: str, other: Tensor) -> None:
    """Same dtype and device as another argument. Under autocast dtypes may differ: the op casts them."""
    if value.dtype != other.dtype and not torch.is_autocast_enabled(value.device.type):
        raise TypeError(f"{name} has dtype {value.dtype}, {other_name} has {other.dtype}; they must be the same")
    if value.device != other.device:
        raise ValueError(f"{name} is on {value.device}, {other_name} on {other.device}; they must be the same")


def check_same_shape(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.shape != other.shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, {other_name} {tuple(other.shape)}; they must match")


def check_batch(name: str, value: Tensor) -> None:
    if value.dim() == 0:
        raise ValueError(f"{name} is a scalar; its first dimension must be the batch")


def check_pair(name: str, value, other_name: str, other, *, same_shape: bool = True) -> None:
    """:func:`check_tensor` of both, ``check_like`` and ``check_same_shape``; quick where all is well, on the CPU."""
    if not (
        type(value) is Tensor is type(other)
        and value.is_cpu
        and other.is_cpu
        and value.dtype is other.dtype
        and value.dtype in FLOATS
    ):
        check_tensor(other_name, other)
        check_tensor(name, value)
        check_like(name, value, other_name, other)
    if same_shape:
        check_same_shape(name, value, other_name, other)


# ------------------------------------------------------------------------------------------------------- autograd
def plain_eager() -> bool:
    """Whether nobody listens to the dispatcher: no tracing, autocast, transforms, fake tensors or other modes."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._is_any_autocast_enabled()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
    )


def transformed() -> bool:
    """Whether torch.func or forward-mode derivatives are at work: they need operators that they know."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def autograd_function(name: str, forward, backward):
    """The ``apply`` of an autograd function, for plain eager mode: without what torch does first for functorch."""
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return super(torch.autograd.Function, type(name, (torch.autograd.Function,), members)).apply


def differentiable(op: str, backward, setup_context):
    """Registers the derivative of ``torch.ops.sdgan_ext.<op>`` and returns the function to call it by.

    ``backward`` and ``setup_context`` are as in :func:`torch.library.register_autograd`. What is returned does what the
    operator does. In plain eager mode it skips the dispatcher's way through Python, which takes longer than a small
    kernel: a loss of 64 logits is all call overhead. Tracing and autocast go the registered way; under the transforms
    of torch.func and in forward mode the twin in stock torch takes its place.
    """
    twin = TWINS[op]
    native = getattr(torch.ops.sdgan_ext, op).default
    native_op = native._op
    torch.library.register_autograd(f"sdgan_ext::{op}", backward, setup_context=setup_context)

    def forward(ctx, *inputs):
        with torch._C._AutoDispatchBelowAutograd():
            output = native_op(*inputs)
        setup_context(ctx, inputs, output)
        return output

    apply = autograd_function(op, forward, backward)

    def call(*inputs):
        if not plain_eager():
            return twin(*inputs) if transformed() else native(*inputs)
        if torch.is_grad_enabled():
            return apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return native_op(*inputs)

    return call


def reduced_loss(op: str, differentiate):
    """A loss of one element, ``torch.ops.sdgan_ext.<op>(a, b, ..., need_a, need_b) -> (loss, grad_a, grad_b)``, as a
    function of (the tensors, the other arguments without the last two) for CPU tensors in plain eager mode.

    The gradients are computed beside the loss. Where nobody can see them a second time, the backward pass hands out
    these very tensors, scaled in place if the gradient that arrives is not 1: no second pass, no fresh memory. Else
    ``differentiate(grad_loss, tensors, rest, needs, grads)`` computes them anew, differentiably.
    """
    native = getattr(torch.ops.sdgan_ext, op).default._op

    def forward(ctx, *inputs):
        *tensors, rest = inputs
        needs = ctx.needs_input_grad
        with torch._C._AutoDispatchBelowAutograd():
            loss, grad_a, grad_b = native(*tensors, *rest, needs[0], needs[1])
        ctx.grads = grad_a if needs[0] else None, grad_b if needs[1] else None
        ctx.rest = rest
        ctx.save_for_backward(*tensors)
        return loss

    def backward(ctx, grad_loss):
        tensors = ctx.saved_tensors  # raises where the graph was freed
        nothing = (None,) * (len(tensors) - 1)
        once = not torch.is_grad_enabled() and not torch._C._autograd._get_current_graph_task_keep_graph()
        factor = None
        if once and type(grad_loss) is Tensor and plain_eager():
            try:
                factor = grad_loss.item()
            except RuntimeError:  # gradients in batches (is_grads_batched) are not one number
                pass
        if factor is None:
            return *differentiate(grad_loss, tensors, ctx.rest, ctx.needs_input_grad, ctx.grads), *nothing
        grads, ctx.grads = ctx.grads, None  # theirs alone: whoever receives them may write to them
        if factor != 1:
            for grad in grads:
                if grad is not None:
                    grad.mul_(factor)
        return *grads, *nothing

    apply = autograd_function(op, forward, backward)

    def call(tensors, rest):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors[:2]):
            return apply(*tensors, rest)
        with torch._C._AutoDispatchBelowAutograd():
            return native(*tensors, *rest, False, False)[0]

    return call


def register_autocast(op: str) -> None:
    """Under autocast a loss is computed in float32, as torch does with its own."""
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(f"sdgan_ext::{op}", device, torch.float32)


def reference_vjp(function, inputs, grad_outputs):
    """Gradients of ``function(*inputs)``, a pure-torch twin, for the given output gradients.

    This is how ``<op>_backward`` is differentiated: rarely needed (gradient penalties), so the specification itself
    serves. The result can be differentiated again when the caller records a graph. An input that is None, or that
    ``function`` does not depend on, gets None.
    """
    record = torch.is_grad_enabled()

    def apart(t):
        """An own node of the graph: one input may be made from another, which is no path of ``function``."""
        return t.view_as(t) if record and t.requires_grad else t.detach().requires_grad_(True)

    with torch.enable_grad():
        inputs = [None if t is None else apart(t) for t in inputs]
        outputs = function(*inputs)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        pairs = [(o, g) for o, g in zip(outputs, grad_outputs, strict=True) if o is not None and g is not None]
        wanted = [t for t in inputs if t is not None]
        grads = iter(
            torch.autograd.grad(
                [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=record, allow_unused=True
            )
        )
    return tuple(None if t is None else next(grads) for t in inputs)


def add_grads(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
