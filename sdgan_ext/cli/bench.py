"""``sdgan-ext bench``: one operation at the user's own shape, ours against stock PyTorch."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence

from .._errors import ConfigError
from ..bench import cases, machine, table
from ..bench.work import Conv
from ..ops._enums import ACTIVATIONS
from ._common import add_threads, integer, say, set_threads

_CONV = ("out", "kernel", "stride", "padding", "activation")
#: Every operation and the flags that it has beside those of all.
OPS = {
    "conv2d": _CONV,
    "conv_transpose2d": (*_CONV, "output_padding"),
    "upsample_conv2d": ("out", "kernel", "activation"),
    "batch_norm": ("activation",),
    "group_norm": ("activation", "groups"),
    "discriminator_loss": ("objective",),
    "generator_loss": (),
    "reconstruction_loss": ("kind",),
    "binary_cross_entropy_with_logits": (),
    "binary_cross_entropy": (),
    "sample_gaussian": (),
}
_DTYPES = ("float32", "bfloat16", "float64")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def sizes(flag: str, help: str) -> None:
        parser.add_argument(flag, type=integer, nargs="+", metavar="N", help=help)

    parser.add_argument("op", choices=OPS, metavar="OP", help=", ".join(OPS))
    parser.add_argument(
        "--shape", type=integer, nargs="+", required=True, metavar="N", help="of the input: N C H W for images"
    )
    parser.add_argument("--dtype", choices=_DTYPES, default="float32", help="float32 unless given")
    convolution = "of a convolution: "
    parser.add_argument("--out", type=integer, metavar="N", help=f"{convolution}channels of the output")
    sizes("--kernel", f"{convolution}its size, one number or two")
    sizes("--stride", f"{convolution}1 unless given")
    sizes("--padding", f"{convolution}0 unless given; conv2d also takes top, bottom, left and right")
    sizes("--output-padding", "of conv_transpose2d: 0 unless given")
    activations = [name for name in ACTIVATIONS if name]
    parser.add_argument("--activation", choices=activations, help="of a convolution or the norm: none unless given")
    parser.add_argument("--groups", type=int, metavar="N", help="of group_norm: 32 unless given")
    parser.add_argument("--objective", choices=list(cases.DISCRIMINATOR_LOSSES), help="of discriminator_loss")
    parser.add_argument("--kind", choices=list(cases.RECONSTRUCTION_LOSSES), help="of reconstruction_loss")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the stock operation competes as well")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="for each table; 5 unless given")
    add_threads(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measures, forward alone and with backward, and prints the two tables."""
    set_threads(arguments)
    case = _case(arguments)
    _check_memory(case, arguments.shape)
    _try(case)
    say("  ".join(f"{key} {value}" for key, value in machine.conditions().items()))
    if case.explain:
        *_, (_, inputs) = case.contestants().values()
        for passes, kernel in case.explain(inputs).items():
            say(f"{passes}: {kernel}")
    say(table.heading())
    for passes in case.passes:
        _, rows = table.measure(case, passes, arguments.seconds, with_compile=arguments.compile)
        say(table.title(rows[0]))
        for row in rows:
            say(table.line(row))
    return 0


def _case(arguments: argparse.Namespace) -> cases.Case:
    op = arguments.op
    shape = tuple(arguments.shape)
    dtype = arguments.dtype
    given = {flag for flags in OPS.values() for flag in flags if getattr(arguments, flag) is not None}
    for flag in sorted(given - set(OPS[op])):
        raise ConfigError(f"--{flag.replace('_', '-')} is not a flag of {op}")
    if min(shape) < 1:
        raise ConfigError(f"--shape is {cases.sizes(shape)}; no size may be below 1")
    if not 0 < arguments.seconds < math.inf:
        raise ConfigError(f"--seconds is {arguments.seconds}; it must be above 0")
    if op in ("conv2d", "conv_transpose2d", "upsample_conv2d"):
        return _conv_case(arguments, shape)
    if op in ("batch_norm", "group_norm"):
        if len(shape) not in (2, 4):
            raise ConfigError(f"--shape is {cases.sizes(shape)}; {op} takes N C or N C H W")
        if op == "batch_norm":
            return cases.batch_norm_case(shape, arguments.activation, dtype)
        groups = 32 if arguments.groups is None else arguments.groups
        if groups < 1 or shape[1] % groups:
            raise ConfigError(f"--groups is {groups}; it must divide the {shape[1]} channels of --shape")
        return cases.group_norm_case(shape, groups, arguments.activation, dtype)
    if op == "discriminator_loss":
        return cases.discriminator_loss_case(shape, arguments.objective or "non_saturating", dtype)
    if op == "generator_loss":
        return cases.generator_loss_case(shape, dtype)
    if op == "reconstruction_loss":
        return cases.reconstruction_loss_case(shape, arguments.kind or "mse", dtype)
    if op == "sample_gaussian":
        return cases.gaussian_case(shape, dtype)
    return cases.bce_case(op, shape, dtype)


def _conv_case(arguments: argparse.Namespace, shape: tuple[int, ...]) -> cases.Case:
    transposed = arguments.op == "conv_transpose2d"
    if len(shape) != 4:
        raise ConfigError(f"--shape is {cases.sizes(shape)}; {arguments.op} takes N C H W")
    for flag in ("out", "kernel"):
        if getattr(arguments, flag) is None:
            raise ConfigError(f"--{flag} is missing; {arguments.op} needs it")
    if arguments.out < 1:
        raise ConfigError(f"--out is {arguments.out}; it must be at least 1")
    kernel = _pair("kernel", arguments.kernel, 1)
    if arguments.op == "upsample_conv2d":
        conv = Conv(False, shape[1], arguments.out, (shape[2], shape[3]), kernel, activation=arguments.activation)
        return cases.upsample_conv_case(conv, shape[0], arguments.dtype)
    conv = Conv(
        transposed,
        shape[1],
        arguments.out,
        (shape[2], shape[3]),
        kernel,
        _pair("stride", arguments.stride or [1], 1),
        _padding(arguments.padding or [0], sides=not transposed),
        arguments.activation,
        _pair("output_padding", arguments.output_padding or [0], 0),
    )
    if min(conv.out_size) < 1:
        raise ConfigError(
            f"--shape is {cases.sizes(shape)} with --kernel {cases.sizes(kernel)}, which gives an output of size "
            f"{cases.sizes(conv.out_size)}; no size may be below 1"
        )
    return cases.conv_case(conv, shape[0], arguments.dtype, nchw=True)


def _pair(flag: str, numbers: Sequence[int], least: int) -> tuple[int, int]:
    """Of height and width; one number stands for both."""
    _check_numbers(flag, numbers, least, (1, 2), "1 or 2")
    return numbers[0], numbers[-1]


def _padding(numbers: Sequence[int], sides: bool) -> tuple[int, int] | tuple[int, int, int, int]:
    """As :func:`_pair`; with ``sides`` also top, bottom, left and right."""
    if not sides:
        return _pair("padding", numbers, 0)
    _check_numbers("padding", numbers, 0, (1, 2, 4), "1, 2 or 4")
    if len(numbers) == 4:
        top, bottom, left, right = numbers
        return top, bottom, left, right
    return numbers[0], numbers[-1]


def _check_numbers(flag: str, numbers: Sequence[int], least: int, counts: tuple[int, ...], allowed: str) -> None:
    name = f"--{flag.replace('_', '-')}"
    if len(numbers) not in counts:
        raise ConfigError(f"{name} has {len(numbers)} numbers; {allowed} are allowed")
    if min(numbers) < least:
        raise ConfigError(f"{name} is {min(numbers)}; it must be at least {least}")


def _check_memory(case: cases.Case, shape: Sequence[int]) -> None:
    """The inputs of two layouts, outputs and gradients: a few times what must be moved at least."""
    assert case.work is not None  # every case of this command has it
    needed = 3 * case.work("forward + backward").bytes
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ConfigError(
            f"--shape is {cases.sizes(shape)}, which needs some {needed / 2**30:,.0f} GiB; this machine has "
            f"{there / 2**30:.0f} GiB"
        )


def _try(case: cases.Case) -> None:
    """Runs every contestant once: an argument that the operation refuses ends here, before anything is measured."""
    for name, (function, inputs) in reversed(case.contestants().items()):  # ours first: its message is for people
        try:
            function(*inputs)
        except (TypeError, ValueError, RuntimeError) as error:
            sentence = str(error).strip().splitlines()[0]
            raise ConfigError(f"{case.op} cannot do this ({name}): {sentence}") from error
