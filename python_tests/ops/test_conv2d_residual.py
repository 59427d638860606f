"""conv2d with a residual and an output scale: ``act(output_scale (conv + bias + residual))`` on every path."""

import os

import convolution_cases as cases
import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import sdgan_ext as sd
from sdgan_ext import ops
from sdgan_ext.ops import reference
from sdgan_ext.ops.conv2d import conv2d_of_layer

pytestmark = pytest.mark.usefixtures("one_thread")
#: Winograd's kernels are the CPU's.
BACKENDS = [*cases.BACKENDS, *([] if os.environ.get("SDGAN_TEST_NATIVE") else ["winograd"])]


def residual_conv(module):
    return lambda x, w, b, r, **options: module.conv2d(x, w, b, residual=r, **options)


def unbiased(module):
    return lambda x, w, r, **options: module.conv2d(x, w, residual=r, **options)


OURS, REFERENCE = residual_conv(ops), residual_conv(reference)


def tensors(inputs, outputs, size=(6, 9), batch=2, kernel=3, **options):
    """Of a 3x3 convolution with padding 1, whose output has the size of its input."""
    weight = cases.rand(outputs, inputs, kernel, kernel, seed=1, dtype=torch.float64).detach() / (3 * inputs**0.5)
    return (
        cases.rand(batch, inputs, *size, **options),
        weight.to(options.get("dtype", torch.float64)).requires_grad_(),
        cases.rand(outputs, dtype=options.get("dtype", torch.float64), seed=2),
        cases.rand(batch, outputs, *size, seed=3, **options),
    )


def grads_of(function, given, upstream=None):
    """The output, and gradients of what requires one."""
    output = function(*given)
    upstream = torch.cos(torch.arange(output.numel(), dtype=output.dtype)).view(output.shape)
    return [output, *torch.autograd.grad(output, [t for t in given if t.requires_grad], upstream)]


def close(got, want, **tolerance):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or dict(rtol=2e-5, atol=2e-5)))


@pytest.mark.parametrize("dtype", cases.TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("path", BACKENDS)
def test_values_and_gradients(path, activation, dtype):
    for format in cases.FORMATS.values():
        for channels, size in (((16, 20), (6, 9)), ((33, 16), (5, 1)), ((3, 4), (1, 1))):
            given = tensors(*channels, size, dtype=dtype, format=format)
            with cases.backend(path):
                for scale in (1.0, 0.6):
                    options = dict(padding=1, activation=activation, output_scale=scale)
                    output = cases.check_against_reference(OURS, REFERENCE, given, **options)
                    assert output.is_contiguous(memory_format=format)


@pytest.mark.parametrize("path", BACKENDS)
def test_a_scale_alone_and_a_residual_without_bias(path):
    x, w, b, r = tensors(16, 20, dtype=torch.float32)
    with cases.backend(path):
        for activation in (None, "leaky_relu", "silu"):
            options = dict(padding=1, activation=activation)
            cases.check_against_reference(ops.conv2d, reference.conv2d, (x, w, b), output_scale=-0.5, **options)
            cases.check_against_reference(unbiased(ops), unbiased(reference), (x, w, r), **options)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("path", BACKENDS)
def test_other_geometries(path, kernel, stride):
    """Sides that differ, which the library has not."""
    x, w, b, _ = tensors(16, 24, (9, 8), kernel=kernel, dtype=torch.float32)
    options = dict(stride=stride, padding=(1, 2, 1, 0), activation="tanh", output_scale=0.5)
    r = cases.rand(*reference.conv2d(x, w, b, **options).shape, dtype=torch.float32, seed=3)
    with cases.backend(path):
        cases.check_against_reference(OURS, REFERENCE, (x, w, b, r), **options)


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_first_second_and_third_derivative(activation):
    given = tensors(2, 3, (4, 3), batch=1)

    def run(*given):
        return OURS(*given, padding=1, activation=activation, output_scale=0.7)

    def gradients(*given):
        return torch.autograd.grad(run(*given).square().sum(), given, create_graph=True)

    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)
    assert torch.autograd.gradgradcheck(gradients, given, fast_mode=True)


def test_without_activation_the_residual_has_the_gradient_that_arrives():
    """No pass and no copy."""
    given = tensors(16, 16, dtype=torch.float32)
    output = OURS(*given, padding=1)
    upstream = torch.randn_like(output)
    grad = torch.autograd.grad(output, given[3], upstream)[0]
    assert grad.data_ptr() == upstream.data_ptr()


def test_the_residual_alone_runs_no_convolution_backwards(monkeypatch):
    x, w, b, r = tensors(16, 16, dtype=torch.float32)
    ran = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            ran.append(func)
            return func(*args, **(kwargs or {}))

    output = OURS(x.detach(), w.detach(), b.detach(), r, padding=1, activation="relu")
    with Recorder():
        (grad,) = torch.autograd.grad(output, r, torch.ones_like(output))
    assert torch.equal(grad, (output > 0).float())
    assert torch.ops.sdgan_ext.conv2d_backward.default not in ran


def test_no_weight_gradients():
    given = tensors(16, 16, dtype=torch.float32)
    for activation, scale in ((None, 1.0), ("relu", 1.0), ("silu", 0.5)):
        output = OURS(*given, padding=1, activation=activation, output_scale=scale).sum()
        want = torch.autograd.grad(output, given, retain_graph=True)
        with ops.no_weight_gradients():
            dx, dw, db, dr = torch.autograd.grad(output, given, allow_unused=True)
        assert dw is None and db is None and torch.equal(dx, want[0]) and torch.equal(dr, want[3])


@pytest.mark.parametrize("path", BACKENDS)
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_the_input_itself_as_the_residual(path, activation):
    x, w, b, _ = tensors(16, 16, dtype=torch.float32)

    def block(module):
        def run(x, w, b):
            return module.conv2d(x, w, b, padding=1, residual=x, activation=activation)

        return run

    with cases.backend(path):
        close(grads_of(block(ops), (x, w, b)), grads_of(block(reference), (x, w, b)))
        leaf = x.detach().clone().requires_grad_()
        block(ops)(leaf, w, b).sum().backward()
        close([leaf.grad], torch.autograd.grad(block(reference)(x, w, b).sum(), x))


@pytest.mark.parametrize("path", BACKENDS)
@pytest.mark.parametrize("format", cases.FORMATS)
def test_expanded_sliced_and_other_layouts(path, format):
    """The residual's layout never becomes that of the output."""
    x, w, b, r = (t.detach() for t in tensors(16, 16, (6, 6), dtype=torch.float32, format=cases.FORMATS[format]))
    wide = torch.randn(2, 16, 6, 12)
    residuals = [
        r.contiguous(),
        r.contiguous(memory_format=torch.channels_last),
        r[:, :, :1, :1].expand_as(r),
        r[:1].expand_as(r),
        r.transpose(2, 3),
        wide[..., ::2],
        wide[..., 6:],
    ]
    with cases.backend(path):
        for residual in residuals:
            assert residual.shape == r.shape
            given = [t.detach().requires_grad_() for t in (x, w, b, residual)]
            assert given[3].stride() == residual.stride()
            for activation in (None, "tanh"):
                output = cases.check_against_reference(OURS, REFERENCE, given, padding=1, activation=activation)
                assert output.is_contiguous(memory_format=cases.FORMATS[format])
        small = r[:, :, :1, :1].clone().requires_grad_()

        def broadcast(module):
            return lambda s: module.conv2d(x, w, b, padding=1, residual=s.expand_as(r), activation="silu")

        close(grads_of(broadcast(ops), [small]), grads_of(broadcast(reference), [small]))


@pytest.mark.parametrize("path", BACKENDS)
def test_unbatched_and_empty(path):
    with cases.backend(path):
        x, w, b, r = tensors(16, 20, dtype=torch.float32)
        one = tuple(t.detach().requires_grad_() for t in (x[0], w, b, r[0]))
        options = dict(padding=1, activation="relu", output_scale=0.5)
        cases.check_against_reference(OURS, REFERENCE, one, **options)
        none = tensors(16, 20, batch=0, dtype=torch.float32)
        output = OURS(*none, **options)
        grads = torch.autograd.grad(output.sum(), none)
        assert output.shape == (0, 20, 6, 9) and [g.shape for g in grads] == [t.shape for t in none]
        assert not any(g.any() for g in grads)


@pytest.mark.parametrize("activation", ["leaky_relu", "elu"])
def test_the_output_may_be_written_to(activation):
    """As in torch, which takes these derivatives from their input."""
    given = tensors(16, 16, dtype=torch.float32)

    def run(module, *given):
        y = residual_conv(module)(*given, padding=1, activation=activation, output_scale=0.5)
        return y.mul_(2)

    close(
        grads_of(lambda *t: run(ops, *t), given), grads_of(lambda *t: run(reference, *t), given), rtol=1e-4, atol=1e-4
    )
    output = OURS(*given, padding=1, activation=activation)
    output.detach().mul_(2)
    with torch.no_grad():
        given[3].add_(1)
    with pytest.raises(RuntimeError, match="its bias or residual as well"):
        output.sum().backward()


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu"])
def test_the_residual_may_be_written_to(activation):
    """Torch's addition does not keep it either."""
    x, w, b, r = tensors(16, 16, dtype=torch.float32)
    inputs = (x, w, b, r)
    want = grads_of(lambda *t: OURS(*t, padding=1, activation=activation), inputs)

    def run(x, w, b, r):
        skip = r * 1
        y = OURS(x, w, b, skip, padding=1, activation=activation)
        skip.zero_()
        return y

    close(grads_of(run, inputs), want, rtol=0, atol=0)


@pytest.mark.parametrize("activation", ["leaky_relu", "silu", None])
def test_checkpoint(activation):
    given = tensors(16, 16, dtype=torch.float32)

    def run(*given):
        return OURS(*given, padding=1, activation=activation, output_scale=0.5)

    def again(*given):
        return checkpoint(run, *given, use_reentrant=False)

    close(grads_of(again, given), grads_of(run, given))


@pytest.mark.parametrize("path", BACKENDS)
@pytest.mark.parametrize("activation", ["leaky_relu", "silu", None])
def test_opcheck_and_compile(path, activation):
    given = tensors(16, 20, dtype=torch.float32, format=torch.channels_last)

    def loss(*given):
        return OURS(*given, padding=1, activation=activation, output_scale=0.5).square().mean()

    with cases.backend(path):
        cases.check_strides_of_fake_kernels(OURS, given, padding=1, activation=activation)
        settings = ([1, 1], [1, 1, 1, 1], [1, 1], 1, ops._convolution.ACTIVATIONS[activation], 0.2)
        x, w, b, r = given
        torch.library.opcheck(torch.ops.sdgan_ext.conv2d.default, (x, w, b, *settings, r, 0.5))
        torch.library.opcheck(torch.ops.sdgan_ext.conv2d.default, (x, w, b, *settings, None, 0.5))
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        want, got = (torch.autograd.grad(f(*given), given) for f in (loss, compiled))
    close(got, want)


def test_a_compiled_scale_may_change():
    given = tensors(16, 16, dtype=torch.float32)

    def run(scale):
        return OURS(*given, padding=1, output_scale=scale)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for scale in (1.0, 0.5, 0.25):
        close([compiled(scale)], [run(scale)])


@pytest.mark.parametrize("path", BACKENDS)
def test_autocast(path):
    given = tensors(16, 20, dtype=torch.float32)
    mixed = (*given[:3], given[3].detach().bfloat16().requires_grad_())
    with cases.backend(path):
        for tensors_ in (given, mixed):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = OURS(*tensors_, padding=1, activation="silu")
            grads = torch.autograd.grad(output.float().sum(), tensors_)
            assert output.dtype == torch.bfloat16
            assert [g.dtype for g in grads] == [t.dtype for t in tensors_]
            want = OURS(*given, padding=1, activation="silu")
            close([output.float()], [want], rtol=3e-2, atol=6e-2)


@pytest.mark.parametrize("path", BACKENDS)
def test_same_bits_for_any_number_of_threads(path):
    given = tensors(32, 40, (20, 21), batch=5, dtype=torch.float32, format=torch.channels_last)

    def run():
        output = OURS(*given, padding=1, activation="silu", output_scale=0.5)
        return [output, torch.autograd.grad(output, given[3], torch.ones_like(output))[0]]

    with cases.backend(path):
        cases.check_threads(run)


def test_bfloat16_is_no_worse_than_three_passes_of_torch():
    """Which round after each."""
    x, w, b, r = tensors(16, 20, dtype=torch.bfloat16)
    wide = REFERENCE(*(t.double() for t in (x, w, b, r)), padding=1, activation="silu", output_scale=0.3)
    stock = F.silu((F.conv2d(x, w, b, padding=1) + r) * 0.3)
    ours = OURS(x, w, b, r, padding=1, activation="silu", output_scale=0.3)
    assert (ours.double() - wide).norm() <= (stock.double() - wide).norm()


def test_layers_pass_it_on():
    x, w, b, r = tensors(16, 16, dtype=torch.float32)
    got = conv2d_of_layer(x, w, b, 1, "relu", 0.2, 1, 1, 1, residual=r, output_scale=0.5)
    assert torch.equal(got, OURS(x, w, b, r, padding=1, activation="relu", output_scale=0.5))
    with pytest.raises(ValueError, match="residual has shape"):
        conv2d_of_layer(x, w, b, 1, "relu", 0.2, 1, 1, 1, residual=r[:1])


# ------------------------------------------------------------------------------------------------ which backend
@pytest.mark.skipif(bool(os.environ.get("SDGAN_TEST_NATIVE")), reason="Winograd's kernels are the CPU's")
def test_explain():
    small, large = torch.empty(1, 64, 64, 64), torch.empty(3, 64, 3, 3)
    rgb = torch.empty(1, 3, 64, 64)
    wide = torch.empty(64, 64, 3, 3)
    run = lambda w, r, scale=1.0: ops.conv2d(small, w, padding=1, residual=r, output_scale=scale)  # noqa: E731
    with cases.backend("auto"):
        assert sd.explain(run, large, None)[0].forward.kernel == "small_channel"
        for residual, scale in ((rgb, 1.0), (None, 0.5)):
            (row,) = sd.explain(run, large, residual, scale)
            assert row.forward.kernel == "library"
            assert row.grad_input.kernel == "small_channel"
        for residual in (None, small):
            assert sd.explain(run, wide, residual)[0].forward.kernel == sd.explain(run, wide, None)[0].forward.kernel


def test_a_backend_that_has_no_residual_says_so():
    x, w, b, r = tensors(16, 3, dtype=torch.float32)
    with ops.conv_backend("small_channel"):
        ops.conv2d(x, w, b, padding=1)
        for added in (dict(residual=r), dict(output_scale=0.5)):
            with pytest.raises(RuntimeError, match="no residual and no output scale; it can be one of .*'library'"):
                ops.conv2d(x, w, b, padding=1, **added)


def test_a_measured_choice_is_not_that_of_the_same_shape_without_residual():
    """small_channel wins this shape, and cannot add a residual."""
    x, w, b, r = (t.detach() for t in tensors(64, 1, (40, 40), dtype=torch.float32))
    with ops.conv_backend("benchmark"):
        plain = ops.conv2d(x, w, b, padding=1)
        for _ in range(2):
            torch.testing.assert_close(OURS(x, w, b, r, padding=1, output_scale=2.0), 2 * (plain + r))
        torch.testing.assert_close(ops.conv2d(x, w, b, padding=1), plain)


# ---------------------------------------------------------------------------------------------------- refusals
X, W, R = torch.ones(1, 4, 6, 6), torch.ones(2, 4, 3, 3), torch.ones(1, 2, 6, 6)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            dict(residual=R[:, :1]),
            ValueError,
            r"residual has shape \(1, 1, 6, 6\); the output has shape \(1, 2, 6",
        ),
        (dict(residual=R[0]), ValueError, r"residual has shape \(2, 6, 6\); the output has shape"),
        (dict(residual=R[:, :, :4, :4]), ValueError, r"residual has shape \(1, 2, 4, 4\)"),
        (dict(residual=R.double()), TypeError, "residual has dtype torch.float64, input has torch.float32"),
        (dict(residual=R.int()), TypeError, "residual has dtype torch.int32; allowed are"),
        (dict(residual=R.to("meta")), ValueError, "residual is on meta, input on cpu"),
        (dict(residual=R.numpy()), TypeError, "residual must be a torch.Tensor, got ndarray"),
        (dict(residual=1.0), TypeError, "residual must be a torch.Tensor, got float"),
        (dict(output_scale=True), TypeError, "output_scale is True; it must be a finite float"),
        (dict(output_scale="2"), TypeError, "output_scale is '2'; it must be a finite float"),
        (dict(output_scale=None), TypeError, "output_scale is None; it must be a finite float"),
        (dict(output_scale=torch.tensor(2.0)), TypeError, "output_scale is tensor"),
        (dict(output_scale=float("nan")), ValueError, "output_scale is nan; it must be a finite float"),
        (dict(output_scale=-float("inf")), ValueError, "output_scale is -inf; it must be a finite float"),
    ],
)
def test_refusals_name_the_argument(options, error, words):
    with pytest.raises(error, match=words):
        ops.conv2d(X, W, padding=1, **options)


def test_the_op_itself_refuses_what_would_read_out_of_bounds():
    settings = ([1, 1], [1, 1, 1, 1], [1, 1], 1, 0, 0.2)
    for bad, words in ((R[:, :1], "output's shape"), (R[0], "output's shape"), (R.double(), "dtype")):
        with pytest.raises(RuntimeError, match=words):
            torch.ops.sdgan_ext.conv2d(X, W, None, *settings, bad)
