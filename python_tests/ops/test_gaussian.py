"""gaussian against its reference: the stream of noise, values, first and second derivatives, layouts, refusals."""

import pytest
import torch

from sdgan_ext.ops import gaussian as op
from sdgan_ext.ops import reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float64: 1e-10}
REDUCTIONS = ["batchmean", "sum", "mean", "none"]
SHAPES = [(1,), (1, 1), (5, 3), (64, 100), (3, 4, 5, 7), (2, 10_007)]


def randn(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def posterior(*shape, dtype=torch.float64):
    return randn(*shape, dtype=dtype).requires_grad_(), randn(*shape, dtype=dtype, seed=1).requires_grad_()


def widened(*tensors):
    return [t.detach().double().requires_grad_() for t in tensors]


def layouts():
    nchw = randn(4, 6, 5, 3)
    return {
        "contiguous": nchw,
        "channels_last": nchw.contiguous(memory_format=torch.channels_last),
        "permuted": nchw.permute(2, 0, 3, 1),
        "chunk": nchw.chunk(2, dim=1)[1],
        "sliced": nchw[:, ::2, 1:],
        "expanded": nchw[:1].expand(3, -1, -1, -1),
        "one_pixel": randn(4, 6, 1, 1).contiguous(memory_format=torch.channels_last),
    }


# ------------------------------------------------------------------------------------------------------- noise
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # published with the paper, in Random123's kat_vectors
        ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter, key, words):
    counter, key, words = (torch.tensor([int(word, 16) for word in text.split()]) for text in (counter, key, words))
    assert torch.equal(reference.philox(counter[None], key)[0], words)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**32, 0x0123456789ABCDEF, -(2**63)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_the_philox_stream(dtype, seed):
    for n in (1, 3, 4, 129, 20_003):
        zero = torch.zeros(1, n, dtype=dtype)
        eps, _ = op.sample_gaussian(zero, zero, seed=seed)
        tolerance = 1e-6 if dtype == torch.float32 else 1e-14
        torch.testing.assert_close(eps[0].double(), reference.philox_normal(seed, n), rtol=0, atol=tolerance)


def test_noise_is_standard_normal():
    zero = torch.zeros(1000, 1000)
    a, b = (op.sample_gaussian(zero, zero, seed=seed)[0].double().flatten() for seed in (1, 2))
    n = a.numel()
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:  # of the normal distribution
        assert abs((a**power).mean() - moment) < 5 * (variance / n) ** 0.5
    for other in (b, a.roll(1), a.roll(2), a.roll(4)):  # other seed, partner, neighbours of the same block and the next
        assert abs((a * other).mean()) < 5 / n**0.5
        assert abs(((a**2 - 1) * (other**2 - 1)).mean()) < 5 * 2 / n**0.5
    assert torch.stack((a, b), dim=1).view(-1, 4, 2).flatten(1).unique(dim=0).shape[0] == n // 4
    cells = torch.bincount((torch.special.ndtr(a) * 100).long(), minlength=100).double()
    assert ((cells - n / 100) ** 2 / (n / 100)).sum() < 160  # chi square with 99 degrees of freedom, p = 1e-4


@pytest.mark.parametrize("name", layouts())
def test_noise_follows_the_logical_order(name):
    mean = layouts()[name].float()
    seed = torch.tensor([7])
    z, kl = op.sample_gaussian(mean, mean, seed=seed, reduction="none")
    same, same_kl = op.sample_gaussian(mean.contiguous(), mean.contiguous(), seed=7, reduction="none")
    assert torch.equal(z, same) and torch.equal(kl, same_kl)
    assert z.stride() == kl.stride() == torch.empty_like(mean).stride()


def test_seed_comes_from_a_generator():
    mean = torch.zeros(3, 5)
    torch.manual_seed(3)
    first, second = op.sample_gaussian(mean, mean)[0], op.sample_gaussian(mean, mean)[0]
    torch.manual_seed(3)
    assert torch.equal(op.sample_gaussian(mean, mean)[0], first) and not torch.equal(first, second)
    a, b = (op.sample_gaussian(mean, mean, generator=torch.Generator().manual_seed(5))[0] for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a, first)


# -------------------------------------------------------------------------------------- values and derivatives
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("noise", ["seed", "eps"])
def test_values_and_gradients(noise, reduction, dtype):
    close = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    for shape in SHAPES:
        inputs = posterior(*shape, dtype=dtype)
        if noise == "eps":
            inputs += (randn(*shape, dtype=dtype, seed=2).requires_grad_(),)
        wide = widened(*inputs)

        def run(module, mean, logvar, eps=None):
            seed = 11 if eps is None else None
            return module.sample_gaussian(mean, logvar, seed=seed, eps=eps, reduction=reduction)  # noqa: B023

        outputs, expected = run(op, *inputs), run(reference, *wide)
        upstream = [torch.randn_like(t) for t in expected]
        grads = torch.autograd.grad(outputs, inputs, [g.to(dtype) for g in upstream])
        expected_grads = torch.autograd.grad(expected, wide, upstream)
        for got, want in zip(outputs + grads, expected + expected_grads, strict=True):
            assert got.dtype == dtype
            torch.testing.assert_close(got.double(), want, **close)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_each_output_alone(reduction):
    mean, logvar = posterior(6, 10)
    upstream = randn(6, 10, seed=3)
    z, kl = op.sample_gaussian(mean, logvar, seed=1, reduction=reduction)
    only_kl = op.gaussian_kl(mean, logvar, reduction)
    expected_z, expected_kl = reference.sample_gaussian(mean, logvar, seed=1, reduction=reduction)
    torch.testing.assert_close(only_kl, expected_kl)
    pairs = [(z * upstream, expected_z * upstream), (z, expected_z), (kl, expected_kl), (only_kl, expected_kl)]
    for got, want in pairs:
        grads = torch.autograd.grad(got.sum(), (mean, logvar), retain_graph=True)
        expected = torch.autograd.grad(want.sum(), (mean, logvar), retain_graph=True)
        torch.testing.assert_close(grads, expected)


@pytest.mark.parametrize("name", layouts())
def test_layouts_mixed(name):
    mean = layouts()[name].detach().requires_grad_()
    logvar = randn(*mean.shape, seed=1).requires_grad_()
    eps = randn(*mean.shape, seed=2)
    for options in (dict(seed=1), dict(eps=eps)):
        z, kl = op.sample_gaussian(mean, logvar, reduction="none", **options)
        expected = reference.sample_gaussian(mean, logvar, reduction="none", **options)
        torch.testing.assert_close((z, kl), expected)
        assert z.stride() == kl.stride() == torch.empty_like(mean).stride()
        upstream = [randn(*mean.shape, seed=4), layouts()[name]]
        got = torch.autograd.grad((z, kl), (mean, logvar), upstream)
        torch.testing.assert_close(got, torch.autograd.grad(expected, (mean, logvar), upstream))


@pytest.mark.parametrize("reduction", ["batchmean", "none"])
def test_first_and_second_derivative(reduction):
    inputs = *posterior(3, 4), randn(3, 4, seed=2).requires_grad_()
    runs = [
        (lambda m, v: op.sample_gaussian(m, v, seed=3, reduction=reduction), inputs[:2]),
        (lambda m, v, e: op.sample_gaussian(m, v, eps=e, reduction=reduction), inputs),
        (lambda m, v, e: op.sample_gaussian(m, v, eps=e, reduction=reduction)[0], inputs),
        (lambda m, v: op.gaussian_kl(m, v, reduction), inputs[:2]),
    ]
    for run, arguments in runs:
        assert torch.autograd.gradcheck(run, arguments)
        assert torch.autograd.gradgradcheck(run, arguments)


def test_extreme_log_variances():
    logvar = torch.tensor([[-200.0, -80.0, 0.0, 80.0]], requires_grad=True)
    mean = torch.zeros_like(logvar)
    z, kl = op.sample_gaussian(mean, logvar, seed=0)
    (grad,) = torch.autograd.grad(z.sum() + kl, logvar)
    assert z.isfinite().all() and kl.isfinite() and grad.isfinite().all()
    assert z[0, 0].abs() < 1e-30
    assert op.gaussian_kl(mean[:, 2:3], logvar[:, 2:3]) == 0
    assert op.gaussian_kl(mean, torch.full_like(mean, torch.nan)).isnan()


def test_empty_batch():
    for shape in [(0, 4), (3, 0)]:
        mean, logvar = posterior(*shape)
        for reduction in REDUCTIONS:
            z, kl = op.sample_gaussian(mean, logvar, seed=0, reduction=reduction)
            expected_z, expected = reference.sample_gaussian(mean, logvar, seed=0, reduction=reduction)
            torch.testing.assert_close((z, kl), (expected_z, expected), equal_nan=True)
            assert torch.autograd.grad(kl.sum() + z.sum(), mean)[0].shape == shape


# ------------------------------------------------------------------------------------------------------- torch
def test_same_bits_for_any_number_of_threads():
    mean, logvar = posterior(7, 14_321, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            z, kl = op.sample_gaussian(mean, logvar, seed=5)
            results.append([z, kl, *torch.autograd.grad(kl + (z**2).sum(), (mean, logvar))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("name", "reduction"), [("contiguous", 0), ("channels_last", 3), ("sliced", 3)])
def test_opcheck(name, reduction):
    mean = layouts()[name].float().requires_grad_()
    logvar, eps = (torch.randn_like(mean).requires_grad_() for _ in range(2))
    ops = torch.ops.sdgan_ext
    for noise in [(None, None), (eps, None), (None, torch.tensor(4))]:
        torch.library.opcheck(ops.gaussian.default, (mean, logvar, *noise, reduction))
    grad_kl = torch.randn(mean.shape if reduction == 0 else ())
    for grads in [(eps, None), (None, grad_kl), (eps, grad_kl)]:
        arguments = (*grads, mean, logvar, eps, reduction, grads[0] is not None)
        torch.library.opcheck(ops.gaussian_backward.default, arguments)


def test_compile():
    mean, logvar = posterior(8, 6, dtype=torch.float32)

    def run(mean, logvar):
        z, kl = op.sample_gaussian(mean, logvar, seed=9)
        return (z**2).sum() + kl + op.gaussian_kl(mean, logvar, "sum")

    expected = torch.autograd.grad(run(mean, logvar), (mean, logvar))
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(mean, logvar), (mean, logvar)), expected)
    draw = torch.compile(lambda m, v: op.sample_gaussian(m, v)[0], fullgraph=True, backend="aot_eager")
    assert not torch.equal(draw(mean, logvar), draw(mean, logvar))


# --------------------------------------------------------------------------------------------------------- out=
@pytest.mark.parametrize("reduction", ["batchmean", "none"])
@pytest.mark.parametrize("name", layouts())
def test_out_holds_the_sample_in_any_layout(name, reduction):
    mean = layouts()[name]
    logvar, eps = randn(*mean.shape, seed=1), randn(*mean.shape, seed=2)
    outs = [torch.full_like(mean, 7), torch.full(mean.shape, 7.0, dtype=mean.dtype)]
    outs += [torch.full((*mean.shape[:-1], 2 * mean.shape[-1]), 7.0, dtype=mean.dtype)[..., ::2]]
    for noise in ({"seed": 3}, {"eps": eps}):
        z, kl = op.sample_gaussian(mean, logvar, **noise, reduction=reduction)
        for out in outs:
            strides, address = out.stride(), out.data_ptr()
            got, got_kl = op.sample_gaussian(mean, logvar, **noise, reduction=reduction, out=out)
            assert got is out and (out.stride(), out.data_ptr()) == (strides, address)
            assert torch.equal(out, z) and torch.equal(got_kl, kl)


def test_out_draws_its_seed_as_without_it():
    mean, logvar = randn(4, 3), randn(4, 3, seed=1)
    torch.manual_seed(5)
    z, _ = op.sample_gaussian(mean, logvar)
    torch.manual_seed(5)
    assert torch.equal(op.sample_gaussian(mean, logvar, out=torch.empty_like(mean))[0], z)


def test_out_may_lie_beside_its_arguments_in_one_storage():
    storage = randn(3, 4, 5)
    mean, logvar, out = storage.unbind()
    z, _ = op.sample_gaussian(mean, logvar, seed=1)
    op.sample_gaussian(mean, logvar, seed=1, out=out)
    assert torch.equal(storage[2], z)


def test_out_takes_no_part_in_autograd():
    mean, logvar = posterior(4, 3)
    sentence = r"sample_gaussian\(\): functions with out=... arguments don't support automatic differentiation"
    for arguments in [(mean, logvar.detach()), (mean.detach(), logvar)]:
        with pytest.raises(RuntimeError, match=sentence):
            op.sample_gaussian(*arguments, out=torch.empty(4, 3, dtype=torch.float64))
    with torch.no_grad():
        z, _ = op.sample_gaussian(mean, logvar, out=torch.empty(4, 3, dtype=torch.float64))
    assert not z.requires_grad


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (lambda mean, logvar: [0.0], TypeError, "out must be a torch.Tensor, got list"),
        (lambda mean, logvar: mean.float(), TypeError, "out has dtype torch.float32, mean has torch.float64"),
        (lambda mean, logvar: mean.new_empty(3, 4), ValueError, r"out has shape \(3, 4\), mean \(4, 3\)"),
        (lambda mean, logvar: mean, ValueError, "out shares memory with mean"),
        (lambda mean, logvar: logvar.view(12).view(4, 3), ValueError, "out shares memory with logvar"),
        (lambda mean, logvar: mean.new_empty(1, 3).expand(4, 3), ValueError, "more than one element"),
    ],
)
def test_outs_that_are_refused(out, error, words):
    mean, logvar = randn(4, 3), randn(4, 3, seed=1)
    with pytest.raises(error, match=words):
        op.sample_gaussian(mean, logvar, out=out(mean, logvar))


def test_out_compiles_and_passes_opcheck():
    mean, logvar, seed = randn(4, 3), randn(4, 3, seed=1), torch.tensor(4)
    native = torch.ops.sdgan_ext.gaussian_out.default
    for reduction in (0, 3):
        torch.library.opcheck(native, (mean, logvar, None, seed, reduction, torch.zeros(4, 3, dtype=mean.dtype)))

    def run(mean, logvar, out):
        return op.sample_gaussian(mean, logvar, seed=9, out=out)[1] + out.sum()

    out = torch.zeros_like(mean)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(mean, logvar, out), run(mean, logvar, torch.empty_like(mean)))
    assert torch.equal(out, op.sample_gaussian(mean, logvar, seed=9)[0])


def test_autocast_computes_in_float32():
    mean, logvar = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True), torch.zeros(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, kl = op.sample_gaussian(mean, logvar)
    assert z.dtype == kl.dtype == torch.float32
    assert torch.autograd.grad(z.sum(), mean)[0].dtype == torch.bfloat16


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: op.sample_gaussian([0.0], X), TypeError, "mean must be a torch.Tensor, got list"),
        (lambda: op.sample_gaussian(X, X.long()), TypeError, "logvar has dtype torch.int64"),
        (lambda: op.gaussian_kl(X, X.double()), TypeError, "logvar has dtype torch.float64, mean has torch.float32"),
        (lambda: op.gaussian_kl(X, X[:1]), ValueError, r"logvar has shape \(1, 3\), mean \(2, 3\)"),
        (lambda: op.gaussian_kl(X[0, 0], X[0, 0]), ValueError, "mean is a scalar; its first dimension must be"),
        (lambda: op.gaussian_kl(X, X, "avg"), ValueError, "reduction is 'avg'; allowed are 'none'"),
        (lambda: op.sample_gaussian(X, X, eps=X[:1]), ValueError, "eps has shape"),
        (lambda: op.sample_gaussian(X, X, eps=X, seed=1), ValueError, "seed, generator and eps exclude each other"),
        (lambda: op.sample_gaussian(X, X, seed=1.5), TypeError, "seed must be an int or an int64 tensor, got float"),
        (lambda: op.sample_gaussian(X, X, seed=2**63), ValueError, "it must fit in 64 bits, signed"),
        (lambda: op.sample_gaussian(X, X, seed=torch.zeros(2)), ValueError, "seed must be one int64 element"),
    ],
)
def test_refusals_name_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()
