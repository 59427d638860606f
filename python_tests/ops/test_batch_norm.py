"""batch_norm against its reference: values, first and second derivatives, statistics, layouts, dtypes, refusals."""

import pytest
import torch
import torch.nn.functional as F

from sdgan_ext import ops
from sdgan_ext.ops import reference
from sdgan_ext.ops._enums import ACTIVATIONS

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float64: 1e-11}
NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last


def image(*shape, dtype=torch.float32, layout=NCHW, seed=0, mean=1.0, std=2.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * std + mean
    x = x.to(dtype)
    return (x.contiguous(memory_format=layout) if x.dim() == 4 else x).requires_grad_()


def channel_vectors(channels, dtype=torch.float32):
    """weight, bias, running_mean, running_var"""
    generator = torch.Generator().manual_seed(7)
    a, b, c, d = torch.rand(4, channels, generator=generator, dtype=torch.float64)
    return (a + 0.5).to(dtype).requires_grad_(), (b - 0.5).to(dtype).requires_grad_(), c.to(dtype), (d + 0.5).to(dtype)


def check_against_reference(x, training, activation="relu", vector_dtype=None, affine=True, momentum=0.1, eps=1e-5):
    """Values, running statistics and gradients against the reference in float64, given the same numbers."""
    weight, bias, mean, var = channel_vectors(x.shape[1], vector_dtype or x.dtype)
    weight, bias = (weight, bias) if affine else (None, None)
    wide = [None if t is None else t.detach().double().requires_grad_() for t in (x, weight, bias)]
    wide_mean, wide_var = mean.double(), var.double()
    y = ops.batch_norm(x, mean, var, weight, bias, training, momentum, eps, activation=activation)
    expected = reference.batch_norm(
        wide[0], wide_mean, wide_var, *wide[1:], training, momentum, eps, activation=activation
    )
    assert y.dtype == x.dtype and y.shape == x.shape
    upstream = torch.randn_like(expected).to(x.dtype)
    grads = torch.autograd.grad(y, [t for t in (x, weight, bias) if t is not None], upstream)
    wide_grads = torch.autograd.grad(expected, [t for t in wide if t is not None], upstream.double())
    tolerance = TOLERANCE[x.dtype]
    for got, want in zip((y, mean, var, *grads), (expected, wide_mean, wide_var, *wide_grads), strict=True):
        scale = max(1.0, want.detach().abs().max().item()) if want.numel() else 1.0
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance * scale)
    return y


SHAPES = [(64, 33), (7, 1), (2, 3, 5), (4, 1, 3, 5), (5, 3, 7, 7), (3, 130, 2, 3), (1, 20, 9, 5), (6, 16, 14, 14)]
SHAPES += [(2, 5, 70, 71), (2, 3, 4, 3, 2), (70, 40, 1, 1)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [NCHW, CHANNELS_LAST])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_values_statistics_and_gradients(dtype, layout, training):
    for shape in SHAPES:
        check_against_reference(image(*shape, dtype=dtype, layout=layout), training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, training):
    for dtype in TOLERANCE:
        for layout in (NCHW, CHANNELS_LAST):
            check_against_reference(image(3, 18, 5, 5, dtype=dtype, layout=layout), training, activation)


@pytest.mark.parametrize("training", [True, False])
def test_without_weight_and_bias_and_with_other_settings(training):
    check_against_reference(image(3, 4, 5, 5), training, affine=False)
    check_against_reference(image(3, 4, 5, 5), training, momentum=0.7, eps=0.1)


def test_negative_slope_reaches_the_kernel():
    x = image(4, 3)
    got = ops.batch_norm(x, None, None, training=True, activation="leaky_relu", negative_slope=0.01)
    expected = F.leaky_relu(F.batch_norm(x, None, None, training=True), 0.01)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("training", [True, False])
def test_float32_vectors_beside_bfloat16(training):
    check_against_reference(image(8, 5, 6, 6, dtype=torch.bfloat16), training, vector_dtype=torch.float32)


@pytest.mark.parametrize("layout", [NCHW, CHANNELS_LAST])
@pytest.mark.parametrize("shape", [(16, 4, 40, 40), (64, 20, 3, 3)])
@pytest.mark.parametrize("mean", [1e4, -3e3])
def test_statistics_where_the_mean_dwarfs_the_deviation(mean, shape, layout):
    x = image(*shape, mean=mean, std=1.0, layout=layout).detach()
    x[0, :, 0, 0] = 0  # a first value that is no guess of the mean
    _, got_mean, got_var = torch.ops.sdgan_ext.batch_norm(x, None, None, None, None, 1e-5, 0, 0.0)
    want_mean, want_var = reference.batch_statistics(x.double())
    torch.testing.assert_close(got_mean.double(), want_mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(got_var.double(), want_var, rtol=5e-6, atol=0)


def test_running_variance_is_unbiased_and_stays_positive():
    x = torch.full((3, 2, 2, 2), 5.0)
    mean, var = torch.zeros(2), torch.ones(2)
    y = ops.batch_norm(x, mean, var, training=True, momentum=1.0)
    assert torch.equal(y, torch.zeros_like(x)) and torch.equal(var, torch.zeros(2))
    x = torch.tensor([[1.0], [3.0]])
    ops.batch_norm(x, mean[:1], var[:1], training=True, momentum=1.0)
    assert var[0] == 2.0


def test_batch_statistics_can_be_differentiated():
    x = image(5, 3, 2, 2, dtype=torch.float64)

    def statistics(x):
        return torch.ops.sdgan_ext.batch_norm(x, None, None, None, None, 1e-5, 1, 0.0)

    assert torch.autograd.gradcheck(statistics, (x,))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_and_second_derivative(activation, training):
    for layout in (NCHW, CHANNELS_LAST):
        x = image(3, 2, 2, 2, dtype=torch.float64, layout=layout)
        weight, bias, mean, var = channel_vectors(2, torch.float64)

        def run(x, weight, bias, mean=mean, var=var):
            return ops.batch_norm(x, mean.clone(), var.clone(), weight, bias, training, activation=activation)

        assert torch.autograd.gradcheck(run, (x, weight, bias))
        assert torch.autograd.gradgradcheck(run, (x, weight, bias))
    assert torch.autograd.gradgradcheck(lambda x: run(x, None, None), (x,))


@pytest.mark.parametrize("layout", [NCHW, CHANNELS_LAST])
def test_same_bits_for_any_number_of_threads(layout):
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            x = image(9, 70, 21, 20, layout=layout)
            weight, bias, mean, var = channel_vectors(70)
            y = ops.batch_norm(x, mean, var, weight, bias, True, activation="silu")
            results.append([y.detach(), mean, var, *torch.autograd.grad(y, (x, weight, bias), y.detach() ** 2)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x[:, :, 1:, ::2],
        lambda x: x[:, 2:7],
        lambda x: x[::2],
        lambda x: x.transpose(2, 3),
        lambda x: x.transpose(0, 1),
        lambda x: x[:1].expand(4, -1, -1, -1),
        lambda x: x[:, :1].expand(-1, 6, -1, -1),
    ],
)
@pytest.mark.parametrize("layout", [NCHW, CHANNELS_LAST])
def test_views_and_the_layout_of_the_output(layout, view):
    from torch._subclasses.fake_tensor import FakeTensorMode

    x = view(image(6, 9, 6, 5, layout=layout).detach()).requires_grad_()
    y = check_against_reference(x, training=True)
    if x.is_contiguous() or x.is_contiguous(memory_format=CHANNELS_LAST):
        assert y.stride() == x.stride()
    with FakeTensorMode() as mode:
        fake = ops.batch_norm(mode.from_tensor(x), None, None, training=True)
    assert fake.stride() == y.stride()


def test_grad_output_of_another_layout():
    x = image(4, 3, 5, 5, layout=CHANNELS_LAST)
    y = ops.batch_norm(x, None, None, training=True, activation="tanh")
    upstream = torch.randn(4, 3, 5, 5)
    for grad in (upstream, upstream[:, :1].expand(4, 3, 5, 5)):
        got = torch.autograd.grad(y, x, grad, retain_graph=True)[0]
        again = torch.autograd.grad(y, x, grad.contiguous(memory_format=CHANNELS_LAST), retain_graph=True)[0]
        assert torch.equal(got, again) and got.stride() == x.stride()


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0, 4)])
@pytest.mark.parametrize("training", [True, False])
def test_empty_batch_leaves_the_running_statistics(training, shape):
    x = image(*shape)
    weight, bias, mean, var = channel_vectors(3)
    before = mean.clone(), var.clone()
    y = ops.batch_norm(x, mean, var, weight, bias, training)
    grads = torch.autograd.grad(y.sum(), (x, weight, bias))
    assert y.shape == shape and torch.equal(mean, before[0]) and torch.equal(var, before[1])
    assert grads[0].shape == shape and not grads[1].any() and not grads[2].any()


def test_not_a_number_stays_in_its_channel():
    x = image(2, 3, 4, 4).detach()
    x[0, 1, 2, 2] = float("nan")
    y = ops.batch_norm(x, None, None, training=True, activation="relu")
    assert y[:, 1].isnan().all() and y[:, [0, 2]].isfinite().all()


def test_compiles_into_one_graph():
    x = image(4, 3, 5, 5, layout=CHANNELS_LAST)
    _, _, mean, var = channel_vectors(3)
    _, _, eager_mean, eager_var = channel_vectors(3)
    compiled = torch.compile(ops.batch_norm, fullgraph=True, backend="aot_eager")
    got = compiled(x, mean, var, None, None, True, activation="relu")
    expected = ops.batch_norm(x, eager_mean, eager_var, None, None, True, activation="relu")
    assert torch.equal(got, expected) and torch.equal(mean, eager_mean) and torch.equal(var, eager_var)
    assert torch.equal(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (got, expected)))


@pytest.mark.parametrize("training", [True, False])
def test_opcheck(training):
    for layout in (NCHW, CHANNELS_LAST):
        x = image(3, 5, 4, 4, layout=layout)
        weight, bias, mean, var = channel_vectors(5)
        given = (None, None) if training else (mean, var)
        torch.library.opcheck(torch.ops.sdgan_ext.batch_norm.default, (x, weight, bias, *given, 1e-5, 1, 0.2))
        args = (image(3, 5, 4, 4, seed=1, layout=layout), x, weight, None, mean, var, training, 1e-5, 5, 0.2)
        torch.library.opcheck(torch.ops.sdgan_ext.batch_norm_backward.default, args)


def refuse(shape=(4, 3, 2, 2), mean=3, var=3, **options):
    def vector(channels):
        return channels if channels is None or isinstance(channels, torch.Tensor) else torch.ones(channels)

    return lambda: ops.batch_norm(torch.ones(shape), vector(mean), vector(var), **options)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.batch_norm([1.0], None, None), TypeError, "input must be a torch.Tensor, got list"),
        (lambda: ops.batch_norm(torch.ones(2, 2).long(), None, None), TypeError, "input has dtype torch.int64"),
        (refuse((3,)), ValueError, "at least 2 dimensions"),
        (refuse((1, 3, 1, 1), training=True), ValueError, "Expected more than 1 value per channel when training"),
        (refuse(mean=None, var=None), ValueError, "needed unless training"),
        (refuse(var=None), ValueError, "both or neither"),
        (refuse(mean=4), ValueError, r"running_mean has shape \(4,\); it must be \(3,\)"),
        (refuse(var=torch.ones(3, 1)), ValueError, r"running_var has shape \(3, 1\)"),
        (refuse(mean=torch.ones(3, requires_grad=True)), ValueError, "running_mean requires a gradient"),
        (refuse(weight=torch.ones(2)), ValueError, r"weight has shape \(2,\); it must be \(3,\)"),
        (refuse(bias=torch.ones(3).double()), TypeError, "bias has dtype torch.float64, input has torch.float32"),
        (refuse(weight=1.0), TypeError, "weight must be a torch.Tensor, got float"),
        (refuse(activation="gelu"), ValueError, "activation is 'gelu'; allowed are None, 'relu'"),
        (refuse(eps=0.0), ValueError, "eps is 0.0; it must be positive"),
        (refuse(training=True, momentum=None), TypeError, "momentum must be a number, got NoneType"),
    ],
)  # fmt: skip
def test_refusals_name_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()
