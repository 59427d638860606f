"""dtypes, devices and layouts of every op, autocast, deterministic algorithms, batches of none."""

import pytest
import torch

from sdgan_ext import ops
from sdgan_ext.ops import _checks, reference

from .cases import same_bits, widened
from .registry import CONVOLUTIONS, each_op

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def detached(results):
    return [t.detach().clone() for t in results]


@each_op()
def test_float16_is_refused_on_the_cpu(op):
    with pytest.raises(TypeError, match="dtype torch.float16; allowed are float32, bfloat16, float64, and float16 on"):
        op.case.run(op.case.tensors(torch.float16))


@each_op()
def test_other_devices_are_refused(op, monkeypatch):
    def there(device):
        return [t.detach().to(device) for t in op.case.tensors()]

    assert all(t.is_meta for t in op.case.run(there("meta")))
    with torch._subclasses.FakeTensorMode():
        with pytest.raises(ValueError, match="is on xpu:0; allowed are cpu and cuda$"):
            op.case.run([torch.empty(s.shape, device="xpu") for s in op.case.specs])
        monkeypatch.setattr(_checks, "CUDA_OBSTACLE", "here is none")
        with pytest.raises(ValueError, match="is on cuda:0, but here is none"):
            op.case.run([torch.empty(s.shape, device="cuda") for s in op.case.specs])


# ----------------------------------------------------------------------------------------------------- layouts
def views(x):
    yield torch.cat([x, x], -1)[..., ::2]
    yield torch.cat([x, x], 1).chunk(2, 1)[0]
    yield x.transpose(-1, -2).contiguous().transpose(-1, -2)
    yield x[:1].expand(x.shape)
    if x.dim() == 4:
        yield x.contiguous(memory_format=torch.channels_last)


def outputs_of(case, tensors):
    outputs = case.call(ops, *tensors)
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


@each_op()
def test_layouts(op):
    """Values and gradients do not depend on them, and fake tensors have the strides of the real ones."""
    case = next((case for case in [op.case, *op.cases] if len(case.specs[0].shape) == 4), op.case)
    first, *others = case.tensors()
    for view in views(first.detach()):
        view, copy = view.requires_grad_(), view.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        got, want = case.run([view, *others]), case.run([copy, *others])
        case.assert_near(got, want, TOLERANCE[torch.float32])
        with torch._subclasses.FakeTensorMode() as mode:
            fake = outputs_of(case, [mode.from_tensor(t) for t in (view, *others)])
        assert [t.stride() for t in fake] == [t.stride() for t in got[: len(fake)]]
    if first.dim() == 4 and got[0].dim() == 4:
        assert got[0].is_contiguous(memory_format=torch.channels_last)


@each_op()
def test_empty_batch(op):
    case = op.case.with_batch(0)
    got, want = case.run(case.tensors()), case.run(case.tensors(), module=reference)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


# ------------------------------------------------------------------------------------ autocast, deterministic
@each_op()
def test_autocast(op):
    for dtype in (torch.float32, torch.bfloat16):
        tensors = op.case.tensors(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = op.case.run(tensors)
        leaves = [t.dtype for t in tensors if t.requires_grad]
        assert got[0].dtype == {"half": torch.bfloat16, "float32": torch.float32, "input": dtype}[op.dtype]
        assert [t.dtype for t in got[-len(leaves) :]] == leaves
        want = op.case.run(widened(tensors), module=reference)
        rounds = torch.bfloat16 if op.dtype == "half" else dtype
        op.case.assert_near(got, want, TOLERANCE[rounds])


@each_op()
def test_autocast_to_float16(op):
    tensors = op.case.tensors()
    with torch.autocast("cpu", dtype=torch.float16):
        if op.name in CONVOLUTIONS:
            operator = "conv2d" if op.operator else op.name  # of a composite, what runs under autocast
            with pytest.raises(TypeError, match=f"which {operator} has on CUDA alone; allowed is torch.bfloat16"):
                op.case.run(tensors)
            return
        got = op.case.run(tensors)
    assert got[0].dtype == torch.float32
    op.case.assert_near(got, op.case.run(widened(tensors), module=reference), TOLERANCE[torch.float32])


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@each_op()
def test_deterministic(op, deterministic):
    for case in op.cases:
        tensors = case.tensors()
        first = detached(case.run(tensors))
        assert same_bits(first, case.run(tensors)), case.name
    assert same_bits(second_derivative(op.case), second_derivative(op.case))


def second_derivative(case):
    tensors = case.tensors()
    leaves = [t for t in tensors if t.requires_grad]
    total = sum(y.square().sum() for y in outputs_of(case, tensors) if y.requires_grad)
    grads = torch.autograd.grad(total, leaves, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)
