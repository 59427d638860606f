"""Who competes: stock PyTorch as most use it, as it is fastest, and the fused operation.

Of the baselines, "eager" is what a user gets who sets nothing (NCHW); "eager channels_last" is the honest one, for
images; "compile" is torch.compile of the latter, only on demand, because it takes its time. "sdgan_ext" has its images
in channels_last as well, "sdgan_ext NCHW" competes with "eager".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from .timing import PASSES
from .work import Conv, Work, elementwise

__all__ = ["BASELINES", "Case", "conv_case", "functions", "in_format", "kernels_of", "tensors_of"]

EAGER, CHANNELS_LAST, COMPILE, OURS = "eager", "eager channels_last", "compile", "sdgan_ext"
NCHW = f"{OURS} NCHW"
#: The columns ``over_<key>`` and whom they refer to.
BASELINES = {"eager": EAGER, "channels_last": CHANNELS_LAST, "compile": COMPILE}


def compile_baseline(contestants: dict[str, tuple[Callable, tuple]]) -> tuple[Callable, tuple]:
    function, inputs = contestants.get(CHANNELS_LAST) or contestants[EAGER]
    return torch.compile(function, dynamic=False), inputs


@dataclass(frozen=True)
class Case:
    """One group of rows for each of its ``passes``.

    Attributes:
        build: gives the contestants, name -> (function, inputs). Inputs that require a gradient get one in "forward +
            backward".
        names: of the contestants, known before they are built.
        work: for the passes named, the least that must be done.
        explain: the inputs of a contestant of ours to kernels by pass, see :func:`sdgan_ext.ops.explain_conv`.
        budget: seconds for all samples of all contestants.
        compiled: of the contestants, one more that torch.compile is behind; None where there is none.
        quick: whether --quick includes it.
    """

    op: str
    shape: str
    build: Callable[[], dict[str, tuple[Callable, tuple]]]
    names: tuple[str, ...] = (EAGER, OURS)
    dtype: str = "float32"
    passes: tuple[str, ...] = PASSES
    work: Callable[[str], Work] | None = None
    explain: Callable[[tuple], dict[str, str]] | None = None
    compiled: Callable[[dict], tuple[Callable, tuple]] | None = compile_baseline
    budget: float = 6.0
    quick: bool = False

    def contestants(self, with_compile: bool = False) -> dict[str, tuple[Callable, tuple]]:
        """Built from the same random numbers every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            contestants = self.build()
        if set(contestants) != set(self.names):
            raise ValueError(f"{self.op} {self.shape} builds {sorted(contestants)}, its names are {self.names}")
        if with_compile and self.compiled:
            torch.compiler.reset()
            contestants[COMPILE] = self.compiled(contestants)
        return contestants

    def names_with(self, with_compile: bool) -> tuple[str, ...]:
        return self.names + ((COMPILE,) if with_compile and self.compiled else ())

    def kernels(self, contestants: dict[str, tuple[Callable, tuple]], passes: str) -> dict[str, str]:
        """For contestants of ours, the backends that run: "winograd", or "library, winograd" where parts differ."""
        if self.explain is None:
            return {}
        kernels = {}
        for name, (_, inputs) in contestants.items():
            if name.startswith(OURS):
                taken = self.explain(inputs)
                backward = ["grad_input", "grad_weight"]
                parts = ["forward"] + (backward if passes == PASSES[1] else [])
                run = [taken[part].split(":")[0] for part in parts]
                kernels[name] = run[0] if len(set(run)) == 1 else ", ".join(run)
        return kernels


def in_format(memory_format: torch.memory_format, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Leaves that require a gradient; those of four dimensions in ``memory_format``."""
    copies = (t.clone(memory_format=memory_format) if t.dim() == 4 else t.clone() for t in tensors)
    return tuple(copy.requires_grad_() for copy in copies)


def _bytes(dtype: str) -> int:
    return getattr(torch, dtype).itemsize


def sizes(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


# ---------------------------------------------------------------------------------------------------- convolutions
_STOCK = {
    None: lambda x: x,
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "elu": F.elu,
}


def functions(conv: Conv) -> tuple[Callable, Callable]:
    """(stock, ours), of x, weight, bias and, where one is added, a residual."""
    settings = (conv.stride, conv.padding) + ((conv.output_padding,) if conv.transposed else ())
    sides = conv.padding if isinstance(conv.padding, tuple) and len(conv.padding) == 4 else None

    def stock(x, weight, bias, residual=None):
        if sides is not None:
            top, bottom, left, right = sides
            y = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, conv.stride)
        else:
            y = getattr(F, conv.op)(x, weight, bias, *settings)
        return _STOCK[conv.activation](y if residual is None else y + residual)

    def ours(x, weight, bias, residual=None):
        added = {} if residual is None else {"residual": residual}
        return getattr(ops, conv.op)(x, weight, bias, *settings, activation=conv.activation, **added)

    return stock, ours


def tensors_of(conv: Conv, batch: int, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias, random, of the scale of a network in training."""
    size, kernel = (value if isinstance(value, tuple) else (value, value) for value in (conv.size, conv.kernel))
    into = (conv.into, conv.out) if conv.transposed else (conv.out, conv.into)
    scale = (conv.into * kernel[0] * kernel[1]) ** -0.5
    shapes = (batch, conv.into, *size), (*into, *kernel), (conv.out,)
    x, weight, bias = (torch.randn(shape, device=device) for shape in shapes)
    return x.to(dtype), (weight * scale).to(dtype), bias.to(dtype)


def kernels_of(conv: Conv, x: Tensor, weight: Tensor) -> dict[str, str]:
    return ops.explain_conv(x, weight, transposed=conv.transposed, stride=conv.stride, sides=conv.sides)


def conv_case(
    conv: Conv, batch: int, dtype: str = "float32", *, nchw: bool = False, residual: bool = False, **options
) -> Case:
    """``nchw``: ours in that layout competes as well; ``residual``: a tensor is added before the activation."""
    names = (EAGER, CHANNELS_LAST, OURS) + ((NCHW,) if nchw else ())

    def build():
        stock, ours = functions(conv)
        tensors = tensors_of(conv, batch, getattr(torch, dtype))
        if residual:
            tensors = *tensors, torch.randn_like(stock(*tensors))
        plain, last = (in_format(f, tensors) for f in (torch.contiguous_format, torch.channels_last))
        every = {EAGER: (stock, plain), CHANNELS_LAST: (stock, last), OURS: (ours, last), NCHW: (ours, plain)}
        return {name: every[name] for name in names}

    return Case(
        conv.op,
        f"{batch} x {conv}" + " + residual" * residual,
        build,
        names,
        dtype,
        work=lambda passes: conv.work(batch, _bytes(dtype), passes),
        explain=lambda inputs: kernels_of(conv, *inputs[:2]),
        **options,
    )


def upsample_conv_case(conv: Conv, batch: int, dtype: str = "float32", **options) -> Case:
    """``conv``: what follows the upsampling; its size is that of the image before it, its padding always "same".

    The work is that of the transposed convolution.
    """
    kernel = conv.kernel if isinstance(conv.kernel, tuple) else (conv.kernel, conv.kernel)
    crop = tuple(side for k in kernel for side in (k // 2, (k - 1) // 2))
    taps = tuple(k + 1 for k in kernel)
    transposed = Conv(True, conv.into, conv.out, conv.size, taps, 2, crop, conv.activation)

    def stock(x, weight, bias):
        y = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding="same")
        return _STOCK[conv.activation](y)

    def ours(x, weight, bias):
        return ops.upsample_conv2d(x, weight, bias, activation=conv.activation)

    def build():
        tensors = tensors_of(conv, batch, getattr(torch, dtype))
        plain, last = (in_format(f, tensors) for f in (torch.contiguous_format, torch.channels_last))
        return {EAGER: (stock, plain), CHANNELS_LAST: (stock, last), OURS: (ours, last)}

    return Case(
        "upsample_conv2d",
        f"{batch} x {conv}",
        build,
        (EAGER, CHANNELS_LAST, OURS),
        dtype,
        work=lambda passes: transposed.work(batch, _bytes(dtype), passes),
        explain=lambda inputs: kernels_of(transposed, inputs[0], inputs[1].new_empty(conv.into, conv.out, *taps)),
        **options,
    )


# ------------------------------------------------------------------------------------- losses, noise and the norm
def _against_ones_and_zeros(real: Tensor, fake: Tensor) -> Tensor:
    loss = F.binary_cross_entropy_with_logits
    return loss(real, torch.ones_like(real)) + loss(fake, torch.zeros_like(fake))


DISCRIMINATOR_LOSSES = {
    "non_saturating": _against_ones_and_zeros,
    "hinge": lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
    "least_squares": lambda real, fake: 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean(),
    "wasserstein": lambda real, fake: fake.mean() - real.mean(),
    "relativistic": lambda real, fake: F.softplus(fake - real).mean(),
}
#: The same loss for those who know that it needs no targets.
SOFTPLUS = f"{EAGER} softplus"
RECONSTRUCTION_LOSSES = {"mse": F.mse_loss, "l1": F.l1_loss, "bce": F.binary_cross_entropy_with_logits}


def _element_case(op, label, shape, dtype, stock, ours, inputs, *, elements=None, others=None, **options) -> Case:
    """``inputs()`` gives those of all sides; ``others`` are further contestants in stock PyTorch."""
    count = torch.Size(shape).numel() if elements is None else elements
    functions = {EAGER: stock, **(others or {}), OURS: ours}

    def build():
        given = inputs()
        return {name: (function, given) for name, function in functions.items()}

    return Case(
        op,
        f"{sizes(shape)} {label}".strip(),
        build,
        tuple(functions),
        dtype,
        work=lambda passes: elementwise(op, count, _bytes(dtype), passes),
        **options,
    )


def _random(shape, dtype: str, *, grad: bool = True, uniform: bool = False) -> Tensor:
    tensor = (torch.rand if uniform else torch.randn)(shape).to(getattr(torch, dtype))
    return tensor.requires_grad_() if grad else tensor


def discriminator_loss_case(shape, objective: str = "non_saturating", dtype: str = "float32", **options) -> Case:
    if objective == "non_saturating":
        options["others"] = {SOFTPLUS: lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean()}
    return _element_case(
        "discriminator_loss",
        objective,
        shape,
        dtype,
        DISCRIMINATOR_LOSSES[objective],
        lambda real, fake: ops.discriminator_loss(real, fake, objective),
        lambda: (_random(shape, dtype), _random(shape, dtype)),
        elements=2 * torch.Size(shape).numel(),
        **options,
    )


def generator_loss_case(shape, dtype: str = "float32", **options) -> Case:
    return _element_case(
        "generator_loss",
        "non_saturating",
        shape,
        dtype,
        lambda fake: F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake)),
        ops.generator_loss,
        lambda: (_random(shape, dtype),),
        others={SOFTPLUS: lambda fake: F.softplus(-fake).mean()},
        **options,
    )


def bce_case(op: str, shape, dtype: str = "float32", **options) -> Case:
    inputs = lambda: (  # noqa: E731
        _random(shape, dtype, uniform=not op.endswith("logits")),
        _random(shape, dtype, uniform=True, grad=False),
    )
    return _element_case(op, "", shape, dtype, getattr(F, op), getattr(ops, op), inputs, **options)


def reconstruction_loss_case(shape, kind: str = "mse", dtype: str = "float32", **options) -> Case:
    stock = lambda x_hat, x: RECONSTRUCTION_LOSSES[kind](x_hat, x, reduction="sum") / len(x)  # noqa: E731
    ours = lambda x_hat, x: ops.reconstruction_loss(x_hat, x, kind)  # noqa: E731
    inputs = lambda: (_random(shape, dtype), _random(shape, dtype, uniform=True, grad=False))  # noqa: E731
    return _element_case("reconstruction_loss", kind, shape, dtype, stock, ours, inputs, **options)


def gaussian_case(shape, dtype: str = "float32", **options) -> Case:
    def stock(mean, logvar):
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        return z, 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / len(mean)

    inputs = lambda: (_random(shape, dtype), _random(shape, dtype))  # noqa: E731
    return _element_case("sample_gaussian", "", shape, dtype, stock, ops.sample_gaussian, inputs, **options)


def batch_norm_case(
    shape, activation: str | None = "relu", dtype: str = "float32", *, nchw: bool = True, **options
) -> Case:
    """In training; ``nchw``: ours in that layout competes as well. Without pixels there is one layout."""
    mean, var = torch.zeros(shape[1]), torch.ones(shape[1])

    def stock(x, weight, bias):
        return _STOCK[activation](F.batch_norm(x, mean, var, weight, bias, True))

    def ours(x, weight, bias):
        return ops.batch_norm(x, mean, var, weight, bias, True, activation=activation)

    label = f"{sizes(shape)} {activation or ''}".strip()
    return _norm_case("batch_norm", label, shape, dtype, stock, ours, nchw, **options)


def group_norm_case(
    shape, groups: int = 32, activation: str | None = "silu", dtype: str = "float32", *, nchw: bool = True, **options
) -> Case:
    """``nchw``: ours in that layout competes as well. Without pixels there is one layout."""

    def stock(x, weight, bias):
        return _STOCK[activation](F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype)))

    def ours(x, weight, bias):
        return ops.group_norm(x, groups, weight, bias, activation=activation)

    label = f"{sizes(shape)} {groups} groups {activation or ''}".strip()
    return _norm_case("group_norm", label, shape, dtype, stock, ours, nchw, **options)


def _norm_case(op: str, label: str, shape, dtype: str, stock, ours, nchw: bool, **options) -> Case:
    names: tuple[str, ...] = (EAGER, OURS)
    if len(shape) == 4:
        names = (EAGER, CHANNELS_LAST, OURS, *([NCHW] if nchw else []))

    def build():
        tensors = _random(shape, dtype, grad=False), torch.ones(shape[1]), torch.zeros(shape[1])
        plain, last = (in_format(f, tensors) for f in (torch.contiguous_format, torch.channels_last))
        every = {EAGER: (stock, plain), CHANNELS_LAST: (stock, last), OURS: (ours, last), NCHW: (ours, plain)}
        return {name: every[name] for name in names}

    count = torch.Size(shape).numel()
    work = lambda passes: elementwise(op, count, _bytes(dtype), passes)  # noqa: E731
    return Case(op, label, build, names, dtype, work=work, **options)
