"""What the files of this folder share: argument checks that name the argument, and the tables behind the integers."""

import torch
from torch import Tensor

from .. import _native  # it registers torch.ops.sdgan_ext

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


def differentiable(op: str, backward, setup_context):
    """Registers the derivative of ``torch.ops.sdgan_ext.<op>`` and returns the function to call it by.

    ``backward`` and ``setup_context`` are as in :func:`torch.library.register_autograd`. What is returned does what the
    operator does. In plain eager mode it skips the dispatcher's way through Python, which takes longer than a small
    kernel: a loss of 64 logits is all call overhead. Tracing, autocast and functorch go the registered way.
    """
    native = getattr(torch.ops.sdgan_ext, op).default
    torch.library.register_autograd(f"sdgan_ext::{op}", backward, setup_context=setup_context)

    def forward(ctx, *inputs):
        with torch._C._AutoDispatchBelowAutograd():
            output = native(*inputs)
        setup_context(ctx, inputs, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function = type(op, (torch.autograd.Function,), members)

    def call(*inputs):
        if (
            torch.compiler.is_compiling()
            or torch._C._is_any_autocast_enabled()
            or torch._C._are_functorch_transforms_active()
        ):
            return native(*inputs)
        if torch.is_grad_enabled():
            return function.apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return native(*inputs)

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
    with torch.enable_grad():
        inputs = [t if t is None or (record and t.requires_grad) else t.detach().requires_grad_(True) for t in inputs]
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
