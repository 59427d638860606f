"""group_norm against its reference: values, first and second derivatives, statistics, layouts, dtypes, refusals."""

import pytest
import torch
import torch.nn.functional as F

from sdgan_ext import ops
from sdgan_ext.ops import reference
from sdgan_ext.ops._enums import ACTIVATIONS

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float64: 1e-11}
NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
each_layout = pytest.mark.parametrize("layout", [NCHW, CHANNELS_LAST], ids=["nchw", "channels_last"])


def image(*shape, dtype=torch.float32, layout=NCHW, seed=0, mean=1.0, std=2.0):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) * std + mean).to(dtype)
    return (x.contiguous(memory_format=layout) if x.dim() == 4 else x).requires_grad_()


def vectors(channels, dtype=torch.float32):
    a, b = torch.rand(2, channels, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return (a + 0.5).to(dtype).requires_grad_(), (b - 0.5).to(dtype).requires_grad_()


def check_against_reference(x, groups, activation="silu", vector_dtype=None, weighted=True, biased=True, **options):
    """Values and gradients against the reference in float64, given the same numbers. The judge is contiguous: stock
    group norm in channels_last loses digits where the mean is large."""
    weight, bias = vectors(x.shape[1], vector_dtype or x.dtype)
    leaves = [x, weight if weighted else None, bias if biased else None]
    wide = [None if t is None else t.detach().double().contiguous().requires_grad_() for t in leaves]
    y = ops.group_norm(x, groups, *leaves[1:], activation=activation, **options)
    ones = torch.ones(x.shape[1], dtype=torch.float64)  # stock torch cannot differentiate a bias alone
    expected = reference.group_norm(
        wide[0], groups, wide[1] if weighted else ones, wide[2], activation=activation, **options
    )
    assert y.dtype == x.dtype and y.shape == x.shape
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3)).to(x.dtype)
    grads = torch.autograd.grad(y, [t for t in leaves if t is not None], upstream)
    wide_grads = torch.autograd.grad(expected, [t for t in wide if t is not None], upstream.double())
    tolerance = TOLERANCE[x.dtype]
    for got, want in zip((y, *grads), (expected, *wide_grads), strict=True):
        scale = max(1.0, want.detach().abs().max().item())
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance * scale, check_stride=False)
    return y


SHAPES = [((64, 33), 3), ((7, 4), 1), ((2, 6, 5), 2), ((4, 1, 3, 5), 1), ((5, 12, 7, 7), 4), ((3, 130, 2, 3), 65)]
SHAPES += [((1, 20, 9, 5), 20), ((2, 64, 14, 14), 32), ((2, 6, 70, 71), 2), ((2, 8, 4, 3, 2), 4), ((1, 32, 40, 41), 32)]
SHAPES += [((1, 2304, 3, 7), 32), ((40, 8, 1, 1), 2)]


@each_layout
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_values_and_gradients(dtype, layout):
    for shape, groups in SHAPES:
        check_against_reference(image(*shape, dtype=dtype, layout=layout), groups)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    for dtype in TOLERANCE:
        for layout in (NCHW, CHANNELS_LAST):
            check_against_reference(image(3, 18, 5, 5, dtype=dtype, layout=layout), 6, activation)


@each_layout
@pytest.mark.parametrize(("weighted", "biased"), [(False, False), (True, False), (False, True)])
def test_without_weight_or_bias_and_with_another_eps(weighted, biased, layout):
    x = image(3, 4, 5, 5, layout=layout)
    check_against_reference(x, 2, weighted=weighted, biased=biased, eps=0.1)


def test_negative_slope_reaches_the_kernel():
    x = image(4, 6)
    got = ops.group_norm(x, 2, activation="leaky_relu", negative_slope=0.01)
    torch.testing.assert_close(got, F.leaky_relu(F.group_norm(x, 2), 0.01))


@each_layout
def test_float32_vectors_beside_bfloat16(layout):
    check_against_reference(image(8, 6, 6, 6, dtype=torch.bfloat16, layout=layout), 3, vector_dtype=torch.float32)


@each_layout
@pytest.mark.parametrize("shape", [(2, 8, 80, 80), (3, 64, 9, 9)])
@pytest.mark.parametrize(("mean", "std"), [(1e4, 1.0), (100.0, 1e-2)])
def test_statistics_where_the_mean_dwarfs_the_deviation(mean, std, shape, layout):
    x = image(*shape, mean=mean, std=std, layout=layout).detach()
    x[:, :, 0, 0] = 0  # first values that are no guess of the mean
    x[1] += mean  # images of their own
    want = reference.group_statistics(x.double().contiguous(), 4, 1e-5)
    _, *got = torch.ops.sdgan_ext.group_norm(x, 4, None, None, 1e-5, 0, 0.0)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=0)
    x = image(*shape, mean=mean, std=std, layout=layout).detach()
    want = reference.group_norm(x.double().contiguous(), 4, eps=1e-8)
    error = (ops.group_norm(x, 4, eps=1e-8) - want).norm() / want.norm()
    assert error < 1e-3  # of which the mean's own rounding to float32 is 4e-4


def test_statistics_can_be_differentiated():
    x = image(3, 4, 2, 2, dtype=torch.float64)

    def statistics(x):
        return torch.ops.sdgan_ext.group_norm(x, 2, None, None, 1e-5, 1, 0.0)

    assert torch.autograd.gradcheck(statistics, (x,))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_and_second_derivative(activation):
    for layout in (NCHW, CHANNELS_LAST):
        x = image(2, 4, 3, 2, dtype=torch.float64, layout=layout)

        def run(x, weight, bias):
            return ops.group_norm(x, 2, weight, bias, activation=activation)

        inputs = (x, *vectors(4, torch.float64))
        assert torch.autograd.gradcheck(run, inputs)
        assert torch.autograd.gradgradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(lambda x: run(x, None, None), (x,))


@each_layout
@pytest.mark.parametrize(("shape", "groups"), [((9, 70, 21, 20), 10), ((1, 64, 60, 61), 32), ((1, 6, 90, 91), 2)])
def test_same_bits_for_any_number_of_threads(shape, groups, layout):
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            x = image(*shape, layout=layout)
            weight, bias = vectors(shape[1])
            y = ops.group_norm(x, groups, weight, bias, activation="silu")
            results.append([y.detach(), *torch.autograd.grad(y, (x, weight, bias), y.detach() ** 2)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x[:, :, 1:, ::2],
        lambda x: x[:, 2:6],
        lambda x: x[::2],
        lambda x: x.transpose(2, 3),
        lambda x: x.transpose(0, 1),
        lambda x: x[:1].expand(4, -1, -1, -1),
        lambda x: x[:, :1].expand(-1, 6, -1, -1),
        lambda x: x.flatten(2).transpose(1, 2)[:, :30],
    ],
)
@each_layout
def test_views_and_the_layout_of_the_output(layout, view):
    from torch._subclasses.fake_tensor import FakeTensorMode

    x = view(image(6, 8, 6, 5, layout=layout).detach()).requires_grad_()
    y = check_against_reference(x, 2)
    if x.is_contiguous() or x.movedim(1, -1).is_contiguous():
        assert y.stride() == x.stride()
    with FakeTensorMode() as mode:
        fake = ops.group_norm(mode.from_tensor(x), 2)
    assert fake.stride() == y.stride()


def test_grad_output_of_another_layout():
    x = image(4, 6, 5, 5, layout=CHANNELS_LAST)
    y = ops.group_norm(x, 2, activation="tanh")
    upstream = torch.randn(4, 6, 5, 5)
    for grad in (upstream, upstream[:, :1].expand(4, 6, 5, 5)):
        got = torch.autograd.grad(y, x, grad, retain_graph=True)[0]
        again = torch.autograd.grad(y, x, grad.contiguous(memory_format=CHANNELS_LAST), retain_graph=True)[0]
        assert torch.equal(got, again) and got.stride() == x.stride()


@each_layout
def test_an_output_may_be_written_to(layout):
    x, weight, bias = image(2, 6, 5, 5, layout=layout), *vectors(6)
    leaves = (x, weight, bias)
    want = torch.autograd.grad(ops.group_norm(x, 3, weight, bias, activation="silu").square().sum(), leaves)
    got = torch.autograd.grad(ops.group_norm(x, 3, weight, bias, activation="silu").square_().sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("shape", [(0, 4), (0, 4, 4, 4), (2, 4, 0, 4)])
def test_empty_batch(shape):
    x = image(*shape)
    weight, bias = vectors(4)
    y = ops.group_norm(x, 2, weight, bias, activation="silu")
    grads = torch.autograd.grad(y.sum(), (x, weight, bias))
    assert y.shape == shape and grads[0].shape == shape and not grads[1].any() and not grads[2].any()


@each_layout
def test_not_a_number_stays_in_its_group(layout):
    x = image(2, 6, 4, 4, layout=layout).detach()
    x[0, 2, 2, 2] = float("nan")
    y = ops.group_norm(x, 3, activation="relu")
    assert y[0, 2:4].isnan().all() and y[1].isfinite().all() and y[0, [0, 1, 4, 5]].isfinite().all()


@each_layout
def test_compiles_into_one_graph(layout):
    x = image(4, 6, 5, 5, layout=layout)
    compiled = torch.compile(ops.group_norm, fullgraph=True, backend="aot_eager")
    got, expected = compiled(x, 3, activation="silu"), ops.group_norm(x, 3, activation="silu")
    assert torch.equal(got, expected) and got.stride() == expected.stride()
    assert torch.equal(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (got, expected)))


@each_layout
def test_opcheck(layout):
    x = image(3, 6, 4, 4, layout=layout)
    weight, bias = vectors(6)
    torch.library.opcheck(torch.ops.sdgan_ext.group_norm.default, (x, 3, weight, bias, 1e-5, 5, 0.2))
    mean, rstd = (t.detach() for t in reference.group_statistics(x, 3, 1e-5))
    args = (image(3, 6, 4, 4, seed=1, layout=layout), x, 3, weight, None, mean, rstd, 1e-5, 5, 0.2)
    torch.library.opcheck(torch.ops.sdgan_ext.group_norm_backward.default, args)


def refuse(shape=(4, 6, 2, 2), groups=3, **options):
    return lambda: ops.group_norm(torch.ones(shape), groups, **options)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.group_norm([1.0], 1), TypeError, "input must be a torch.Tensor, got list"),
        (lambda: ops.group_norm(torch.ones(2, 2).long(), 1), TypeError, "input has dtype torch.int64"),
        (refuse((3,)), ValueError, "at least 2 dimensions"),
        (refuse(groups=4), ValueError, "num_groups is 4; it must divide the 6 channels of input"),
        (refuse(groups=0), ValueError, "num_groups is 0; it must divide the 6 channels of input"),
        (refuse(groups=-2), ValueError, "num_groups is -2; it must divide"),
        (refuse(groups=3.0), TypeError, "num_groups must be an integer, got float"),
        (refuse((1, 3, 1, 1)), ValueError, r"num_groups is 3; of an input of shape \(1, 3, 1, 1\) each group is one"),
        (refuse(weight=torch.ones(2)), ValueError, r"weight has shape \(2,\); it must be \(6,\)"),
        (refuse(bias=torch.ones(6).double()), TypeError, "bias has dtype torch.float64, input has torch.float32"),
        (refuse(weight=1.0), TypeError, "weight must be a torch.Tensor, got float"),
        (refuse(activation="gelu"), ValueError, "activation is 'gelu'; allowed are None, 'relu'"),
        (refuse(eps=0.0), ValueError, "eps is 0.0; it must be positive"),
    ],
)  # fmt: skip
def test_refusals_name_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()
