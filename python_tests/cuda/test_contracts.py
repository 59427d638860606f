"""What torch expects of an op on CUDA: streams, graphs, autocast, compile, determinism, no waiting, the device."""

import matrix
import pytest
import torch
from matrix import CASES, DEVICE, ON_CUDA, SHORT, assert_all_near, each, needs_cuda, same_bits

from sdgan_ext import ops

matrix.require_device()
pytestmark = pytest.mark.usefixtures("full_precision")
full_precision = matrix.full_precision


def detached(results):
    return [t.detach().clone() for t in results]


# ------------------------------------------------------------------------------------------------ streams, graphs
@needs_cuda
@each(CASES)
def test_the_current_stream(case):
    """While the default stream is busy, a result on another stream is there when that stream is through."""
    tensors = case.tensors()
    expected = detached(case.run(tensors))
    upstream = case.upstream([t for t in case.run(tensors) if t.requires_grad])
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    torch.cuda._sleep(100_000_000)  # tens of milliseconds
    with torch.cuda.stream(side):
        got = [t.to("cpu") for t in detached(case.run(tensors, upstream))]
    side.synchronize()
    case.assert_near(got, [t.cpu() for t in expected], 0 if case.exact else 1e-5)
    torch.cuda.synchronize()


@needs_cuda
@each(CASES)
def test_capture_and_replay(case):
    """Forward and backward in a graph: replayed on other inputs and another seed, the numbers of the eager call."""
    tensors, others = case.tensors(), case.tensors(seed=1)
    upstream = case.upstream([t for t in case.run(tensors) if t.requires_grad])
    expected = detached(case.run(others, upstream))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            case.run(tensors, upstream)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = case.run(tensors, upstream)
    with torch.no_grad():
        for mine, other in zip(tensors, others, strict=True):
            mine.copy_(other)
    for _ in range(2):
        graph.replay()
        if case.exact:
            assert same_bits(results, expected)
        else:
            case.assert_near(results, expected, 1e-5)


@needs_cuda
@each(CASES)
def test_nothing_waits_for_the_device(case):
    tensors = case.tensors()
    upstream = case.upstream([t for t in case.run(tensors) if t.requires_grad])
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.run(tensors, upstream)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_a_seed_is_drawn_without_waiting():
    mean = torch.zeros(4, 3, device=DEVICE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        a, _ = ops.sample_gaussian(mean, mean)
        b, _ = ops.sample_gaussian(mean, mean)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not torch.equal(a, b)


# ---------------------------------------------------------------------------------------------------- determinism
@each(CASES)
def test_the_same_bits_in_20_runs(case, monkeypatch):
    if not case.exact:
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    tensors = case.tensors()
    first = detached(case.run(tensors))
    assert all(same_bits(first, case.run(tensors)) for _ in range(19))


@each(CASES)
def test_deterministic_algorithms(case):
    tensors = case.tensors()
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first = detached(case.run(tensors))
        assert same_bits(first, case.run(tensors))
    finally:
        torch.use_deterministic_algorithms(before)


# ------------------------------------------------------------------------------------------------ autocast, compile
@pytest.mark.parametrize("dtype", [torch.bfloat16] + [torch.float16] * ON_CUDA, ids=str)
@each(SHORT)
def test_autocast(case, dtype):
    tensors = case.tensors()
    with torch.autocast(DEVICE, dtype=dtype):
        got = case.run(tensors)
    expected = {"half": dtype, "float32": torch.float32, "input": torch.float32}[case.autocast]
    outputs = len(got) - sum(t.requires_grad for t in tensors)
    assert got[0].dtype == expected
    assert [t.dtype for t in got[outputs:]] == [t.dtype for t in tensors if t.requires_grad]
    tolerance = matrix.TOLERANCE[dtype] if case.autocast == "half" else 2e-5
    want = case.run(matrix.widened(tensors), module=matrix.reference)
    case.assert_near(got, want, tolerance * (8 if case.kinked and case.autocast == "half" else 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16] + [torch.float16] * ON_CUDA, ids=str)
@each([case for case in SHORT if case.autocast == "float32"])
def test_losses_of_halves_are_float32_under_autocast(case, dtype):
    tensors = case.tensors(dtype)
    with torch.autocast(DEVICE, dtype=dtype):
        got = case.run(tensors)
    assert got[0].dtype == torch.float32
    case.assert_near(got, case.run(matrix.widened(tensors), module=matrix.reference), 2 * matrix.TOLERANCE[dtype])


@each(SHORT)
def test_compile(case):
    """One graph, forward and backward; the fake kernels promise the strides that the GPU's kernels give."""
    torch._dynamo.reset()
    tensors = case.tensors(format=torch.channels_last)

    def run(*tensors):
        return case.call(ops, *tensors)

    with matrix.backend(case.backend):
        outputs = torch.compile(run, fullgraph=True, backend="aot_eager")(*tensors)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        with_graph = [output for output in outputs if output.requires_grad]
        grads = torch.autograd.grad(with_graph, [t for t in tensors if t.requires_grad], case.upstream(with_graph))
    expected = case.run(tensors)
    case.assert_near([*outputs, *grads], expected, 1e-5)
    assert [t.stride() for t in outputs] == [t.stride() for t in expected[: len(outputs)]]


@needs_cuda
def test_inductor_compiles_a_chain():
    def chain(x, w, b, mean, logvar, seed):
        h = ops.conv_transpose2d(x, w, b, 2, 1, activation="relu") * 2
        z, kl = ops.sample_gaussian(mean, logvar, seed=seed)
        return ops.reconstruction_loss(h, torch.zeros_like(h)) + kl + ops.generator_loss(z.mean(1, keepdim=True))

    x, w, b = (torch.randn(s, device=DEVICE, requires_grad=True) for s in [(2, 8, 4, 4), (8, 16, 4, 4), (16,)])
    mean, logvar = (torch.randn(4, 6, device=DEVICE, requires_grad=True) for _ in range(2))
    inputs = [x, w, b, mean, logvar]
    seed = torch.tensor(7, device=DEVICE)
    got = torch.compile(chain, fullgraph=True)(*inputs, seed)
    want = chain(*inputs, seed)
    results = (torch.autograd.grad(y, inputs, retain_graph=True) for y in (got, want))
    assert_all_near([got, *next(results)], [want, *next(results)], 1e-4)


# ---------------------------------------------------------------------------------------------------------- devices
@needs_cuda
@each(SHORT)
def test_another_device_is_current(case):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    tensors = case.tensors(device="cuda:1")
    with torch.cuda.device(0):
        results = case.run(tensors)
        assert torch.cuda.current_device() == 0
    assert all(t.device.index == 1 for t in results)
    case.assert_near([t.cpu() for t in results], [t.cpu() for t in case.run(case.tensors(device="cuda:0"))], 1e-5)


@needs_cuda
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a, b: ops.discriminator_loss(a, b), ValueError, "fake_logits is on cpu, real_logits on cuda:0"),
        (lambda a, b: ops.sample_gaussian(a, b), ValueError, "logvar is on cpu, mean on cuda:0"),
        (lambda a, b: ops.sample_gaussian(a, a, seed=torch.tensor(1)), ValueError, "seed is on cpu, mean on cuda:0"),
        (lambda a, b: ops.reconstruction_loss(a, b), ValueError, "x is on cpu, x_hat on cuda:0"),
        (lambda a, b: ops.conv2d(a, b), ValueError, "weight is on cpu, input on cuda:0"),
        (lambda a, b: ops.generator_loss(a.int()), TypeError, "dtype torch.int32"),
        (lambda a, b: ops.batch_norm(a, None, None, b[0, 0, 0], training=True), ValueError, "on cpu"),
        (lambda a, b: ops.binary_cross_entropy(a, b), ValueError, "on cpu"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.ones(3, 3, 3, 3, device="cuda"), torch.ones(3, 3, 3, 3))
