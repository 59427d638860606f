"""reconstruction_loss against its reference: values, first and second derivatives, layouts, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F

from sdgan_ext import ops
from sdgan_ext.ops import reconstruction_loss, reference
from sdgan_ext.ops.reconstruction_loss import RECONSTRUCTIONS

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float64: 1e-12}
REDUCTIONS = ["batchmean", "sum", "mean", "none"]
SHAPES = [(1,), (1, 1), (5, 3), (2, 3, 5, 7), (4, 1, 28, 28), (2, 10_007)]


def randn(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def images(*shape, dtype=torch.float64):
    return randn(*shape, dtype=dtype).requires_grad_(), randn(*shape, seed=1).sigmoid().to(dtype).requires_grad_()


def layouts():
    nchw = randn(4, 6, 5, 3)
    return {
        "contiguous": nchw,
        "channels_last": nchw.contiguous(memory_format=torch.channels_last),
        "permuted": nchw.permute(2, 0, 3, 1),
        "sliced": nchw[:, ::2, 1:],
        "expanded": nchw[:1].expand(3, -1, -1, -1),
    }


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", RECONSTRUCTIONS)
def test_values_and_gradients(kind, reduction, dtype):
    close = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    for shape in SHAPES:
        inputs = images(*shape, dtype=dtype)
        wide = [t.detach().double().requires_grad_() for t in inputs]
        loss = reconstruction_loss(*inputs, kind, reduction)
        expected = reference.reconstruction_loss(*wide, kind, reduction)
        upstream = torch.randn_like(expected).to(dtype)
        grads = torch.autograd.grad(loss, inputs, upstream, retain_graph=True)
        expected_grads = torch.autograd.grad(expected, wide, upstream.double())
        assert loss.dtype == dtype
        for got, want in zip((loss, *grads), (expected, *expected_grads), strict=True):
            torch.testing.assert_close(got.double(), want, **close)
        for i in range(2):  # one gradient alone
            torch.testing.assert_close(torch.autograd.grad(loss, inputs[i], upstream, retain_graph=True)[0], grads[i])


def test_equals_torch():
    x_hat, x = images(8, 1, 28, 28)
    per_image = dict(reduction="sum")
    pairs = {
        "mse": F.mse_loss(x_hat, x, **per_image),
        "l1": F.l1_loss(x_hat, x, **per_image),
        "bce": F.binary_cross_entropy_with_logits(x_hat, x, **per_image),
        "gaussian": F.gaussian_nll_loss(x_hat, x, torch.ones_like(x), full=True, **per_image),
    }
    for kind, expected in pairs.items():
        torch.testing.assert_close(reconstruction_loss(x_hat, x, kind), expected / 8)
    normal = torch.distributions.Normal(x_hat, 1.0)
    torch.testing.assert_close(reconstruction_loss(x_hat, x, "gaussian", "sum"), -normal.log_prob(x).sum())


@pytest.mark.parametrize("kind", RECONSTRUCTIONS)
@pytest.mark.parametrize("name", layouts())
def test_layouts_mixed(name, kind):
    base = layouts()[name]
    for x in (base * 0.5, randn(*base.shape, seed=1)):  # of the same layout, where that is dense, and of another
        x_hat = base.detach().requires_grad_()
        loss = reconstruction_loss(x_hat, x, kind, "none")
        expected = reference.reconstruction_loss(x_hat, x, kind, "none")
        torch.testing.assert_close(loss, expected)
        assert loss.stride() == torch.empty_like(x_hat).stride()
        for upstream in (randn(*base.shape, seed=4), base, torch.ones(()).double().expand(base.shape)):
            (got,) = torch.autograd.grad(loss, x_hat, upstream, retain_graph=True)
            torch.testing.assert_close(got, torch.autograd.grad(expected, x_hat, upstream, retain_graph=True)[0])


@pytest.mark.parametrize("reduction", ["batchmean", "none"])
@pytest.mark.parametrize("kind", RECONSTRUCTIONS)
def test_first_and_second_derivative(kind, reduction):
    def run(x_hat, x):
        return reconstruction_loss(x_hat, x, kind, reduction)

    x_hat, x = images(3, 4)
    for inputs in [(x_hat, x), (x_hat, x.detach()), (x_hat.detach(), x)]:
        assert torch.autograd.gradcheck(run, inputs)
        assert torch.autograd.gradgradcheck(run, inputs)


def test_edges():
    equal = torch.zeros(2, 3, requires_grad=True)
    assert torch.autograd.grad(reconstruction_loss(equal, equal.detach(), "l1"), equal)[0].abs().sum() == 0
    for extreme in (1e4, -1e4):
        logits = torch.full((2, 17), extreme, requires_grad=True)
        loss = reconstruction_loss(logits, torch.full((2, 17), 0.25), "bce")
        assert loss.isfinite() and torch.autograd.grad(loss, logits)[0].isfinite().all()
    unknown = torch.full((2, 3), math.nan, requires_grad=True)
    for kind in RECONSTRUCTIONS:
        loss = reconstruction_loss(unknown, equal.detach(), kind)
        assert loss.isnan() and torch.autograd.grad(loss, unknown)[0].isnan().all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty_batch(reduction):
    for shape in [(0, 4), (3, 0)]:
        x_hat, x = images(*shape)
        loss = reconstruction_loss(x_hat, x, reduction=reduction)
        expected = reference.reconstruction_loss(x_hat, x, reduction=reduction)
        torch.testing.assert_close(loss, expected, equal_nan=True)
        assert torch.autograd.grad(loss.sum(), x_hat)[0].shape == shape


def test_same_bits_for_any_number_of_threads():
    x_hat, x = images(7, 14_321, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            loss = reconstruction_loss(x_hat, x, "bce")
            results.append([loss, *torch.autograd.grad(loss, (x_hat, x))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("name", "reduction"), [("contiguous", 0), ("channels_last", 3), ("sliced", 3)])
def test_opcheck(name, reduction):
    x_hat = layouts()[name].float().requires_grad_()
    x = torch.randn_like(x_hat)
    grad_loss = torch.randn(x.shape if reduction == 0 else ())
    native = torch.ops.sdgan_ext
    torch.library.opcheck(native.reconstruction_loss.default, (x_hat, x, 0, reduction, False, False))
    if reduction:
        torch.library.opcheck(native.reconstruction_loss.default, (x_hat, x, 2, reduction, True, False))
        torch.library.opcheck(native.reconstruction_loss.default, (x_hat, x, 2, reduction, True, True))
    else:
        with pytest.raises(RuntimeError, match="only a reduced loss has gradients beside it"):
            native.reconstruction_loss(x_hat, x, 0, reduction, True, False)
    arguments = (grad_loss, x_hat, x, 2, reduction, True)
    torch.library.opcheck(native.reconstruction_loss_backward.default, (*arguments, False))
    torch.library.opcheck(native.reconstruction_loss_backward.default, (*arguments, True))


def test_compile():
    x_hat, x = images(4, 3, 8, 8, dtype=torch.float32)

    def run(x_hat, x):
        return reconstruction_loss(x_hat, x) + reconstruction_loss(x_hat, x, "bce", "mean")

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(x_hat, x), (x_hat, x))
    torch.testing.assert_close(got, torch.autograd.grad(run(x_hat, x), (x_hat, x)))


def test_autocast_computes_in_float32():
    x_hat, x = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True), torch.zeros(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = reconstruction_loss(x_hat, x)
    assert loss.dtype == torch.float32 and loss == 3
    assert torch.autograd.grad(loss, x_hat)[0].dtype == torch.bfloat16


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: reconstruction_loss([0.0], X), TypeError, "x_hat must be a torch.Tensor, got list"),
        (lambda: reconstruction_loss(X, X.byte()), TypeError, "x has dtype torch.uint8"),
        (lambda: reconstruction_loss(X, X.double()), TypeError, "x has dtype torch.float64, x_hat has torch.float32"),
        (lambda: reconstruction_loss(X, X[:1]), ValueError, r"x has shape \(1, 3\), x_hat \(2, 3\); they must match"),
        (lambda: reconstruction_loss(X[0, 0], X[0, 0]), ValueError, "its first dimension must be the batch"),
        (lambda: reconstruction_loss(X, X, "l2"), ValueError, "kind is 'l2'; allowed are 'mse'"),
        (lambda: reconstruction_loss(X, X, reduction="avg"), ValueError, "reduction is 'avg'; allowed are 'none'"),
    ],
)
def test_refusals_name_the_argument(call, error, words):
    assert ops.reconstruction_loss is reconstruction_loss
    with pytest.raises(error, match=words):
        call()
