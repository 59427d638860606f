"""Hypothesis strategies: shapes, tensors of the same values in any layout of memory, arguments of any kind."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
OTHER_DTYPES = (torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64)
#: None between those that a tensor can have and those that no memory holds.
INTEGERS = (-(2**63), -(2**40), -1, 0, 1, 2, 3, 5, 8, 2**40, 2**62, 2**63 - 1)
FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 0.2, 1e308)


def shapes(least: int = 0, most: int = 5, largest: int = 5) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, largest), min_size=least, max_size=most).map(tuple)


@st.composite
def laid_out(draw: st.DrawFn, t: Tensor, expands: bool = True) -> Tensor:
    """``t`` with its dimensions in another order in memory, gaps between its elements, somewhere in a storage that ends
    with its last element. Where it ``expands``, some dimension has one value alone.

    The gaps are NaN, so that who reads them has it in the result.
    """
    if t.dim() == 0 or draw(st.integers(0, 3)) == 0:
        return t
    strides, step = [0] * t.dim(), 1
    values = t.detach()
    alone = draw(st.integers(0, t.dim() - 1)) if expands and draw(st.integers(0, 3)) == 0 else None
    for d in draw(st.permutations(range(t.dim()))):
        if d == alone and t.shape[d]:
            values = values.narrow(d, 0, 1).expand(t.shape)
            continue
        strides[d] = step
        step *= max(1, t.shape[d]) * draw(st.sampled_from((1, 1, 1, 2)))
    offset = draw(st.sampled_from((0, 0, 1, 3)))
    length = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, strides, strict=True)) if t.numel() else 0
    storage = torch.full((offset + length,), torch.nan if t.is_floating_point() else 0, dtype=t.dtype)
    made = storage.as_strided(t.shape, strides, offset)
    part = made if alone is None or not t.shape[alone] else made.narrow(alone, 0, 1)
    part.copy_(values.narrow(alone, 0, 1) if part is not made else values)
    return made.requires_grad_(t.requires_grad)


@st.composite
def tensors(draw: st.DrawFn, like: Tensor | None = None) -> Tensor:
    """Any small one, or one of the shape or the dtype of another."""
    shape = draw(shapes()) if like is None or draw(st.booleans()) else tuple(like.shape)
    dtype = draw(st.sampled_from(DTYPES + OTHER_DTYPES)) if like is None or draw(st.booleans()) else like.dtype
    return draw(laid_out(torch.ones(shape, dtype=dtype)))


def other_argument(kind: str, value: object) -> st.SearchStrategy[object]:
    """What may stand in the place of an argument whose type in the schema is ``kind``."""
    like = value if isinstance(value, Tensor) else None
    strategies: dict[str, st.SearchStrategy[object]] = {
        "Tensor": tensors(like),
        "Optional[Tensor]": st.none() | tensors(like),
        "int": st.sampled_from(INTEGERS),
        "float": st.sampled_from(FLOATS),
        "bool": st.booleans(),
        "List[int]": st.lists(st.sampled_from(INTEGERS), max_size=5),
    }
    if isinstance(value, (list, tuple)) and value:  # one of its integers
        changed = st.tuples(st.integers(0, len(value) - 1), st.sampled_from(INTEGERS))
        return changed.map(lambda at: [*value[: at[0]], at[1], *value[at[0] + 1 :]]) | strategies[kind]
    return strategies[kind]
