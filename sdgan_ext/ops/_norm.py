"""What batch norm and group norm share: the check of a vector, and the layout of the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._checks import HALVES, check_like, check_tensor


def check_vector(name: str, value: Tensor | None, input: Tensor) -> None:
    """Refuses what is no value for each channel of ``input``."""
    if value is None:
        return
    channels = input.shape[1]
    if type(value) is Tensor and value.is_cpu and input.is_cpu and value.dtype is input.dtype:
        if value.dim() == 1 and value.shape[0] == channels:
            return  # as is most often so
    check_tensor(name, value)
    beside_half = input.dtype in (torch.bfloat16, *HALVES) and value.dtype == torch.float32
    if not (beside_half and value.device == input.device):
        check_like(name, value, "input", input)
    if value.shape != (channels,):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; it must be ({channels},), a value for each channel of input"
        )


def check_image(input: Tensor) -> None:
    """Refuses what has no channels."""
    check_tensor("input", input)
    if input.dim() < 2:
        raise ValueError(f"input must have at least 2 dimensions (batch, channels), got shape {tuple(input.shape)}")


def empty_output(input: Tensor) -> Tensor:
    """In the layout of input, where that is one of the two that the kernels write; see csrc/ops/norm.h."""
    output = torch.empty_like(input)
    return output if output.movedim(1, -1).is_contiguous() or output.is_contiguous() else input.new_empty(input.shape)


def empty_statistics(input: Tensor, *shape: int) -> Tensor:
    """In the type that the kernels compute in."""
    return input.new_empty(shape, dtype=torch.float64 if input.dtype == torch.float64 else torch.float32)


def empty_gradients(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    """Of input, weight and bias; an empty tensor stands for one that was not given."""
    return empty_output(input), *(
        input.new_empty(0) if t is None else input.new_empty(input.shape[1], dtype=t.dtype) for t in (weight, bias)
    )


def first_derivative(forward: Callable[..., Tensor]) -> Callable[..., tuple[Tensor | None, ...]]:
    """Of grad_output, input, weight and bias: the gradients of the last three, which can be differentiated again.

    Args:
        forward: the reference's output of input, weight and bias.
    """

    def gradients(grad_output: Tensor, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = [t for t in given if t is not None]
        grads: Any = iter(torch.autograd.grad(forward(*given), wanted, grad_output, create_graph=True))
        return tuple(None if t is None else next(grads) for t in given)

    return gradients


def of_given(
    grads: Sequence[Tensor | None], weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The op's gradients of weight and bias: an empty tensor stands for one that was not given."""
    return None if weight is None else grads[1], None if bias is None else grads[2]
