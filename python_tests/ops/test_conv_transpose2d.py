"""conv_transpose2d against its reference on both paths: values, both derivatives, crops, layouts, refusals."""

import convolution_cases as cases
import pytest
import torch

from sdgan_ext import ops
from sdgan_ext.ops import reference

pytestmark = pytest.mark.usefixtures("one_thread")

GEOMETRIES = [  # options, kernel
    (dict(), (3, 3)),
    (dict(padding=1, stride=2), (4, 4)),
    (dict(padding=2, stride=2, output_padding=1), (5, 5)),
    (dict(crop=(1, 2, 1, 2), stride=2), (5, 5)),  # Keras' same
    (dict(stride=3, output_padding=(2, 1)), (2, 3)),  # rows that no tap reaches hold the bias
    (dict(crop=(3, 0, 0, 2), dilation=(2, 3)), (3, 4)),
    (dict(crop=(4, 1, 5, 0), stride=(2, 1), dilation=2), (3, 7)),
    (dict(stride=2), (1, 1)),
]
CHANNELS = [(1, 16), (3, 20), (16, 1), (33, 3), (4, 4), (2, 1)]


def tensors(inputs, outputs, kernel, *, size=(5, 4), batch=2, groups=1, **options):
    return (
        cases.rand(batch, inputs, *size, **options),
        cases.rand(inputs, outputs // groups, *kernel, seed=1, **options),
        cases.rand(outputs, dtype=options.get("dtype", torch.float64), seed=2),
    )


@pytest.mark.parametrize("format", cases.FORMATS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("geometry", "kernel"), GEOMETRIES)
@pytest.mark.parametrize("path", cases.BACKENDS)
def test_values_and_gradients(path, geometry, kernel, channels, format):
    given = tensors(*channels, kernel, format=cases.FORMATS[format])
    with cases.backend(path):
        output = cases.check_against_reference(
            ops.conv_transpose2d, reference.conv_transpose2d, given, activation="tanh", **geometry
        )
    assert output.is_contiguous(memory_format=cases.FORMATS[format])


@pytest.mark.parametrize("dtype", cases.TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("channels", [(1, 16), (20, 3), (6, 8), (16, 24)])
def test_activations_and_dtypes(channels, activation, dtype):
    for format in cases.FORMATS.values():
        given = tensors(*channels, (5, 5), dtype=dtype, format=format)
        with torch.no_grad():  # outputs of about 1: without AVX-512 torch rounds each product of a bfloat16 kernel
            given[1].div_(8)
        for path in cases.BACKENDS:
            with cases.backend(path):
                cases.check_against_reference(
                    ops.conv_transpose2d,
                    reference.conv_transpose2d,
                    given,
                    crop=(1, 2, 1, 2),
                    stride=2,
                    activation=activation,
                )


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("path", cases.BACKENDS)
def test_first_and_second_derivative(path, activation):
    given = tensors(2, 3, (3, 2), size=(3, 2), batch=2)

    def run(*given):
        return ops.conv_transpose2d(*given, crop=(0, 1, 1, 0), stride=2, activation=activation)

    with cases.backend(path):
        assert torch.autograd.gradcheck(run, given)
        assert torch.autograd.gradgradcheck(run, given)


def test_groups_and_mixed_layouts():
    given = tensors(6, 4, (3, 3), groups=2)
    cases.check_against_reference(
        ops.conv_transpose2d, reference.conv_transpose2d, given, groups=2, crop=(0, 1, 1, 2), activation="elu"
    )
    x, w, b = tensors(16, 3, (3, 3))
    last = w.detach().contiguous(memory_format=torch.channels_last)
    for path in cases.BACKENDS:
        with cases.backend(path):
            for image, weight in ((x, last), (x[:, :, ::2], w), (x[:1].expand(3, -1, -1, -1), w)):
                image, weight = image.detach().requires_grad_(), weight.detach().requires_grad_()
                output = cases.check_against_reference(
                    ops.conv_transpose2d, reference.conv_transpose2d, (image, weight, b)
                )
                assert output.is_contiguous(memory_format=torch.channels_last) == weight.is_contiguous(
                    memory_format=torch.channels_last
                )
                cases.check_strides_of_fake_kernels(ops.conv_transpose2d, (image, weight, b))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 5, 5), (2, 3, 1, 1), (1, 16, 6, 1), (0, 3, 6, 6)])
@pytest.mark.parametrize("format", cases.FORMATS)
@pytest.mark.parametrize("path", cases.BACKENDS)
def test_layouts_that_strides_leave_open(path, format, shape):
    format = cases.FORMATS[format]
    x = cases.rand(*shape, format=format)
    with cases.backend(path):
        for outputs, kernel in ((1, 1), (4, 3), (16, 2)):
            w = cases.rand(shape[1], outputs, kernel, kernel, format=format)
            options = dict(stride=2, crop=(0, kernel - 1, 0, 0), activation="relu")
            cases.check_strides_of_fake_kernels(ops.conv_transpose2d, (x, w), **options)
            cases.check_against_reference(ops.conv_transpose2d, reference.conv_transpose2d, (x, w), **options)


def test_is_the_transpose_of_conv2d():
    x, w, _ = tensors(3, 16, (5, 5), size=(7, 7))
    y = cases.rand(2, 16, 14, 14)
    up = ops.conv_transpose2d(x, w, stride=2, crop=(1, 2, 1, 2))
    down = ops.conv2d(y, w, stride=2, padding=(1, 2, 1, 2))
    torch.testing.assert_close((up * y).sum(), (x * down).sum())


@pytest.mark.parametrize("channels", [(1, 32), (40, 3)])
def test_same_bits_for_any_number_of_threads(channels):
    given = tensors(*channels, (4, 4), size=(10, 10), batch=37, dtype=torch.float32)

    def run():
        output = ops.conv_transpose2d(*given, padding=1, stride=2, activation="silu")
        return [output, *torch.autograd.grad(output, given, torch.ones_like(output))]

    with cases.backend("small_channel"):
        cases.check_threads(run)


@pytest.mark.parametrize("activation", ["relu", "silu", None])
def test_opcheck(activation):
    x, w, b = tensors(2, 16, (3, 3), size=(3, 4), dtype=torch.float32)
    settings = ([2, 1], [1, 0, 2, -1], [1, 2], 1, ops._convolution.ACTIVATIONS[activation], 0.2)
    torch.library.opcheck(torch.ops.sdgan_ext.conv_transpose2d.default, (x, w, b, *settings))
    output, saved = torch.ops.sdgan_ext.conv_transpose2d(x, w, b, *settings)
    saved = output if activation == "relu" else saved
    args = (torch.randn_like(output), x, w, saved.detach(), *settings, True, True, True)
    torch.library.opcheck(torch.ops.sdgan_ext.conv_transpose2d_backward.default, args)


def test_explain():
    with cases.backend("auto"):
        x, w, _ = tensors(64, 3, (4, 4))
        assert ops.explain_conv(x, w, transposed=True)["forward"] == "small_channel: the output has 1 to 4 channels"
        x, w, _ = tensors(32, 32, (4, 4))
        assert ops.explain_conv(x, w, transposed=True)["forward"] == "library: the Winograd kernels are for float32"
        x, w, _ = tensors(16, 12, (4, 4), groups=2, dtype=torch.float32)
        assert ops.explain_conv(x, w, 2, transposed=True)["forward"] == "library: the Winograd kernels have no groups"


IMAGE, WEIGHT = torch.ones(1, 4, 6, 6), torch.ones(4, 2, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.conv_transpose2d(None, WEIGHT), TypeError, "input must be a torch.Tensor, got NoneType"),
        (lambda: ops.conv_transpose2d(IMAGE[:, :3], WEIGHT), ValueError, "input has 3 channels; weight .* takes 4"),
        (lambda: ops.conv_transpose2d(IMAGE, WEIGHT, torch.ones(4)), ValueError, "the output has 2 channels"),
        (lambda: ops.conv_transpose2d(IMAGE, WEIGHT, crop=(0, 0, -1, 0)), ValueError, "crop is .* at least 0"),
        (lambda: ops.conv_transpose2d(IMAGE, WEIGHT, crop=(1, 1)), ValueError, "crop is .* 4 ints"),
        (lambda: ops.conv_transpose2d(IMAGE, WEIGHT, padding=1, crop=(1, 1, 1, 1)), ValueError, "one or the other"),
        (lambda: ops.conv_transpose2d(IMAGE, WEIGHT, crop=(5, 3, 0, 0)), ValueError, "an output of size .0, 8."),
        (lambda: ops.conv_transpose2d(IMAGE, WEIGHT, output_padding=1), ValueError, "smaller than stride or dilation"),
        (lambda: ops.conv_transpose2d(IMAGE[..., :0], WEIGHT), ValueError, "no size may be below 1"),
        (lambda: ops.conv_transpose2d(IMAGE, WEIGHT, padding=-1), ValueError, "padding is -1; it must be at least 0"),
        (lambda: ops.conv_transpose2d(IMAGE, WEIGHT, activation=1), ValueError, "activation is 1; allowed are"),
    ],
)
def test_refusals_name_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()
