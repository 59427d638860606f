"""``sd.explain``: which kernels a model's convolutions take, without computing anything. docs/ops/conv.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from ._torch_internals import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    TorchDispatchMode,
    tree_map_only,
    uncompiled,
)
from .ops import _convolution

__all__ = ["Convolution", "Explanation", "Pass", "explain"]

#: As reasons begin where ``winograd`` takes its larger tiles.
_F43 = "F(4x4, 3x3)"


@dataclass(frozen=True)
class Pass:
    """What a pass of a convolution takes.

    Attributes:
        kernel: a backend of :class:`sdgan_ext.conv_backend`; ``torch`` where it is not a convolution of ours.
        reason: why.
        speedup: estimate over the library, or None where there is no table: all but ``winograd``.
        multiplications: that the kernel makes; those of the direct algorithm where it is not ``winograd``.
        direct: multiplications of the direct algorithm.
    """

    kernel: str
    reason: str
    speedup: float | None
    multiplications: int
    direct: int

    def __str__(self) -> str:
        name = f"{self.kernel} {_F43}" if self.reason.startswith(_F43) else self.kernel
        return name if self.speedup is None else f"{name} {self.speedup:.2f}x"


@dataclass(frozen=True)
class Convolution:
    """A convolution that ran.

    Attributes:
        module: its name in the model, or where there is no name its class; empty outside of modules.
        op: that of ``ops``, or ``torch.`` and that of torch.
        input: shape.
        weight: shape.
        stride: vertical and horizontal.
        dtype: of the weight.
        channels_last: whether the kernel computes in that layout.
        forward: what the pass takes.
        grad_input: likewise; None where autograd does not need the gradient.
        grad_weight: likewise.
    """

    module: str
    op: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool
    forward: Pass
    grad_input: Pass | None
    grad_weight: Pass | None

    @property
    def passes(self) -> dict[str, Pass]:
        """By name, those that run."""
        passes = {"forward": self.forward, "grad_input": self.grad_input, "grad_weight": self.grad_weight}
        return {name: taken for name, taken in passes.items() if taken is not None}


class Explanation(list[Convolution]):
    """A list of :class:`Convolution`, in the order in which they ran; ``str`` makes a table."""

    def __str__(self) -> str:
        if not self:
            return "no convolutions"
        header = "module op input weight stride dtype layout forward grad_input grad_weight multiplications".split()
        lines = [header, *(_cells(row) for row in self)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        reasons: dict[str, list[str]] = {}
        for row in self:
            of_row: dict[str, list[str]] = {}
            for name, taken in row.passes.items():
                if taken.kernel != "winograd" or "asked for" in taken.reason:
                    of_row.setdefault(f"{taken.kernel}: {taken.reason}", []).append(name)
            for reason, names in of_row.items():
                which = "" if len(names) == len(row.passes) else f" {', '.join(names)}"
                reasons.setdefault(reason, []).append(f"{row.module or row.op}{which}")
        return "\n".join([*text, *(f"{reason} ({'; '.join(where)})" for reason, where in reasons.items())])

    __repr__ = __str__


def _cells(row: Convolution) -> list[str]:
    taken = row.passes.values()
    made, direct = sum(p.multiplications for p in taken), sum(p.direct for p in taken)
    sizes = ("x".join(map(str, size)) for size in (row.input, row.weight, row.stride))
    layout = "nhwc" if row.channels_last else "nchw"
    passes = (str(p) if p else "-" for p in (row.forward, row.grad_input, row.grad_weight))
    share = f"{made:.1e} {made / direct:.0%}" if direct else "0"
    return [row.module, row.op, *sizes, str(row.dtype).removeprefix("torch."), layout, *passes, share]


def explain(function: Callable[..., Any], *inputs: Any, **options: Any) -> Explanation:
    """Which kernel each convolution takes in ``function(*inputs, **options)``, and why::

        print(sd.explain(model.generator, torch.empty(64, 128)))

    The function runs on fake tensors: nothing is computed, no parameter, buffer or random state changes, and large
    shapes cost no memory. It must not read the values of tensors.

    Args:
        function: a model, a method of one, or any function; a compiled model is explained as it was before.
        inputs, options: what to call it with. Their shapes, dtypes, devices, layouts and ``requires_grad`` count.

    Returns:
        A list of :class:`Convolution` that prints as a table: for each of ours and of torch's own, the kernel and the
        estimated speed-up over the library of the forward pass and of the gradients that autograd would compute
        (where neither input nor weight require one, of both), by ``csrc/kernels/conv/cost_table.h``.

    Raises:
        TypeError: function cannot be called.
        ValueError: function reads values.
    """
    if not callable(function):
        raise TypeError(f"function must be a model or a function, got {type(function).__name__}")
    function = uncompiled(function)
    owner = getattr(function, "__self__", function)
    model = owner if isinstance(owner, torch.nn.Module) else torch.nn.Module()

    fake = FakeTensorMode()

    def faked(tensor: Tensor) -> Tensor:
        return fake.from_tensor(tensor.detach()).requires_grad_(tensor.requires_grad)

    inputs, options = tree_map_only(Tensor, faked, (inputs, options))
    caller = _Caller(function, model)
    state = {name: faked(t) for name, t in (*caller.named_parameters(), *caller.named_buffers())}
    recorder = _Recorder(fake, {module: name for name, module in model.named_modules()})
    try:
        with fake, recorder:
            torch.func.functional_call(caller, state, inputs, options)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ValueError(
            f"function reads the values of tensors ({error.func}); it must not, for they are fake"
        ) from error
    return recorder.rows


class _Caller(torch.nn.Module):
    """A function of ``model``, a method of it perhaps, as a module that functional_call takes."""

    def __init__(self, function: Callable[..., Any], model: torch.nn.Module):
        super().__init__()
        self.model = model
        self._function = (function,)  # not a submodule

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self._function[0](*inputs, **options)


class _Recorder:
    """While entered, lists the convolutions that run."""

    def __init__(self, fake: FakeTensorMode, names: dict[torch.nn.Module, str]):
        self._fake = fake
        self.rows = Explanation()
        self._names = names
        self._inside: list[torch.nn.Module] = []
        self._needs = (True, True)

    def __enter__(self) -> _Recorder:
        self._handles = (
            register_module_forward_pre_hook(lambda module, inputs: self._inside.append(module)),
            register_module_forward_hook(lambda module, inputs, output: self._inside.remove(module), always_call=True),
        )
        self._modes = (_Calls(self._called), _Ran(self._ran, self._upsampled, self._fake))
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _called(self, input: Tensor, weight: Tensor, *_: Any) -> None:
        """Above autograd, below which no tensor requires a gradient."""
        self._needs = (input.requires_grad, weight.requires_grad)

    def _ran(
        self,
        ours: bool,
        transposed: bool,
        output: Tensor,
        input: Tensor,
        weight: Tensor,
        stride: Sequence[int],
        sides: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        residual_or_scale: bool = False,
    ) -> None:
        """Below autograd and autocast: dtypes are those of the kernel."""
        needs_input, needs_weight = self._needs if any(self._needs) else (True, True)
        self._needs = (True, True)
        geometry = stride, sides, dilation, groups
        paths = _convolution.paths(input, weight, *geometry, transposed=transposed, residual_or_scale=residual_or_scale)
        coarse = input if transposed else output
        direct = coarse.numel() // coarse.shape[1] * weight.numel()
        passes = {
            case: Pass(path.backend, path.reason, path.speedup or None, round(path.multiplications), direct)
            for case, path in paths.items()
        }
        if not ours:
            passes = dict.fromkeys(passes, Pass("torch", "a convolution of torch's own", None, direct, direct))
        name = "conv_transpose2d" if transposed else "conv2d"
        weights = "grad_weight" if needs_input else "grad_weight alone"
        self.rows.append(
            Convolution(
                self._where(),
                name if ours else f"torch.{name}",
                tuple(input.shape),
                tuple(weight.shape),
                tuple(stride),
                weight.dtype,
                _convolution.is_channels_last(input) or _convolution.is_channels_last(weight),
                passes["forward"],
                passes["grad_input"] if needs_input else None,
                passes[weights] if needs_weight else None,
            )
        )

    def _upsampled(self, input: Tensor, weight: Tensor) -> None:
        """upsample_conv2d's own kernel, which runs where there are no gradients."""
        n, _, height, width = input.shape
        outputs, inputs, *_ = weight.shape
        made = n * -(-height // 2) * -(-width // 2) * 25 * _padded(inputs) * _padded(outputs)
        taken = Pass("winograd", f"{_F43} of the upsampled image", None, made, n * 4 * height * width * weight.numel())
        last = _convolution.is_channels_last(input) or _convolution.is_channels_last(weight)
        self.rows.append(
            Convolution(
                self._where(),
                "upsample_conv2d",
                tuple(input.shape),
                tuple(weight.shape),
                (1, 1),
                weight.dtype,
                last,
                taken,
                None,
                None,
            )
        )

    def _where(self) -> str:
        inside = [module for module in self._inside if not isinstance(module, _Caller)]
        if not inside:
            return ""
        return self._names.get(inside[-1]) or type(inside[-1]).__name__


def _padded(channels: int) -> int:
    return (channels + 15) // 16 * 16


class _Calls(TorchFunctionMode):
    _OURS = (torch.ops.sdgan_ext.conv2d, torch.ops.sdgan_ext.conv_transpose2d)
    FUNCTIONS = (torch.conv2d, torch.conv_transpose2d, *_OURS, *(op.default for op in _OURS))

    def __init__(self, called: Callable[..., None]):
        super().__init__()
        self._called = called

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in self.FUNCTIONS and len(args) >= 2:
            self._called(*args)
        return function(*args, **(kwargs or {}))


class _Ran(TorchDispatchMode):
    def __init__(self, ran: Callable[..., None], upsampled: Callable[[Tensor, Tensor], None], fake: FakeTensorMode):
        super().__init__()
        self._ran = ran
        self._upsampled = upsampled
        self._fake = fake

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(Tensor, self._faked, (args, kwargs))
        output = function(*args, **(kwargs or {}))
        ops = torch.ops
        if function in (ops.sdgan_ext.conv2d.default, ops.sdgan_ext.conv_transpose2d.default):
            input, weight, _, stride, sides, dilation, groups, _, _, *added = args
            transposed = function is ops.sdgan_ext.conv_transpose2d.default
            extended = _convolution.residual_or_scale(*added)
            self._ran(True, transposed, output[0], input, weight, stride, sides, dilation, groups, extended)
        elif function is ops.aten.convolution.default and args[0].dim() == 4:
            input, weight, _, stride, padding, dilation, transposed, output_padding, groups = args
            ends = [p - o for p, o in zip(padding, output_padding, strict=True)]
            sides = [padding[0], ends[0], padding[1], ends[1]]
            self._ran(False, transposed, output, input, weight, stride, sides, dilation, groups)
        elif function is ops.sdgan_ext.upsample_conv2d.default:
            self._upsampled(*args[:2])
        return output

    def _faked(self, tensor: Tensor) -> Tensor:
        """Of a model that a function brings along; FakeTensorMode by itself would compute with small tensors."""
        return tensor if isinstance(tensor, FakeTensor) else self._fake.from_tensor(tensor)
