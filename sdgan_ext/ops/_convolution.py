"""What conv2d and conv_transpose2d share: arguments, fake kernels, both derivatives, autocast."""

import contextlib
import math

import torch
from torch import Tensor

from .. import _C
from .._torch_internals import without_autocast_key
from . import reference
from ._autograd import add_grads, differentiable
from ._checks import check_choice, check_like, check_tensor
from ._enums import ACTIVATIONS, DTYPES

_NONE = ACTIVATIONS[None]
_SILU = ACTIVATIONS["silu"]

# ------------------------------------------------------------------------------------------- weight gradients
_without_weight_gradients = 0


@contextlib.contextmanager
def no_weight_gradients():
    """While active, the backward pass of convolutions computes no weight and no bias gradients: they come back None.

    For a gradient that goes *through* a network without stopping at its parameters, such as
    ``torch.autograd.grad(loss, z)`` through a generator: autograd cannot know that the weights' gradients are thrown
    away. It holds for the whole process, autograd's own threads included, and is read when the backward pass runs.
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
    stride=1,
    sides=(0, 0, 0, 0),
    dilation=1,
) -> dict[str, str]:
    """Which backend runs a convolution on the device of its input, and why. :func:`sdgan_ext.explain` asks for a model.

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
    check_arguments(input, weight, None, groups, None, transposed=transposed, runs=False)
    stride, dilation = integers("stride", stride, 2, at_least=1), integers("dilation", dilation, 2, at_least=1)
    asked = paths(input, weight, stride, list(sides), dilation, groups, transposed=transposed)
    return {case: f"{kernel}: {reason}" for case, (kernel, reason, *_) in asked.items()}


def paths(input, weight, stride, sides, dilation, groups, *, transposed: bool) -> dict[str, tuple]:
    """The kernel of each pass, the reason, its estimated speed-up over the library or 0, and its multiplications."""
    shape = list((1, *input.shape)[-4:])
    size = (conv_transpose_size if transposed else conv_size)(shape[2:], weight.shape[2:], stride, sides, dilation)
    x, y = (size, shape[2:]) if transposed else (shape[2:], size)
    axes = [[x[i], y[i], weight.shape[2 + i], stride[i], dilation[i], sides[2 * i]] for i in range(2)]
    geometry = (transposed, shape[0], weight.shape[1] * groups, weight.shape[0], groups, *axes)
    channels_last = input.dim() == 4 and (_is_channels_last(input) or _is_channels_last(weight))
    where = (DTYPES[weight.dtype], input.is_cuda, channels_last)
    cases = {"forward": (0, False), "grad_input": (1, True), "grad_weight": (2, True), "grad_weight alone": (2, False)}
    return {case: _C.explain_convolution(*geometry, *where, *which) for case, which in cases.items()}


#: Asked by the native code, on CUDA and in float32, where Python's frame is not at hand: in compiled graphs too.
_C.ask_tf32(lambda: torch.backends.cudnn.conv.fp32_precision == "tf32")


# -------------------------------------------------------------------------------------------------- arguments
_INTEGER = (int, torch.SymInt)


def integers(name: str, value, count: int, *, at_least: int) -> list[int]:
    """An int, repeated, or a sequence of ``count`` ints."""
    numbers = list(value) if isinstance(value, (tuple, list)) else [value] * count
    for n in numbers:
        if not isinstance(n, _INTEGER) or isinstance(n, bool):
            raise TypeError(f"{name} is {value!r}; it must be an int or {count} ints")
    if len(numbers) != count:
        raise ValueError(f"{name} is {value!r}; it must be an int or {count} ints")
    for n in numbers:
        if n < at_least:
            raise ValueError(f"{name} is {value!r}; it must be at least {at_least}")
    return numbers


def sides(name: str, value) -> list[int]:
    """(top, bottom, left, right) from an int, a (vertical, horizontal) pair or the four."""
    if isinstance(value, (tuple, list)) and len(value) == 4:
        return integers(name, value, 4, at_least=0)
    vertical, horizontal = integers(name, value, 2, at_least=0)
    return [vertical, vertical, horizontal, horizontal]


def check_arguments(input, weight, bias, groups, activation, *, transposed: bool, runs: bool = True) -> None:
    check_choice("activation", activation, ACTIVATIONS)
    check_tensor("input", input, runs=runs)
    check_tensor("weight", weight, dim=4, runs=runs)
    if input.dim() not in (3, 4):
        raise ValueError(f"input must be [N, C, H, W] or [C, H, W], got shape {tuple(input.shape)}")
    integers("groups", groups, 1, at_least=1)
    channels, takes = input.shape[-3], weight.shape[0] if transposed else weight.shape[1] * groups
    if weight.shape[0] % groups:
        raise ValueError(f"groups is {groups}; it must divide the first size of weight, {weight.shape[0]}")
    if min(weight.shape) == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; no size may be 0")
    if channels != takes:
        raise ValueError(
            f"input has {channels} channels; weight of shape {tuple(weight.shape)} with groups {groups} takes {takes}"
        )
    makes = weight.shape[1] * groups if transposed else weight.shape[0]
    if bias is not None:
        check_tensor("bias", bias, dim=1)
        if bias.shape[0] != makes:
            raise ValueError(f"bias has shape {tuple(bias.shape)}; the output has {makes} channels")
    check_like("weight", weight, "input", input)
    if bias is not None:
        check_like("bias", bias, "input", input)


def check_output_size(input, weight, size: tuple[int, int]) -> None:
    if min(input.shape[-2:]) < 1 or min(size) < 1:
        raise ValueError(
            f"input of size {tuple(input.shape[-2:])} with a kernel of {tuple(weight.shape[2:])} gives an output of "
            f"size {tuple(size)}; no size may be below 1"
        )


def call(op, input, *args) -> Tensor:
    """The op on [N, C, H, W], or on [C, H, W] as torch's convolutions do."""
    if input.dim() == 3:
        return op(input.unsqueeze(0), *args)[0].squeeze(0)
    return op(input, *args)[0]


def conv_size(size, kernel, stride, padding, dilation) -> tuple[int, int]:
    return tuple(
        (size[i] + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )


def conv_transpose_size(size, kernel, stride, crop, dilation) -> tuple[int, int]:
    return tuple(
        (size[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 - crop[2 * i] - crop[2 * i + 1] for i in (0, 1)
    )


# -------------------------------------------------------------------------------------------------- registration
def _is_channels_last(t: Tensor) -> bool:
    """As C++'s ``suggest_memory_format``: by strides, and contiguous where they leave it open."""
    if t.stride(1) == 0:
        return False
    at_least = 0
    for d in (1, 3, 2, 0):
        if t.shape[d] == 0 or t.stride(d) < at_least or (d == 0 and at_least == t.stride(1)):
            return False
        at_least = t.stride(d) * t.shape[d]
    return True


def _empty(like: Tensor, shape, channels_last: bool) -> Tensor:
    format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=format)


def register(name: str, *, transposed: bool):
    """Fake kernels, first and second derivative and autocast of ``sdgan_ext::<name>`` and its backward.

    Returns the function to call the former by.
    """
    output_size = conv_transpose_size if transposed else conv_size

    def fake(input, weight, bias, stride, sides, dilation, groups, activation, negative_slope):
        channels_last = _is_channels_last(input) or _is_channels_last(weight)
        size = output_size(input.shape[2:], weight.shape[2:], stride, sides, dilation)
        channels = weight.shape[1] * groups if transposed else weight.shape[0]
        shape = (input.shape[0], channels, *size)
        output = _empty(input, shape, channels_last)
        preactivation = _empty(input, shape, channels_last) if activation == _SILU else input.new_empty((0,))
        return output, preactivation

    def fake_backward(grad_output, input, weight, saved, stride, sides, dilation, groups, activation, slope, *wanted):
        channels_last = _is_channels_last(input) or _is_channels_last(weight)
        need_input, need_weight, need_bias = wanted
        nothing = input.new_empty((0,))
        return (
            _empty(input, input.shape, channels_last) if need_input else nothing,
            _empty(weight, weight.shape, _is_channels_last(weight)) if need_weight else nothing.clone(),
            input.new_empty((grad_output.shape[1],)) if need_bias else nothing.clone(),
        )

    def setup(ctx, inputs, output):
        input, weight, bias, *ctx.settings = inputs
        activation = ctx.settings[-2]
        ctx.has_bias = bias is not None
        ctx.save_for_backward(input, weight, output[1] if activation in (_NONE, _SILU) else output[0])
        ctx.set_materialize_grads(False)

    def derivative(ctx, grad_output, grad_preactivation):
        input, weight, saved = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], False, False]
        if not _without_weight_gradients:
            wanted[1:] = ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2]
        grads = (None, None, None)
        if grad_output is not None:
            grads = backward(grad_output, input, weight, saved, *ctx.settings, *wanted)
        if grad_preactivation is not None and ctx.settings[-2] == _SILU:  # from its second derivative
            plain = [*ctx.settings[:-2], _NONE, 0.0]
            more = backward(grad_preactivation, input, weight, saved.new_empty((0,)), *plain, *wanted)
            grads = tuple(add_grads(a, b) for a, b in zip(grads, more, strict=True))
        return *(g if want else None for g, want in zip(grads, wanted, strict=True)), *([None] * len(ctx.settings))

    def setup_backward(ctx, inputs, output):
        *tensors, stride, sides, dilation, groups, activation, slope, need_input, need_weight, need_bias = inputs
        ctx.geometry = (stride, sides, dilation, groups)
        ctx.activation = (activation, slope)
        ctx.had = (need_input, need_weight, need_bias)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    def second_derivative(ctx, *grads):
        # With v = grad_output * act'(saved):  dx = dgrad(v, w), dw = wgrad(v, x), db = sum(v); the derivatives below
        # are those of <grad_dx, dx> + <grad_dw, dw> + <grad_db, db>, which is <u, v>.
        grad_output, input, weight, saved = ctx.saved_tensors
        grad_dx, grad_dw, grad_db = (g if had else None for g, had in zip(grads, ctx.had, strict=True))
        plain = (*ctx.geometry, _NONE, 0.0)
        needs = ctx.needs_input_grad
        slope = reference.activation_gradient(*ctx.activation, saved)
        v = grad_output if slope is None else grad_output * slope

        d_grad_output = d_input = d_weight = d_saved = None
        if needs[0] or (needs[3] and slope is not None):
            u = None
            if grad_dx is not None:
                u = forward(grad_dx, weight, None, *plain)[0]
            if grad_dw is not None:
                u = add_grads(u, forward(input, grad_dw, None, *plain)[0])
            if grad_db is not None:
                u = add_grads(u, grad_db[:, None, None].expand_as(grad_output))
            if u is not None:
                d_grad_output = u if slope is None else u * slope
                curvature = reference.activation_second_derivative(ctx.activation[0], saved)
                if curvature is not None:
                    d_saved = u * grad_output * curvature
        none = grad_output.new_empty((0,))
        want_input = needs[1] and grad_dw is not None
        want_weight = needs[2] and grad_dx is not None and not _without_weight_gradients
        if want_input or want_weight:
            d_input, d_weight, _ = backward(
                v,
                input if grad_dx is None else grad_dx,
                weight if grad_dw is None else grad_dw,
                none,
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
    forward = differentiable(name, derivative, setup)
    backward = differentiable(f"{name}_backward", second_derivative, setup_backward)
    # Not for backward: its tensors are cast already, and autograd's threads do not know the region's dtype.
    for device in ("CPU", "CUDA"):
        _register_autocast(name, device)
    return forward


_library = torch.library.Library("sdgan_ext", "FRAGMENT")


def _register_autocast(name: str, device: str) -> None:
    """Inside autocast, float32 arguments are cast as torch casts those of its convolutions."""
    op = getattr(torch.ops.sdgan_ext, name).default
    without_key = without_autocast_key(device)

    def cast(value):
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
            return value.to(torch.get_autocast_dtype(device.lower()))
        return value

    def autocast(*args):
        if device == "CPU" and torch.get_autocast_dtype("cpu") == torch.float16 and args[0].dtype != torch.float64:
            raise TypeError(
                f"autocast on the CPU is to torch.float16, which {name} has on CUDA alone; allowed is torch.bfloat16"
            )
        with without_key():
            return op(*map(cast, args))

    _library.impl(op, autocast, f"Autocast{device}")


def same_padding(kernel, stride, dilation) -> list[int]:
    """torch's ``padding="same"``: half of ``dilation * (kernel - 1)`` on each side, the odd one at the end."""
    if any(s != 1 for s in stride):
        raise ValueError(f"padding is 'same', but stride is {tuple(stride)}; 'same' needs stride 1")
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return [side for total in totals for side in (total // 2, math.ceil(total / 2))]
