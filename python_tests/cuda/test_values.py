"""Values and gradients on the GPU: against the reference in float64, against the CPU, in every dtype and layout."""

import matrix
import pytest
import torch
from matrix import CASES, DEVICE, DTYPES, FORMATS, IMAGES, ON_CUDA, SHORT, TOLERANCE, each

from sdgan_ext import ops
from sdgan_ext.ops import reference

matrix.require_device()
pytestmark = pytest.mark.usefixtures("full_precision")
full_precision = matrix.full_precision


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each(CASES)
def test_values_and_gradients(case, dtype):
    tensors = case.tensors(dtype)
    wide = matrix.widened(tensors)
    got = case.run(tensors)
    want = case.run(wide, module=reference)
    assert all(a.dtype == dtype for a in got if a.dim() == 4)
    case.assert_near(got, want, TOLERANCE[dtype])


@each(IMAGES)
def test_layouts(case):
    """The output keeps the layout; what is sliced, permuted or expanded gives what its copy gives."""
    plain = case.tensors()
    want = case.run(plain)
    last = case.tensors(format=torch.channels_last)
    got = case.run(last)
    case.assert_near(got, want, 2e-5)
    if min(last[0].shape[1:3]) > 1 and got[0].dim() == 4 and min(got[0].shape[1:]) > 1:
        assert got[0].is_contiguous(memory_format=torch.channels_last)
    x, *others = plain
    for view in views(x.detach()):
        given = [view.requires_grad_(x.requires_grad), *others]
        if view.shape != x.shape and case.specs[-1].shape == x.shape:  # a loss: all have one shape
            given = [given[0], *(t.detach()[tuple(map(slice, view.shape))] for t in others)]
        copies = [given[0].detach().clone().requires_grad_(x.requires_grad), *given[1:]]
        case.assert_near(case.run(given), case.run(copies), 2e-5)


def views(x):
    yield torch.cat([x, x], 2)[:, :, ::2]  # rows that do not follow one another
    yield torch.cat([x, x], 1).chunk(2, 1)[0]
    yield x.transpose(2, 3).contiguous().transpose(2, 3)
    yield torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)[1:].view(x.shape).copy_(x)  # 16 bytes do not fit


@each([case for case in IMAGES if case.short])
def test_expanded(case):
    tensors = case.tensors()
    x = tensors[0].detach()[:1].expand(tensors[0].shape).requires_grad_(tensors[0].requires_grad)
    copy = x.detach().clone().requires_grad_(x.requires_grad)
    case.assert_near(case.run([x, *tensors[1:]]), case.run([copy, *tensors[1:]]), 2e-5)


@each(CASES)
def test_agrees_with_the_cpu(case):
    here, there = case.tensors(), case.tensors(device="cpu")
    case.assert_near([t.cpu() for t in case.run(here)], case.run(there), 2e-5)


@pytest.mark.parametrize("seed", [0, -1, 0x0123456789ABCDEF])
def test_the_noise_is_that_of_the_cpu(seed):
    for n in (1, 5, 128, 100_003):
        zero = torch.zeros(1, n, device=DEVICE)
        z, _ = ops.sample_gaussian(zero, zero, seed=seed)
        torch.testing.assert_close(z[0].double().cpu(), reference.philox_normal(seed, n), rtol=0, atol=1e-6)
        on_cpu, _ = ops.sample_gaussian(zero.cpu(), zero.cpu(), seed=seed)
        torch.testing.assert_close(z.cpu(), on_cpu, rtol=0, atol=1e-6)
        given = ops.sample_gaussian(zero, zero, seed=torch.tensor(seed, device=DEVICE))[0]
        assert torch.equal(given, z)


@each([case for case in SHORT if case.conv])
def test_tf32_is_only_as_wrong_as_tf32(case, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    tensors = case.tensors()
    got, want = case.run(tensors), case.run(matrix.widened(tensors), module=reference)
    case.assert_near(got, want, 2e-3 * (4 if case.kinked else 1))


@each([case for case in SHORT if not case.name.startswith("batch_norm")])
def test_empty_batch(case):
    tensors = case.tensors()
    size = case.specs[0].shape
    empty = [t.detach()[:0].requires_grad_(t.requires_grad) if t.shape == size else t for t in tensors]
    got = case.run(empty)
    wide = case.run(matrix.widened(empty), module=reference)
    for a, b in zip(got, wide, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a.double(), b.double(), equal_nan=True)


# ------------------------------------------------------------------------------------------- more than 2^31 elements
MANY = 2**31 + 9


def needs_memory(gigabytes):
    if not ON_CUDA or torch.cuda.mem_get_info()[0] < gigabytes * 1e9:
        pytest.skip(f"needs {gigabytes} GB of a GPU's memory")


@pytest.fixture
def gives_memory_back():
    yield
    if ON_CUDA:
        torch.cuda.empty_cache()


@pytest.mark.usefixtures("gives_memory_back")
def test_losses_past_2_to_the_31():
    needs_memory(40)
    with torch.no_grad():
        x_hat, x = (torch.zeros(1, MANY, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
        x_hat[0, -3:] = 2
    loss = ops.reconstruction_loss(x_hat.requires_grad_(), x, reduction="sum")
    assert loss == 12
    (grad,) = torch.autograd.grad(loss, x_hat)
    assert grad[0, -3:].eq(4).all() and grad[0, :-3].count_nonzero() == 0
    del loss, grad
    logits = x_hat.detach()
    assert ops.generator_loss(logits, objective="wasserstein", reduction="sum") == -6
    del logits, x_hat
    z, _ = ops.sample_gaussian(x, x, seed=3)
    tail = reference_tail(3, MANY, 1000)
    torch.testing.assert_close(z[0, -1000:].double().cpu(), tail, rtol=1e-2, atol=1e-2)


def reference_tail(seed, n, count):
    """The last ``count`` of the first ``n`` normals."""
    first = (n - count) // 4
    block = torch.arange(first, (n + 3) // 4)
    zero = torch.zeros_like(block)
    seed = torch.tensor(seed)
    counter = torch.stack((block & 0xFFFFFFFF, block >> 32, zero, zero), -1)
    words = reference.philox(counter, torch.stack((seed, seed >> 32)))
    length = (-2 * (((words[:, 0::2] >> 8) + 1).double() * 2.0**-24).log()).sqrt()
    turn = words[:, 1::2].double() * (2 * torch.pi * 2.0**-32)
    normals = torch.stack((length * turn.cos(), length * turn.sin()), -1).flatten()
    return normals[n - count - 4 * first :][:count]


@pytest.mark.usefixtures("gives_memory_back")
@pytest.mark.parametrize("backend", ["implicit_gemm", "small_channel"])
def test_convolutions_past_2_to_the_31(backend):
    needs_memory(40)
    outputs = 3 if backend == "small_channel" else 16
    batch = 2**31 // (16 * 64 * 64) + 2
    x = torch.zeros(batch, 16, 64, 64, dtype=torch.bfloat16, device=DEVICE).to(memory_format=torch.channels_last)
    x[-2:] = torch.randn(2, 16, 64, 64, device=DEVICE)
    w = torch.randn(outputs, 16, 3, 3, device=DEVICE).bfloat16()
    with matrix.backend(backend):
        y = ops.conv2d(x, w, None, padding=1, activation="relu")
        few = ops.conv2d(x[-2:], w, None, padding=1, activation="relu")
    matrix.assert_all_near([y[-2:]], [few], 2e-2)
    assert y[:-2].count_nonzero() == 0


def test_formats_are_those_of_the_cpu_tests():
    assert set(FORMATS) == {"nchw", "channels_last"}
