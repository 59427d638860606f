"""conv2d against its reference on both paths: values, first and second derivatives, layouts, dtypes, refusals."""

import convolution_cases as cases
import pytest
import torch

from sdgan_ext import ops
from sdgan_ext.ops import reference

pytestmark = pytest.mark.usefixtures("one_thread")

GEOMETRIES = [  # options, kernel
    (dict(), (3, 3)),
    (dict(padding=2), (5, 5)),
    (dict(padding=(1, 2, 1, 2), stride=2), (5, 5)),  # Keras' same
    (dict(padding=(4, 0, 5, 1), stride=(3, 2)), (3, 4)),
    (dict(padding=(0, 3, 2, 0), dilation=(2, 1)), (2, 7)),
    (dict(padding=4, dilation=2, stride=(2, 3)), (4, 3)),
    (dict(padding="same", dilation=2), (3, 5)),
    (dict(stride=2), (1, 1)),
]
CHANNELS = [(1, 16), (3, 20), (16, 1), (33, 3), (4, 4), (2, 1)]


def tensors(inputs, outputs, kernel, *, size=(9, 7), batch=2, groups=1, weight_format=None, **options):
    return (
        cases.rand(batch, inputs, *size, **options),
        cases.rand(outputs, inputs // groups, *kernel, seed=1, **options),
        cases.rand(outputs, dtype=options.get("dtype", torch.float64), seed=2),
    )


@pytest.mark.parametrize("format", cases.FORMATS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("geometry", "kernel"), GEOMETRIES)
@pytest.mark.parametrize("path", cases.BACKENDS)
def test_values_and_gradients(path, geometry, kernel, channels, format):
    given = tensors(*channels, kernel, format=cases.FORMATS[format])
    with cases.backend(path):
        output = cases.check_against_reference(ops.conv2d, reference.conv2d, given, activation="tanh", **geometry)
    assert output.is_contiguous(memory_format=cases.FORMATS[format])


@pytest.mark.parametrize("dtype", cases.TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("channels", [(1, 16), (20, 3), (6, 8), (16, 24)])
def test_activations_and_dtypes(channels, activation, dtype):
    for format in cases.FORMATS.values():
        given = tensors(*channels, (3, 3), dtype=dtype, format=format)
        for path in cases.BACKENDS:
            with cases.backend(path):
                cases.check_against_reference(
                    ops.conv2d, reference.conv2d, given, padding=(1, 0, 2, 1), stride=2, activation=activation
                )


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("path", cases.BACKENDS)
def test_first_and_second_derivative(path, activation):
    given = tensors(2, 3, (3, 2), size=(4, 3), batch=2)

    def run(*given):
        return ops.conv2d(*given, padding=(1, 2, 1, 0), stride=2, activation=activation)

    with cases.backend(path):
        assert torch.autograd.gradcheck(run, given)
        assert torch.autograd.gradgradcheck(run, given)


def test_gradient_penalty_reaches_the_weights():
    x, w, b = tensors(1, 16, (4, 4), size=(8, 8))

    def penalty(module):
        y = module.conv2d(x, w, b, 2, 1, activation="leaky_relu")
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), w)[0]

    torch.testing.assert_close(penalty(ops), penalty(reference))


def test_groups_and_mixed_layouts():
    given = tensors(6, 4, (3, 3), groups=2)
    cases.check_against_reference(ops.conv2d, reference.conv2d, given, groups=2, padding=(0, 1, 1, 2), activation="elu")
    x, w, b = tensors(16, 3, (3, 3))
    last = w.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    for path in cases.BACKENDS:
        with cases.backend(path):
            for image, weight in (
                (x, last),
                (x.detach()[:, :, ::2].requires_grad_(), w),
                (x[:1].expand(3, -1, -1, -1), w),
            ):
                image = image.detach().requires_grad_()
                output = cases.check_against_reference(ops.conv2d, reference.conv2d, (image, weight, b))
                assert output.is_contiguous(memory_format=torch.channels_last) == (weight is last)
                cases.check_strides_of_fake_kernels(ops.conv2d, (image, weight, b))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 5, 5), (2, 3, 1, 1), (1, 16, 6, 1), (0, 3, 6, 6)])
@pytest.mark.parametrize("format", cases.FORMATS)
@pytest.mark.parametrize("path", cases.BACKENDS)
def test_layouts_that_strides_leave_open(path, format, shape):
    format = cases.FORMATS[format]
    x = cases.rand(*shape, format=format)
    with cases.backend(path):
        for outputs, kernel in ((1, 1), (4, 3), (16, 1)):
            w = cases.rand(outputs, shape[1], kernel, kernel, format=format)
            cases.check_strides_of_fake_kernels(ops.conv2d, (x, w), padding=1, activation="relu")
            cases.check_against_reference(ops.conv2d, reference.conv2d, (x, w), padding=1, activation="relu")


def test_unbatched_and_without_bias():
    x, w, _ = tensors(16, 1, (3, 3))
    torch.testing.assert_close(ops.conv2d(x[0], w, padding=1), reference.conv2d(x[0], w, padding=1))
    torch.testing.assert_close(ops.conv2d(x, w, padding="valid"), reference.conv2d(x, w))


@pytest.mark.parametrize("channels", [(1, 32), (40, 3)])
def test_same_bits_for_any_number_of_threads(channels):
    given = tensors(*channels, (5, 5), size=(20, 20), batch=37, dtype=torch.float32)

    def run():
        output = ops.conv2d(*given, padding=2, stride=2, activation="silu")
        return [output, *torch.autograd.grad(output, given, torch.ones_like(output))]

    with cases.backend("small_channel"):
        cases.check_threads(run)


def test_the_library_has_the_bias_sums_of_any_number_of_threads():
    x, w, b = tensors(8, 8, (3, 3), size=(40, 40), batch=5, dtype=torch.float32)

    def run():
        output = ops.conv2d(x, w, b, activation="tanh")
        return torch.autograd.grad(output, b, torch.ones_like(output))

    for format in cases.FORMATS.values():
        x = x.detach().contiguous(memory_format=format)
        cases.check_threads(run)


@pytest.mark.parametrize("path", cases.BACKENDS)
def test_no_weight_gradients(path, monkeypatch):
    x, w, b = tensors(16, 3, (3, 3))
    wanted = []
    backward = torch.ops.sdgan_ext.conv2d_backward

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is backward.default:
                wanted.append(tuple(args[-3:]))
            return func(*args, **(kwargs or {}))

    with cases.backend(path):
        output = ops.conv2d(x, w, b, activation="relu").sum()
        with Recorder(), ops.no_weight_gradients():
            dx, dw, db = torch.autograd.grad(output, (x, w, b), retain_graph=True, allow_unused=True)
        assert dw is None and db is None and wanted == [(True, False, False)]
        torch.testing.assert_close(dx, torch.autograd.grad(output, x)[0])
        with Recorder():
            torch.autograd.grad(ops.conv2d(x, w, b).sum(), (x, w, b))
    assert wanted[1] == (True, True, True)


@pytest.mark.parametrize("activation", ["relu", "silu", None])
def test_opcheck(activation):
    x, w, b = tensors(2, 16, (3, 3), size=(5, 4), dtype=torch.float32)
    settings = ([2, 1], [1, 0, 2, 1], [1, 1], 1, ops._convolution.ACTIVATIONS[activation], 0.2)
    torch.library.opcheck(torch.ops.sdgan_ext.conv2d.default, (x, w, b, *settings))
    output, saved = torch.ops.sdgan_ext.conv2d(x, w, b, *settings)
    saved = output if activation == "relu" else saved
    args = (torch.randn_like(output), x, w, saved.detach(), *settings, True, True, True)
    torch.library.opcheck(torch.ops.sdgan_ext.conv2d_backward.default, args)


def test_autocast():
    x, w, b = tensors(16, 3, (3, 3), dtype=torch.float32)
    for path in cases.BACKENDS:
        with cases.backend(path):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = ops.conv2d(x, w, b, padding=1, activation="tanh")
            assert output.dtype == torch.bfloat16
            dx, dw, db = torch.autograd.grad(output.float().sum(), (x, w, b))
            assert {g.dtype for g in (dx, dw, db)} == {torch.float32}
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert ops.conv2d(x.double(), w.double(), b.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("shape", "weight", "path", "why"),
    [
        ((2, 128, 28, 28), (1, 128, 5, 5), "small_channel", "output has 1 to 4"),
        ((2, 3, 28, 28), (64, 3, 4, 4), "small_channel", "input has 1 to 3"),
        ((2, 64, 28, 28), (64, 64, 4, 4), "library", "3x3 of stride 1"),
        ((2, 8, 28, 28), (64, 8, 3, 3), "library", "fewer than 16 channels"),
        ((2, 1, 28, 28), (8, 1, 4, 4), "library", "fewer than 16"),
        ((2, 4, 28, 28), (64, 4, 3, 3), "library", "from 4 channels"),
    ],
)
def test_explain(shape, weight, path, why):
    with cases.backend("auto"):
        answer = ops.explain_conv(torch.ones(shape), torch.ones(weight))["forward"]
    assert answer.startswith(f"{path}: ") and why in answer
    with cases.backend("library"):
        assert (
            ops.explain_conv(torch.ones(shape), torch.ones(weight))["forward"] == "library: asked for by conv_backend"
        )


def test_explain_in_bfloat16():
    with cases.backend("auto"):
        answer = ops.explain_conv(torch.ones(1, 3, 8, 8).bfloat16(), torch.ones(64, 3, 4, 4).bfloat16())
    kernels = [path.split(":")[0] for path in answer.values()]
    assert kernels == ["library", "small_channel", "small_channel", "library"] or kernels == 4 * [
        "library"
    ]  # the latter with AMX


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_explain_on_cuda(dtype):
    options = dict(device="cuda", dtype=dtype)
    with torch._subclasses.FakeTensorMode():
        wide = (torch.empty(2, 64, 8, 8, **options), torch.empty(32, 64, 4, 4, **options))
        small_channel = (torch.empty(2, 3, 8, 8, **options), torch.empty(32, 3, 4, 4, **options))
    for path, wide_path, small_channel_path in (
        ("auto", "library: our kernels have not been measured", "library: our kernels have not been measured"),
        ("library", "library: asked for by conv_backend", "library: asked for by conv_backend"),
        ("implicit_gemm", "implicit_gemm: asked for by conv_backend", "implicit_gemm: asked for by conv_backend"),
        ("small_channel", "library: neither side has 1 to 4 channels", "small_channel: asked for by conv_backend"),
    ):
        with cases.backend(path):
            assert all(answer.startswith(wide_path) for answer in ops.explain_conv(*wide).values())
            assert all(answer.startswith(small_channel_path) for answer in ops.explain_conv(*small_channel).values())
    with cases.backend("implicit_gemm"):
        answer = ops.explain_conv(torch.ones(2, 64, 8, 8), torch.ones(32, 64, 4, 4))["forward"]
    assert answer == "library: the implicit GEMM kernels are for CUDA"


@pytest.mark.skipif("implicit_gemm" not in cases.BACKENDS, reason="the kernel is CUDA's")
def test_tf32_where_torchs_flag_allows_it():
    given = tensors(16, 24, (3, 3), dtype=torch.float32)

    def error():
        output = ops.conv2d(*given, padding=1)
        grads = torch.autograd.grad(output, given[:2], torch.ones_like(output))
        wide = [t.detach().double().requires_grad_() for t in given]
        expected = reference.conv2d(*wide, padding=1)
        wanted = torch.autograd.grad(expected, wide[:2], torch.ones_like(expected))
        pairs = zip((output, *grads), (expected, *wanted), strict=True)
        return [((got - want).abs().max() / want.abs().max()).item() for got, want in pairs]

    with cases.backend("implicit_gemm"):
        assert max(error()) < 1e-6
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        try:
            assert all(1e-5 < e < 2e-3 for e in error())
        finally:
            torch.backends.cudnn.conv.fp32_precision = "ieee"


IMAGE, WEIGHT = torch.ones(1, 4, 6, 6), torch.ones(2, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.conv2d(IMAGE.numpy(), WEIGHT), TypeError, "input must be a torch.Tensor, got ndarray"),
        (lambda: ops.conv2d(IMAGE.half(), WEIGHT), TypeError, "input has dtype torch.float16; allowed are"),
        (lambda: ops.conv2d(IMAGE, WEIGHT.double()), TypeError, "weight has dtype torch.float64, input has"),
        (lambda: ops.conv2d(IMAGE[0, 0], WEIGHT), ValueError, r"input must be \[N, C, H, W\]"),
        (lambda: ops.conv2d(IMAGE, WEIGHT[0]), ValueError, "weight must have 4 dimensions"),
        (lambda: ops.conv2d(IMAGE[:, :3], WEIGHT), ValueError, "input has 3 channels; weight .* takes 4"),
        (lambda: ops.conv2d(IMAGE, WEIGHT[:0]), ValueError, "no size may be 0"),
        (lambda: ops.conv2d(IMAGE, WEIGHT, torch.ones(3)), ValueError, "bias has shape .3,.; the output has 2"),
        (lambda: ops.conv2d(IMAGE, WEIGHT, groups=3), ValueError, "groups is 3; it must divide"),
        (lambda: ops.conv2d(IMAGE, WEIGHT, stride=0), ValueError, "stride is 0; it must be at least 1"),
        (lambda: ops.conv2d(IMAGE, WEIGHT, stride=(1, 2, 3)), ValueError, "stride is .* 2 ints"),
        (lambda: ops.conv2d(IMAGE, WEIGHT, stride=1.5), TypeError, "stride is 1.5; it must be an int"),
        (lambda: ops.conv2d(IMAGE, WEIGHT, padding=(1, -1, 0, 0)), ValueError, "padding is .* at least 0"),
        (lambda: ops.conv2d(IMAGE, WEIGHT, padding="full"), TypeError, "padding is 'full'; it must be an int"),
        (lambda: ops.conv2d(IMAGE, WEIGHT, padding="same", stride=2), ValueError, "'same' needs stride 1"),
        (lambda: ops.conv2d(IMAGE, WEIGHT, dilation=3), ValueError, "gives an output of size .0, 0."),
        (lambda: ops.conv2d(IMAGE, WEIGHT, activation="gelu"), ValueError, "activation is 'gelu'; allowed are"),
    ],
)
def test_refusals_name_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_the_op_itself_refuses_what_would_read_out_of_bounds():
    for bad in ([-1, 0, 0, 0], [0, 0, 0]):
        with pytest.raises(RuntimeError, match="sdgan_ext"):
            torch.ops.sdgan_ext.conv2d(IMAGE, WEIGHT, None, [1, 1], bad, [1, 1], 1, 0, 0.2)
    with pytest.raises(RuntimeError, match="output's shape"):
        args = ([1, 1], [0, 0, 0, 0], [1, 1], 1, 0, 0.2, True, True, True)
        torch.ops.sdgan_ext.conv2d_backward(torch.ones(1, 2, 3, 4), IMAGE, WEIGHT, IMAGE, *args)
