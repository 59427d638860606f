"""upsample_conv2d against its reference: borders, both derivatives, groups, layouts, refusals."""

import importlib
import os

import convolution_cases as cases
import pytest
import torch
import torch.nn.functional as F

import sdgan_ext as sd
from sdgan_ext import ops
from sdgan_ext.ops import reference

pytestmark = pytest.mark.usefixtures("one_thread", "transposed")
MODULE = importlib.import_module("sdgan_ext.ops.upsample_conv2d")


@pytest.fixture(params=[True, False], ids=["transposed", "upsampled"])
def transposed(request, monkeypatch):
    """Both ways to compute it, whatever the size."""
    monkeypatch.setattr(MODULE, "_pays", lambda input, weight, groups: request.param)
    return request.param


GEOMETRIES = [  # padding, kernel
    ("same", (3, 3)),
    (1, (3, 3)),
    ("same", (5, 5)),
    ("same", (1, 1)),
    ("valid", (2, 2)),
    (0, (3, 2)),
    ((2, 1), (5, 3)),
    ((0, 3, 2, 1), (4, 3)),
]
#: 1x1, one row, one column, odd sizes.
SIZES = [(1, 1), (1, 6), (5, 1), (5, 4), (7, 3)]


def has_pixels(size, padding, kernel):
    """Whether there is an output, which "same" gives to any size."""
    return padding == "same" or min(2 * s - k for s, k in zip(size, kernel, strict=True)) >= 0


SHAPES = [(*geometry, size) for geometry in GEOMETRIES for size in SIZES if has_pixels(size, *geometry)]


def tensors(inputs, outputs, kernel, *, size=(5, 4), batch=2, groups=1, **options):
    return (
        cases.rand(batch, inputs, *size, **options),
        cases.rand(outputs, inputs // groups, *kernel, seed=1, **options),
        cases.rand(outputs, dtype=options.get("dtype", torch.float64), seed=2),
    )


@pytest.mark.parametrize("format", cases.FORMATS)
@pytest.mark.parametrize("channels", [(3, 20), (16, 1), (16, 24)])
@pytest.mark.parametrize(("padding", "kernel", "size"), SHAPES, ids=str)
def test_values_and_gradients(padding, kernel, size, channels, format):
    given = tensors(*channels, kernel, size=size, format=cases.FORMATS[format])
    output = cases.check_against_reference(
        ops.upsample_conv2d, reference.upsample_conv2d, given, padding=padding, activation="tanh"
    )
    assert output.is_contiguous(memory_format=cases.FORMATS[format])


@pytest.mark.parametrize("kernel", [3, 5])
def test_the_reference_is_stock_upsampling_and_convolution(kernel):
    x, w, b = tensors(4, 6, (kernel, kernel))
    large = F.interpolate(x, scale_factor=2, mode="nearest")
    want = F.silu(F.conv2d(large, w, b, padding=kernel // 2))
    torch.testing.assert_close(reference.upsample_conv2d(x, w, b, activation="silu"), want)
    torch.testing.assert_close(ops.upsample_conv2d(x, w, b, 2, kernel // 2, activation="silu"), want)
    torch.testing.assert_close(ops.upsample_conv2d(x[0], w, b, 2.0, activation="silu"), want[0])


@pytest.mark.parametrize("dtype", cases.TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("channels", [(1, 16), (20, 3), (6, 8), (16, 24)])
def test_activations_and_dtypes(channels, activation, dtype):
    for path in cases.BACKENDS:
        for format in cases.FORMATS.values():
            given = tensors(*channels, (3, 3), dtype=dtype, format=format)
            with torch.no_grad():  # outputs of about 1, as of the other convolutions
                given[1].div_(8)
            with cases.backend(path):
                cases.check_against_reference(
                    ops.upsample_conv2d, reference.upsample_conv2d, given, activation=activation
                )


@pytest.mark.parametrize(
    ("shape", "channels", "groups", "way"),
    [
        ((1, 64, 24, 24), 64, 1, "conv_transpose2d"),
        ((64, 24, 24), 64, 1, "conv_transpose2d"),
        ((1, 64, 32, 32), 3, 1, "conv_transpose2d"),
        ((1, 64, 32, 32), 64, 4, "conv_transpose2d"),
        ((16, 64, 20, 20), 64, 1, "conv2d"),
        ((1, 64, 24, 24), 3, 1, "conv2d"),
        ((1, 8, 64, 64), 8, 1, "conv2d"),
        ((1, 64, 64, 64), 64, 64, "conv2d"),
    ],
)
def test_where_the_transposed_convolution_pays(shape, channels, groups, way, monkeypatch):
    monkeypatch.undo()
    given = torch.randn(shape), torch.randn(channels, shape[-3] // groups, 3, 3), torch.randn(channels)
    for dtype, op in ((torch.float32, way), (torch.bfloat16, "conv2d")):
        (row,) = sd.explain(lambda x, w, b: ops.upsample_conv2d(x, w, b, groups=groups), *(t.to(dtype) for t in given))
        assert row.op == op


@pytest.mark.parametrize("kernel", [3, 5])
def test_winograd(kernel):
    """Of 3x3, 4x4 with stride 2 is one that the Winograd kernels have; float64 is the judge."""
    given = tensors(32, 48, (kernel, kernel), size=(9, 7), dtype=torch.float32)
    with ops.conv_backend("winograd", "library"):
        path = ops.explain_conv(given[0], torch.empty(32, 48, kernel + 1, kernel + 1), transposed=True, stride=2)
        assert path["forward"].startswith("winograd" if kernel == 3 else "library")
        with torch.no_grad():
            given[1].div_(16)
        cases.check_against_reference(ops.upsample_conv2d, reference.upsample_conv2d, given, activation="silu")


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("kernel", [(3, 3), (2, 5)])
def test_first_and_second_derivative(kernel, activation):
    given = tensors(2, 3, kernel, size=(3, 2))

    def run(*given):
        return ops.upsample_conv2d(*given, activation=activation)

    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)


@pytest.mark.parametrize("groups", [2, 4])
def test_groups(groups):
    given = tensors(4, 8, (3, 3), groups=groups)
    cases.check_against_reference(
        ops.upsample_conv2d, reference.upsample_conv2d, given, groups=groups, activation="elu"
    )


def test_layouts_of_input_and_weight():
    """The output is channels_last where either is, the fake kernels agree; the gradient of the weight is so, too."""
    x, w, b = tensors(16, 3, (3, 3))
    last = torch.channels_last
    for image, weight in ((x, w), (x, w.to(memory_format=last)), (x.to(memory_format=last), w), (x[:, :, ::2], w)):
        given = image.detach().requires_grad_(), weight.detach().requires_grad_(), b
        output = cases.check_against_reference(ops.upsample_conv2d, reference.upsample_conv2d, given)
        either = any(t.is_contiguous(memory_format=last) for t in given[:2])
        assert output.is_contiguous(memory_format=last) == either
        cases.check_strides_of_fake_kernels(ops.upsample_conv2d, given)
        grad = torch.autograd.grad(ops.upsample_conv2d(*given).sum(), given[1])[0]
        assert grad.is_contiguous(memory_format=last) or not weight.is_contiguous(memory_format=last)


def test_without_weight_gradients():
    x, w, b = tensors(4, 6, (3, 3))
    with ops.no_weight_gradients():
        ops.upsample_conv2d(x, w, b, activation="relu").sum().backward()
    assert x.grad.abs().sum() > 0 and w.grad is None and b.grad is None


by_winograd = pytest.mark.skipif(bool(os.environ.get("SDGAN_TEST_NATIVE")), reason="Winograd's kernels are the CPU's")


@pytest.mark.parametrize("channels", [(1, 32), (40, 3), pytest.param((32, 32), marks=by_winograd)])
def test_same_bits_for_any_number_of_threads(channels):
    given = tensors(*channels, (3, 3), size=(10, 10), batch=37, dtype=torch.float32)

    def run():
        output = ops.upsample_conv2d(*given, activation="silu")
        return [output, *torch.autograd.grad(output, given, torch.ones_like(output))]

    with ops.conv_backend("winograd", "small_channel", "library"):
        cases.check_threads(run)


IMAGE, WEIGHT = torch.ones(1, 4, 6, 6), torch.ones(2, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.upsample_conv2d(None, WEIGHT), TypeError, "input must be a torch.Tensor, got NoneType"),
        (lambda: ops.upsample_conv2d(IMAGE, WEIGHT, scale=3), ValueError, "scale is 3; allowed is 2"),
        (lambda: ops.upsample_conv2d(IMAGE, WEIGHT, scale=(2, 2)), ValueError, r"scale is \(2, 2\); allowed is 2"),
        (lambda: ops.upsample_conv2d(IMAGE[:, :3], WEIGHT), ValueError, "input has 3 channels; weight .* takes 4"),
        (lambda: ops.upsample_conv2d(IMAGE, WEIGHT, groups=3), ValueError, "groups is 3; it must divide"),
        (lambda: ops.upsample_conv2d(IMAGE, WEIGHT, torch.ones(4)), ValueError, "the output has 2 channels"),
        (lambda: ops.upsample_conv2d(IMAGE, WEIGHT, padding=3), ValueError, "padding is 3; it must be smaller than"),
        (lambda: ops.upsample_conv2d(IMAGE, WEIGHT, padding=-1), ValueError, "padding is -1; it must be at least 0"),
        (lambda: ops.upsample_conv2d(IMAGE, WEIGHT, padding="full"), TypeError, "padding is 'full'; it must be an int"),
        (lambda: ops.upsample_conv2d(IMAGE[..., :1], WEIGHT, padding=0), ValueError, "an output of size .10, 0."),
        (lambda: ops.upsample_conv2d(IMAGE, WEIGHT, activation="gelu"), ValueError, "activation is 'gelu'; allowed"),
    ],
)
def test_refusals_name_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()
