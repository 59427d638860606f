"""The Winograd path of both convolutions, forced. csrc/tests/test_winograd.cpp has the kernels alone."""

import os

import convolution_cases as cases
import pytest
import torch
import torch.nn.functional as F

from sdgan_ext import ops

pytestmark = pytest.mark.skipif(bool(os.environ.get("SDGAN_TEST_NATIVE")), reason="the kernels are the CPU's")
# transposed, kernel, stride, sides (padding or crop: top, bottom, left, right)
GEOMETRIES = [
    (False, 3, 1, (1, 1, 1, 1)),
    (False, 3, 1, (0, 1, 2, 0)),
    (False, 3, 2, (1, 1, 1, 1)),
    (False, 4, 2, (1, 1, 1, 1)),
    (False, 4, 2, (0, 0, 2, 1)),
    (False, 5, 2, (2, 2, 2, 2)),
    (False, 5, 2, (1, 2, 1, 2)),
    (True, 3, 1, (1, 1, 1, 1)),
    (True, 3, 2, (1, 0, 1, 0)),
    (True, 4, 2, (1, 1, 1, 1)),
    (True, 4, 2, (2, 1, 0, 3)),
    (True, 5, 2, (2, 1, 2, 1)),
    (True, 5, 2, (1, 2, 1, 2)),
]
SHAPES = [(2, 16, 32, 8, 8), (1, 19, 5, 7, 5), (3, 33, 48, 1, 9)]  # batch, channels in and out, height, width


@pytest.fixture(autouse=True)
def forced():
    with cases.backend("winograd"):
        yield


def convolve(module, transposed, stride, sides, **more):
    if transposed:
        return lambda *t, **o: module.conv_transpose2d(*t, stride=stride, crop=sides, **more, **o)
    return lambda *t, **o: module.conv2d(*t, stride=stride, padding=sides, **more, **o)


def pair(transposed, kernel, stride, sides, **more):
    assert kernel
    return convolve(ops, transposed, stride, sides, **more), convolve(ops.reference, transposed, stride, sides, **more)


def tensors(transposed, kernel, shape, format=torch.contiguous_format, dtype=torch.float32):
    n, into, out, height, width = shape
    channels = (into, out) if transposed else (out, into)
    x = cases.rand(n, into, height, width, dtype=dtype, format=format)
    w = cases.rand(*channels, kernel, kernel, dtype=torch.float64, seed=1).detach() * (into * kernel * kernel) ** -0.5
    w = w.to(dtype).contiguous(memory_format=format).requires_grad_()
    return x, w, cases.rand(out, dtype=dtype, seed=2)


def is_winograd(transposed, given, stride, sides):
    explained = ops.explain_conv(*given[:2], transposed=transposed, stride=stride, sides=sides)
    return all(answer.startswith("winograd") for answer in explained.values())


@pytest.mark.parametrize("format", cases.FORMATS.values(), ids=cases.FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_values_and_gradients(geometry, shape, format):
    transposed, kernel, stride, sides = geometry
    n, into, out, height, width = shape
    if not transposed and height + sides[0] + sides[1] < kernel:
        height = kernel
    given = tensors(transposed, kernel, (n, into, out, height, width), format)
    if transposed and (height - 1) * stride + kernel - sides[0] - sides[1] < 1:
        pytest.skip("the output would be empty")
    assert is_winograd(transposed, given, stride, sides)
    for activation in (None, "leaky_relu", "silu"):
        cases.check_against_reference(*pair(*geometry), given, activation=activation)


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("transposed", [False, True])
def test_activations(transposed, activation):
    given = tensors(transposed, 4, (2, 16, 20, 6, 7), torch.channels_last)
    cases.check_against_reference(*pair(transposed, 4, 2, (1, 1, 1, 1)), given, activation=activation)


@pytest.mark.parametrize("transposed", [False, True])
def test_sliced_permuted_and_expanded_arguments(transposed):
    op, reference = pair(transposed, 4, 2, (1, 1, 1, 1))
    x, w, b = (t.detach() for t in tensors(transposed, 4, (2, 16, 16, 8, 8)))
    images = (x[:, :, ::2], x.permute(0, 1, 3, 2), x[:1].expand(3, -1, -1, -1))
    weights = (w, w.permute(0, 1, 3, 2), w.permute(1, 0, 2, 3), w[:1].expand(16, -1, -1, -1), w[:, :, :1].expand_as(w))
    for image in images:
        for weight in weights:
            given = [t.detach().requires_grad_() for t in (image, weight, b)]
            assert given[0].stride() == image.stride() and given[1].stride() == weight.stride()
            assert is_winograd(transposed, given, 2, (1, 1, 1, 1))
            cases.check_against_reference(op, reference, given)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_the_same_bits_for_any_number_of_threads(geometry):
    transposed, kernel, stride, sides = geometry
    given = tensors(transposed, kernel, (5, 40, 72, 15, 14), torch.channels_last)

    def run():
        y = pair(*geometry)[0](*given, activation="relu")
        return [y, *torch.autograd.grad(y, given, torch.ones_like(y))]

    cases.check_threads(run)


def test_a_gradient_penalty_is_that_of_stock_modules():
    """R1 through two convolutions: the gradient of |dD/dx|^2 by the weights."""
    x = cases.rand(4, 16, 16, 16, dtype=torch.float32, format=torch.channels_last)
    weights = [tensors(False, 4, (1, a, b, 8, 8))[1].detach().requires_grad_() for a, b in ((16, 32), (32, 48))]

    def penalty(conv, dtype):
        image = x.detach().to(dtype).requires_grad_()
        leaves = [w.detach().to(dtype).requires_grad_() for w in weights]
        h = image
        for w in leaves:
            h = conv(h, w)
        (gradient,) = torch.autograd.grad(h.square().sum(), image, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), leaves)

    def ours(h, w):
        return ops.conv2d(h, w, stride=2, padding=1, activation="leaky_relu")

    def stock(h, w):
        return F.leaky_relu(F.conv2d(h, w, stride=2, padding=1), 0.2)

    for got, want in zip(penalty(ours, torch.float32), penalty(stock, torch.float64), strict=True):
        assert (got.double() - want).norm() <= 1e-5 * want.norm()


def test_no_images():
    for transposed in (False, True):
        x, w, b = tensors(transposed, 4, (0, 16, 24, 8, 8))
        y = pair(transposed, 4, 2, (1, 1, 1, 1))[0](x, w, b)
        grads = torch.autograd.grad(y.sum(), (x, w, b))
        assert y.shape[0] == 0 and not any(g.any() for g in grads[1:])


def test_no_weight_gradients():
    given = tensors(False, 4, (2, 16, 24, 8, 8))
    y = ops.conv2d(*given, stride=2, padding=1)
    want = torch.autograd.grad(y.sum(), given[0], retain_graph=True)[0]
    with ops.no_weight_gradients():
        got, *none = torch.autograd.grad(y.sum(), given, allow_unused=True)
    assert torch.equal(got, want) and none == [None, None]


@pytest.mark.parametrize("transposed", [False, True])
def test_opcheck_and_compile(transposed):
    op, _ = pair(transposed, 5, 2, (2, 1, 2, 1), activation="relu")
    given = tensors(transposed, 5, (2, 16, 24, 7, 7), torch.channels_last)
    cases.check_strides_of_fake_kernels(op, given)
    native = getattr(torch.ops.sdgan_ext, "conv_transpose2d" if transposed else "conv2d").default
    torch.library.opcheck(native, (*given, [2, 2], [2, 1, 2, 1], [1, 1], 1, 1, 0.2))

    def loss(*given):
        return op(*given).square().mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    want, got = (torch.autograd.grad(f(*given), given) for f in (loss, compiled))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
