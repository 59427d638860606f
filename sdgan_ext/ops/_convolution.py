"""What conv2d and conv_transpose2d share: arguments, fake kernels, both derivatives, autocast."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _C
from .._torch_internals import on_saved, plain_eager, saved_tensor_hooks, transformed, without_autocast_key
from . import reference
from ._autograd import add_grads, differentiable
from ._checks import FLOATS, check_activation, check_like, check_tensor
from ._enums import ACTIVATIONS, DTYPES, Activation
from ._kept_filters import offer

_NONE = ACTIVATIONS[None]
_SILU = ACTIVATIONS["silu"]
#: Those whose derivative is taken from their output here and from their input in torch, where one may therefore write
#: to the output before the backward pass.
_OUTPUT_MAY_CHANGE = (ACTIVATIONS["leaky_relu"], ACTIVATIONS["elu"])
_NAMES = {code: name for name, code in ACTIVATIONS.items()}
# ------------------------------------------------------------------------------------------- weight gradients
_without_weight_gradients = 0


@contextlib.contextmanager
def no_weight_gradients() -> Iterator[None]:
    """While active, the backward pass of convolutions computes no weight and no bias gradients: they come back None.

    For a gradient that goes *through* a network without stopping at its parameters, such as
    ``torch.autograd.grad(loss, z)`` through a generator: autograd would compute the weights' gradients, which are not
    used. Equivalent to setting ``requires_grad = False`` on them for the backward pass alone.

    It holds for the whole process, autograd's own threads included, and is read when the backward pass runs.
    """
    global _without_weight_gradients
    _without_weight_gradients += 1
    try:
        yield
    finally:
        _without_weight_gradients -= 1


# -------------------------------------------------------------------------------------------------------- paths
def explain_conv(
    input: Tensor,
    weight: Tensor,
    groups: int = 1,
    *,
    transposed: bool = False,
    stride: int | tuple[int, int] = 1,
    sides: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: int | tuple[int, int] = 1,
) -> dict[str, str]:
    """Which backend runs a convolution on the device of its input, and why; for a model: :func:`sdgan_ext.explain`.

    The backends are those of :class:`sdgan_ext.conv_backend`, whose setting is followed.

    Args:
        input, weight, groups, stride, dilation: as of :func:`conv2d`, or of :func:`conv_transpose2d` with
            ``transposed=True``. They are not read: fake tensors will do, of a CUDA device too where there is none.
        sides: padding or crop: top, bottom, left, right.

    Returns:
        ``{"forward": "small_channel: the output has 1 to 4 channels", "grad_input": ..., "grad_weight": ...,
        "grad_weight alone": ...}``; the last is that of a network's first layer, whose input needs no gradient.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.
    """
    check_arguments(input, weight, None, groups, None, 0.2, transposed=transposed, runs=False)
    strides = integers("stride", stride, 2, at_least=1)
    dilations = integers("dilation", dilation, 2, at_least=1)
    chosen = paths(input, weight, strides, list(sides), dilations, groups, transposed=transposed)
    return {case: f"{path.backend}: {path.reason}" for case, path in chosen.items()}


class Path(NamedTuple):
    """What a pass of a convolution takes.

    Attributes:
        backend: its name.
        reason: why it was chosen.
        speedup: estimate over the library, 0 where there is none.
        multiplications: that the backend makes.
    """

    backend: str
    reason: str
    speedup: float
    multiplications: float


def paths(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    sides: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    transposed: bool,
    residual_or_scale: bool = False,
) -> dict[str, Path]:
    """By the name of the pass, as :func:`explain_conv` has them."""
    shape = list((1, *input.shape)[-4:])
    size = (conv_transpose_size if transposed else conv_size)(shape[2:], weight.shape[2:], stride, sides, dilation)
    x, y = (size, shape[2:]) if transposed else (shape[2:], size)
    vertical, horizontal = ([x[i], y[i], weight.shape[2 + i], stride[i], dilation[i], sides[2 * i]] for i in range(2))
    channels_last = input.dim() == 4 and (is_channels_last(input) or is_channels_last(weight))

    def path(stage: int, both_gradients: bool) -> Path:
        return Path(
            *_C.explain_convolution(
                transposed,
                shape[0],
                weight.shape[1] * groups,
                weight.shape[0],
                groups,
                vertical,
                horizontal,
                DTYPES[weight.dtype],
                input.is_cuda,
                channels_last,
                stage,
                both_gradients,
                residual_or_scale,
            )
        )

    return {
        "forward": path(0, False),
        "grad_input": path(1, True),
        "grad_weight": path(2, True),
        "grad_weight alone": path(2, False),
    }


# Called by the native code for a float32 convolution on CUDA, in compiled graphs too, where no Python frame runs.
_C.ask_tf32(lambda: torch.backends.cudnn.conv.fp32_precision == "tf32")  # type: ignore[attr-defined]


def _reduced_precision() -> bool:
    """Likewise for one on the CPU that F(4x4, 3x3) could serve."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # torch has no one answer once precisions were set by backend
        return False


_C.ask_reduced_precision(_reduced_precision)


# -------------------------------------------------------------------------------------------------- arguments
_INTEGER = (int, torch.SymInt)
_MOST = 2**30  # the kernels' positions fit 32 bits


def integers(name: str, value: object, count: int, *, at_least: int) -> list[int]:
    """An int, repeated, or a sequence of ``count`` ints."""
    if type(value) is tuple and len(value) == count:  # quick where all is well, as layers have it
        for n in value:
            if type(n) is not int or not at_least <= n < _MOST:
                break
        else:
            return list(value)
    numbers: list[Any] = list(value) if isinstance(value, (tuple, list)) else [value] * count
    for n in numbers:
        if not isinstance(n, _INTEGER) or isinstance(n, bool):
            raise TypeError(f"{name} is {value!r}; it must be an int or {count} ints")
    if len(numbers) != count:
        raise ValueError(f"{name} is {value!r}; it must be an int or {count} ints")
    for n in numbers:
        if n < at_least:
            raise ValueError(f"{name} is {value!r}; it must be at least {at_least}")
        if n >= _MOST:
            raise ValueError(f"{name} is {value!r}; it must be below 2^30")
    return numbers


def sides(name: str, value: object) -> list[int]:
    """(top, bottom, left, right) from an int, a (vertical, horizontal) pair or the four."""
    if isinstance(value, (tuple, list)) and len(value) == 4:
        return integers(name, value, 4, at_least=0)
    vertical, horizontal = integers(name, value, 2, at_least=0)
    return [vertical, vertical, horizontal, horizontal]


def check_arguments(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    activation: str | None,
    negative_slope: float,
    *,
    transposed: bool,
    runs: bool = True,
) -> None:
    """All that the two convolutions check alike, but for the geometry."""
    check_activation(activation, negative_slope)
    check_tensor("input", input, runs=runs)
    check_tensor("weight", weight, dim=4, runs=runs)
    shape, kernel = input.shape, weight.shape
    if len(shape) not in (3, 4):
        raise ValueError(f"input must be [N, C, H, W] or [C, H, W], got shape {tuple(shape)}")
    if groups != 1 or type(groups) is not int:
        integers("groups", groups, 1, at_least=1)
    first, second = kernel[0], kernel[1] * groups
    takes, makes = (first, second) if transposed else (second, first)
    channels = shape[-3]
    if first % groups:
        raise ValueError(f"groups is {groups}; it must divide the first size of weight, {first}")
    if min(kernel) == 0:
        raise ValueError(f"weight has shape {tuple(kernel)}; no size may be 0")
    if channels != takes:
        raise ValueError(
            f"input has {channels} channels; weight of shape {tuple(kernel)} with groups {groups} takes {takes}"
        )
    check_like("weight", weight, "input", input)
    if bias is not None:
        check_tensor("bias", bias, dim=1)
        if bias.shape[0] != makes:
            raise ValueError(f"bias has shape {tuple(bias.shape)}; the output has {makes} channels")
        check_like("bias", bias, "input", input)


def check_output_size(size: Sequence[int], kernel: Sequence[int], output: Sequence[int]) -> None:
    if min(size) < 1 or min(output) < 1:
        raise ValueError(
            f"input of size {tuple(size)} with a kernel of {tuple(kernel)} gives an output of size {tuple(output)}; no "
            "size may be below 1"
        )


def residual_or_scale(residual: Tensor | None = None, output_scale: float = 1.0) -> bool:
    """Whether a convolution is more than ``activation(convolution + bias)``."""
    return residual is not None or output_scale != 1


def call(op: Callable[..., Any], input: Tensor, *args: Any) -> Tensor:
    """The op on [N, C, H, W], or on [C, H, W] as torch's convolutions do."""
    if input.dim() == 3:
        return op(input.unsqueeze(0), *args)[0].squeeze(0)
    return op(input, *args)[0]


def of_layer(
    public: Callable[..., Tensor], op: Callable[..., Any], geometry: Callable[..., Any], *, transposed: bool
) -> Callable[..., Tensor]:
    """``public`` as a function of (input, weight, bias, groups, activation, negative_slope, *geometry) that keeps what
    it has found of a geometry. Whatever is not as usual ``public`` itself computes, or refuses: a residual, for one.
    """
    known = functools.lru_cache(maxsize=4096)(geometry)
    names = tuple(inspect.signature(geometry).parameters)[2:]

    def of_layer(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        groups: int,
        activation: Activation | None,
        negative_slope: float,
        *where: Any,
        **added: Any,
    ) -> Tensor:
        if not added and plain_eager():
            shape, kernel, dtype = input.shape, weight.shape, input.dtype
            if (
                len(shape) == 4
                and shape[1] == (kernel[0] if transposed else kernel[1] * groups)
                and dtype in FLOATS
                and weight.dtype is dtype
                and (bias is None or bias.dtype is dtype)
                and input.is_cpu
                and weight.is_cpu
                and 0 <= negative_slope < math.inf
            ):
                settings = *known(shape[2:], kernel[2:], *where), groups, ACTIVATIONS[activation], negative_slope
                return op(input, weight, bias, *settings)[0]
        options = dict(zip(names, where, strict=True))
        return public(
            input, weight, bias, groups=groups, activation=activation, negative_slope=negative_slope, **options, **added
        )

    return of_layer


def conv_size(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int]:
    def along(i: int) -> int:
        padded = size[i] + padding[2 * i] + padding[2 * i + 1]
        return (padded - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1

    return along(0), along(1)


def conv_transpose_size(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], crop: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int]:
    def along(i: int) -> int:
        full = (size[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        return full - crop[2 * i] - crop[2 * i + 1]

    return along(0), along(1)


# -------------------------------------------------------------------------------------------------- registration
def is_channels_last(t: Tensor) -> bool:
    """As C++'s ``suggest_memory_format``: by strides, and contiguous where they leave it open."""
    if t.stride(1) == 0:
        return False
    at_least = 0
    for d in (1, 3, 2, 0):
        if t.shape[d] == 0 or t.stride(d) < at_least or (d == 0 and at_least == t.stride(1)):
            return False
        at_least = t.stride(d) * t.shape[d]
    return True


def _empty(like: Tensor, shape: Sequence[int], channels_last: bool) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def register(name: str, *, transposed: bool) -> Callable[..., Any]:
    """Fake kernels, first and second derivative and autocast of ``sdgan_ext::<name>`` and its backward.

    Returns the function to call the former by.
    """
    output_size = conv_transpose_size if transposed else conv_size

    def fake(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        sides: list[int],
        dilation: list[int],
        groups: int,
        activation: int,
        negative_slope: float,
        residual: Tensor | None = None,
        output_scale: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        channels_last = is_channels_last(input) or is_channels_last(weight)
        size = output_size(input.shape[2:], weight.shape[2:], stride, sides, dilation)
        channels = weight.shape[1] * groups if transposed else weight.shape[0]
        shape = (input.shape[0], channels, *size)
        output = _empty(input, shape, channels_last)
        preactivation = _empty(input, shape, channels_last) if activation == _SILU else input.new_empty((0,))
        return output, preactivation

    def fake_backward(
        grad_output: Tensor, input: Tensor, weight: Tensor, saved: Tensor, *settings: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        channels_last = is_channels_last(input) or is_channels_last(weight)
        need_input, need_weight, need_bias = settings[-3:]
        nothing = input.new_empty((0,))
        return (
            _empty(input, input.shape, channels_last) if need_input else nothing,
            _empty(weight, weight.shape, is_channels_last(weight)) if need_weight else nothing.clone(),
            input.new_empty((grad_output.shape[1],)) if need_bias else nothing.clone(),
        )

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        input, weight, bias = inputs[:3]
        ctx.settings = inputs[3:9]
        residual, ctx.output_scale = inputs[9:] or (None, 1.0)
        activation = ctx.settings[-2]
        ctx.has_bias = bias is not None
        if activation in _OUTPUT_MAY_CHANGE:
            ctx.added = [(t, 0 if t is None else t._version) for t in (bias, residual)]
        ctx.save_for_backward(input, weight, output[1] if activation in (_NONE, _SILU) else output[0])
        ctx.set_materialize_grads(False)

    def derivative(
        ctx: Any, grad_output: Tensor | None, grad_preactivation: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        input, weight, saved = ctx.saved_tensors
        *geometry, activation, negative_slope = ctx.settings
        if activation in _OUTPUT_MAY_CHANGE and grad_output is not None and saved.shape != grad_output.shape:
            bias, residual = (_unchanged(*added) for added in ctx.added)
            last = (residual, ctx.output_scale) if residual_or_scale(residual, ctx.output_scale) else ()
            saved = fused(input, weight, bias, *ctx.settings, *last)[0]
        wanted = [ctx.needs_input_grad[0], False, False]
        if not _without_weight_gradients:
            wanted[1:] = ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2]
        want_residual = ctx.needs_input_grad[9:10] == (True,)
        v = grad_preactivation if activation == _SILU else None  # from its second derivative
        if want_residual or ctx.output_scale != 1:  # the activation's gradient once, for all of them
            if grad_output is not None:
                v = add_grads(_activation_backward(activation, negative_slope, saved, grad_output), v)
                grad_output = None
            if v is not None and ctx.output_scale != 1:
                v = v * ctx.output_scale
        grads: tuple[Tensor | None, ...] = (None, None, None)
        if grad_output is not None:
            grads = backward(grad_output, input, weight, saved, *ctx.settings, *wanted)
        if v is not None and any(wanted):
            more = backward(v, input, weight, saved.new_empty((0,)), *geometry, _NONE, 0.0, *wanted)
            grads = tuple(add_grads(a, b) for a, b in zip(grads, more, strict=True))
        grads = tuple(g if want else None for g, want in zip(grads, wanted, strict=True))
        return *grads, *([None] * len(ctx.settings)), v if want_residual else None, None

    def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        tensors, settings = inputs[:4], inputs[4:]
        ctx.geometry, ctx.activation, ctx.had = settings[:4], settings[4:6], settings[6:]
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    def second_derivative(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        # With v = grad_output * act'(saved):  dx = dgrad(v, w), dw = wgrad(v, x), db = sum(v); the derivatives below
        # are those of <grad_dx, dx> + <grad_dw, dw> + <grad_db, db>, which is <u, v>.
        grad_output, input, weight, saved = ctx.saved_tensors
        grad_dx, grad_dw, grad_db = (g if had else None for g, had in zip(grads, ctx.had, strict=True))
        plain = (*ctx.geometry, _NONE, 0.0)
        needs = ctx.needs_input_grad
        activation, negative_slope = ctx.activation
        factor = reference.activation_gradient(activation, negative_slope, saved)
        v = grad_output if factor is None else grad_output * factor

        d_grad_output = d_input = d_weight = d_saved = None
        if needs[0] or (needs[3] and factor is not None):
            u = None
            if grad_dx is not None:
                u = forward(grad_dx, weight, None, *plain)[0]
            if grad_dw is not None:
                u = add_grads(u, forward(input, grad_dw, None, *plain)[0])
            if grad_db is not None:
                u = add_grads(u, grad_db[:, None, None].expand_as(grad_output))
            if u is not None:
                d_grad_output = u if factor is None else u * factor
                second = reference.activation_second_derivative(activation, saved)
                if second is not None:
                    d_saved = u * grad_output * second
        want_input = needs[1] and grad_dw is not None
        want_weight = needs[2] and grad_dx is not None and not _without_weight_gradients
        if want_input or want_weight:
            d_input, d_weight, _ = backward(
                v,
                input if grad_dx is None else grad_dx,
                weight if grad_dw is None else grad_dw,
                grad_output.new_empty((0,)),
                *plain,
                want_input,
                want_weight,
                False,
            )
        return (
            d_grad_output,
            d_input if want_input else None,
            d_weight if want_weight else None,
            d_saved,
            *([None] * (len(ctx.geometry) + len(ctx.activation) + len(ctx.had))),
        )

    torch.library.register_fake(f"sdgan_ext::{name}", fake)
    torch.library.register_fake(f"sdgan_ext::{name}_backward", fake_backward)
    fused = differentiable(name, derivative, setup)

    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            offer(inputs[1])
            return fused(*inputs)
        activation, negative_slope = inputs[7:9]
        if activation not in _OUTPUT_MAY_CHANGE:
            return fused(*inputs)
        if torch.compiler.is_compiling() or transformed():  # nothing is written to there
            return fused(*inputs)
        if saved_tensor_hooks() is not None:  # with a checkpoint's, say, nobody knows whether a saved tensor changed
            output, nothing = fused(*inputs[:7], _NONE, 0.0, *inputs[9:])
            return reference.activate(output, _NAMES[activation], negative_slope), nothing
        output, nothing = fused(*inputs)
        if output.requires_grad:
            on_saved(output, 2, _with_version, _as_it_was)
        return output, nothing

    backward = differentiable(f"{name}_backward", second_derivative, setup_backward)
    # Not for backward: its tensors are cast already, and autograd's threads do not have the region's dtype.
    for device in ("CPU", "CUDA"):
        _register_autocast(name, device)
    return forward


_library = torch.library.Library("sdgan_ext", "FRAGMENT")


def _register_autocast(name: str, device: str) -> None:
    """Inside autocast, float32 arguments are cast as torch casts those of its convolutions."""
    op = getattr(torch.ops.sdgan_ext, name).default
    without_key = without_autocast_key(device)

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
            return value.to(torch.get_autocast_dtype(device.lower()))
        return value

    def autocast(*args: Any) -> Any:
        if device == "CPU" and torch.get_autocast_dtype("cpu") == torch.float16 and args[0].dtype != torch.float64:
            raise TypeError(
                f"autocast on the CPU is to torch.float16, which {name} has on CUDA alone; allowed is torch.bfloat16"
            )
        with without_key():
            return op(*map(cast, args))

    _library.impl(op, autocast, f"Autocast{device}")


def _activation_backward(activation: int, negative_slope: float, saved: Tensor, grad: Tensor) -> Tensor:
    """``grad`` times the derivative of the activation, in one pass of torch's where nobody differentiates it again."""
    if torch.is_grad_enabled():
        factor = reference.activation_gradient(activation, negative_slope, saved)
        return grad if factor is None else grad * factor
    aten = torch.ops.aten
    passes: dict[Activation | None, Callable[[], Tensor]] = {
        None: lambda: grad,
        "relu": lambda: aten.threshold_backward(grad, saved, 0),
        "leaky_relu": lambda: aten.leaky_relu_backward(grad, saved, negative_slope, True),
        "tanh": lambda: aten.tanh_backward(grad, saved),
        "sigmoid": lambda: aten.sigmoid_backward(grad, saved),
        "silu": lambda: aten.silu_backward(grad, saved),
        "elu": lambda: aten.elu_backward(grad, 1, 1, 1, True, saved),
    }
    return passes[_NAMES[activation]]()


def _with_version(output: Tensor) -> tuple[Tensor, int]:
    return output, output._version


def _as_it_was(packed: tuple[Tensor, int]) -> Tensor:
    """The output that was saved, or an empty tensor where it has been written to since."""
    output, version = packed
    return output if output._version == version else output.new_empty(0)


def _unchanged(added: Tensor | None, version: int) -> Tensor | None:
    if added is not None and added._version != version:
        raise RuntimeError(
            "the output of a convolution was modified by an inplace operation, and its bias or residual as well: one "
            "of them is needed for the gradient"
        )
    return added


def same_padding(kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """torch's ``padding="same"``: half of ``dilation * (kernel - 1)`` on each side, the odd one at the end."""
    if any(s != 1 for s in stride):
        raise ValueError(f"padding is 'same', but stride is {tuple(stride)}; 'same' needs stride 1")
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return [side for total in totals for side in (total // 2, math.ceil(total / 2))]
