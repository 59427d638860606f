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
    monkeypatch.setattr(MODULE, "_has_kernel", lambda input, weight, bias: False)
    return request.param


@pytest.fixture
def of_its_own(monkeypatch):
    """The kernel that runs without gradients, whatever the size."""
    monkeypatch.undo()
    monkeypatch.setattr(MODULE, "_KERNEL_PIXELS", 1)
    with torch.no_grad():
        yield


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
    given = (
        torch.randn(shape, requires_grad=True),
        torch.randn(channels, shape[-3] // groups, 3, 3),
        torch.randn(channels),
    )
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


# ------------------------------------------------------------------------------------------- the kernel of its own
def kernel_runs(*given, **options):
    (row,) = sd.explain(lambda *t: ops.upsample_conv2d(*t, **options), *given)
    return row.op == "upsample_conv2d"


@pytest.mark.parametrize("format", cases.FORMATS)
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("size", [*SIZES, (9, 12)], ids=str)
def test_its_values_and_layout(size, activation, format, of_its_own):
    x, w, b = tensors(20, 18, (3, 3), size=size, dtype=torch.float32, format=cases.FORMATS[format])
    w = w * 20**-0.5 / 3
    assert kernel_runs(x, w, b, activation=activation)
    for bias in (b, None):
        wide = (None if t is None else t.double() for t in (x, w, bias))
        want = reference.upsample_conv2d(*wide, activation=activation)
        got = ops.upsample_conv2d(x, w, bias, activation=activation)
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
        assert got.is_contiguous(memory_format=cases.FORMATS[format])
        assert torch.equal(ops.upsample_conv2d(x[0], w, bias, activation=activation), got[0])


def test_it_is_as_accurate_as_the_library(of_its_own):
    x, w, b = tensors(64, 48, (3, 3), size=(16, 16), dtype=torch.float32)
    want = reference.upsample_conv2d(x.double(), w.double(), b.double())
    error = (ops.upsample_conv2d(x, w, b) - want).norm()
    with ops.conv_backend("library"):
        assert error <= 2 * (ops.upsample_conv2d(x, w, b) - want).norm()


def test_where_it_runs(monkeypatch):
    monkeypatch.undo()
    x, w, b = (t.detach() for t in tensors(16, 16, (3, 3), size=(8, 8), dtype=torch.float32))
    assert kernel_runs(x, w, b) and kernel_runs(x, w, b, padding=1) and kernel_runs(x[0], w, b)
    assert kernel_runs(x.requires_grad_(), w, b) is False
    with torch.no_grad():
        assert kernel_runs(x, w, b)
        for other in ((x[..., 1:], w, b), (x[:, :15], w[:, :15], b), (x, w[:15], b[:15]), (x, w[..., :2], b)):
            assert not kernel_runs(*other)
        assert not kernel_runs(x.double(), w.double(), b.double())
        assert not kernel_runs(x.bfloat16(), w.bfloat16(), b.bfloat16())
        assert not kernel_runs(x, w, b, padding=0) and not kernel_runs(x, w[:, :4], b, groups=4)
        for name, runs in (("library", False), ("benchmark", False), ("winograd", True)):
            with ops.conv_backend(name):
                assert kernel_runs(x, w, b) == runs
        with torch.autocast("cpu", torch.bfloat16):
            assert not kernel_runs(x, w, b)


def test_transforms_and_compiled_graphs_go_another_way(of_its_own):
    x, w, b = (t.detach() for t in tensors(16, 16, (3, 3), size=(8, 8), dtype=torch.float32))
    want = ops.upsample_conv2d(x, w, b)
    mapped = torch.func.vmap(lambda image: ops.upsample_conv2d(image, w, b))(x)
    compiled = torch.compile(ops.upsample_conv2d, fullgraph=True, backend="aot_eager")(x, w, b)
    _, forward = torch.func.jvp(lambda image: ops.upsample_conv2d(image, w), (x,), (x,))
    for got in (mapped, compiled, forward + b[:, None, None]):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_its_bits_for_any_number_of_threads(of_its_own):
    x, w, b = tensors(40, 24, (3, 3), size=(10, 9), batch=37, dtype=torch.float32)
    cases.check_threads(lambda: [ops.upsample_conv2d(x, w, b, activation="silu")])


def test_opcheck():
    x, w, b = (t.detach() for t in tensors(16, 20, (3, 3), dtype=torch.float32, format=torch.channels_last))
    op = torch.ops.sdgan_ext.upsample_conv2d.default
    torch.library.opcheck(op, (x, w, b, 5, 0.2))
    torch.library.opcheck(op, (x.contiguous(), w.contiguous(), None, 0, 0.2))


def test_the_operator_itself_has_no_derivative():
    x, w, b = tensors(16, 20, (3, 3), dtype=torch.float32)
    with pytest.raises(RuntimeError, match="has no derivative"):
        torch.ops.sdgan_ext.upsample_conv2d(x, w, b, 0, 0.2).sum().backward()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, w, b: (x.double(), w.double(), b.double()), "must be float32"),
        (lambda x, w, b: (x, w.double(), b), "same dtype"),
        (lambda x, w, b: (x, w[..., :2], b), "3x3 taps"),
        (lambda x, w, b: (x[:, 1:], w, b), "input has 15 channels, weight takes 16"),
        (lambda x, w, b: (x[..., :0], w, b), "empty"),
        (lambda x, w, b: (x, w, b[1:]), "one value per output channel"),
    ],
)
def test_the_operator_itself_refuses(change, words):
    given = (t.detach() for t in tensors(16, 20, (3, 3), dtype=torch.float32))
    with pytest.raises(RuntimeError, match=words):
        torch.ops.sdgan_ext.upsample_conv2d(*change(*given), 0, 0.2)


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
