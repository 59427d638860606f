"""Second and third derivatives against finite differences; an argument that has none says so."""

import math

import pytest
import torch

from sdgan_ext import ops

from .registry import OPERATIONS, REFUSING, each_case, each_op

#: gradgradcheck of many elements is slow and says no more.
CASES = [c for op in OPERATIONS for c in op.cases if max(math.prod(spec.shape) for spec in c.specs) < 20_000]


def outputs_of(case, tensors):
    outputs = case.call(ops, *tensors)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    return tuple(output for output in outputs if output.requires_grad)


@each_case(CASES)
def test_gradgradcheck(case):
    leaves = case.tensors(torch.float64)
    assert torch.autograd.gradgradcheck(lambda *t: outputs_of(case, t), leaves, fast_mode=True)


def gradients(case, leaves):
    """Of the sum of the squares of the outputs, so that all orders of derivative are there to be seen."""
    total = sum(output.square().sum() for output in outputs_of(case, leaves))
    wanted = [t for t in leaves if t.requires_grad]
    return torch.autograd.grad(total, wanted, create_graph=True, allow_unused=True)


@each_op()
def test_no_silent_zeros(op):
    """The second and the third derivative are those of finite differences, and what has none is a constant."""
    for case in [op.case, *(c for c in op.cases if c.short and c in CASES)]:
        leaves = case.tensors(torch.float64)
        where = [i for i, t in enumerate(leaves) if t.requires_grad]
        found = gradients(case, leaves)
        assert all(g is not None for g in found), case.name
        graphs = [g.requires_grad for g in found]
        moved = [(t.detach() * 0.99).requires_grad_() if t.requires_grad else t for t in leaves]
        for has, before, after in zip(graphs, found, gradients(case, moved), strict=True):
            assert has or torch.equal(before, after), case.name

        def differentiable(*given, case=case, leaves=leaves, where=where, graphs=graphs):
            mine = list(leaves)
            for i, t in zip(where, given, strict=True):
                mine[i] = t
            return tuple(g for g, has in zip(gradients(case, mine), graphs, strict=True) if has)

        assert any(graphs), case.name
        given = [leaves[i] for i in where]
        assert torch.autograd.gradcheck(differentiable, given, fast_mode=True), case.name
        assert torch.autograd.gradgradcheck(differentiable, given, fast_mode=True), case.name


def test_a_representative_has_a_second_derivative_in_all_its_leaves():
    """Else the test before this one could not fail."""
    for op in OPERATIONS:
        leaves = op.case.tensors(torch.float64)
        total = sum(g.square().sum() for g in gradients(op.case, leaves))
        second = torch.autograd.grad(total, [t for t in leaves if t.requires_grad])
        assert all(g.abs().max() > 0 for g in second), op.name


def call_with(op, argument, value):
    x = torch.full((2, 3), 0.5)
    if op == "batch_norm":
        vectors = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)} | {argument: value[0]}
        return ops.batch_norm(x, **vectors)
    if op == "sample_gaussian":
        return ops.sample_gaussian(x, x, **{argument: value if argument == "out" else value[0, 0]})
    return getattr(ops, op)(x, x, **{argument: value})


@pytest.mark.parametrize(("op", "argument"), REFUSING, ids=["-".join(pair) for pair in REFUSING])
def test_what_has_no_derivative_raises(op, argument):
    value = torch.ones(2, 3, requires_grad=True)
    words = {"seed": "seed must be one int64", "out": "out=... arguments don't support"}
    with pytest.raises(
        (ValueError, RuntimeError), match=words.get(argument, f"{argument} requires .*{argument}.detach")
    ):
        call_with(op, argument, value)
    if argument not in words:
        call_with(op, argument, value.detach())
