"""F(4x4, 3x3), which torch's float32 matmul precision lets run; csrc/tests/test_winograd_f43.cpp has the kernel."""

import os

import convolution_cases as cases
import pytest
import torch

import sdgan_ext as sd
from sdgan_ext import _C, ops

pytestmark = pytest.mark.skipif(bool(os.environ.get("SDGAN_TEST_NATIVE")), reason="the kernels are the CPU's")
# transposed, padding or crop, batch, channels in and out, height, width
LAYERS = [
    (False, (1, 1, 1, 1), (2, 16, 32, 20, 17)),
    (False, (0, 1, 2, 0), (1, 20, 33, 30, 25)),
    (True, (1, 1, 1, 1), (1, 32, 18, 22, 35)),
    (True, (2, 1, 0, 1), (2, 17, 16, 25, 23)),
]


@pytest.fixture(autouse=True)
def high():
    torch.set_float32_matmul_precision("high")
    with cases.backend("winograd"):
        yield
    torch.set_float32_matmul_precision("highest")
    _C.forget_measured_convolutions()


def layer(transposed, sides, shape, format=torch.channels_last):
    n, into, out, height, width = shape
    x = cases.rand(n, into, height, width, dtype=torch.float32, format=format)
    channels = (into, out) if transposed else (out, into)
    w = cases.rand(*channels, 3, 3, seed=1).detach() * (9 * into) ** -0.5
    w = w.float().contiguous(memory_format=format).requires_grad_()
    return x, w, cases.rand(out, dtype=torch.float32, seed=2)


def convolve(module, transposed, sides):
    if transposed:
        return lambda *t, **o: module.conv_transpose2d(*t, crop=sides, **o)
    return lambda *t, **o: module.conv2d(*t, padding=sides, **o)


def explained(given, transposed, sides):
    return ops.explain_conv(*given[:2], transposed=transposed, sides=sides)


def products(op, given, **options):
    """Output and gradients."""
    y = op(*given, **options)
    upstream = cases.rand(*y.shape, seed=9).detach().to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, given, upstream)]


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("format", cases.FORMATS.values(), ids=cases.FORMATS)
@pytest.mark.parametrize(("transposed", "sides", "shape"), LAYERS, ids=str)
def test_values_and_gradients(transposed, sides, shape, format, precision):
    torch.set_float32_matmul_precision(precision)
    given = layer(transposed, sides, shape, format)
    paths = explained(given, transposed, sides)
    assert all(paths[case].startswith("winograd: F(4x4, 3x3), ") for case in ("forward", "grad_input"))
    assert paths["grad_weight"].startswith("winograd: ") and "F(4x4" not in paths["grad_weight"]
    for activation in (None, "relu", "silu"):
        got = products(convolve(ops, transposed, sides), given, activation=activation)
        wide = [t.detach().double().requires_grad_() for t in given]
        want = products(convolve(ops.reference, transposed, sides), wide, activation=activation)
        assert got[0].is_contiguous(memory_format=format)
        for a, b in zip(got, want, strict=True):
            assert (a.double() - b).norm() <= 2e-6 * b.norm()


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_activations(activation):
    transposed, sides, shape = LAYERS[0]
    cases.check_against_reference(
        convolve(ops, transposed, sides),
        convolve(ops.reference, transposed, sides),
        layer(*LAYERS[0]),
        activation=activation,
    )


@pytest.mark.parametrize(("transposed", "sides", "shape"), LAYERS, ids=str)
def test_highest_never_takes_it(transposed, sides, shape):
    """The same bits with a precision of "highest" whatever it was before; the weight's gradient always has them."""
    given = layer(transposed, sides, shape)
    op = convolve(ops, transposed, sides)
    torch.set_float32_matmul_precision("highest")
    assert not any("F(4x4" in path for path in explained(given, transposed, sides).values())
    before = products(op, given)
    torch.set_float32_matmul_precision("high")
    between = products(op, given)
    torch.set_float32_matmul_precision("highest")
    after = products(op, given)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [torch.equal(a, b) for a, b in zip(before, between, strict=True)] == [False, False, True, True]


def test_precisions_by_backend_leave_it_out():
    """Torch has no answer then, and raises."""
    given = layer(*LAYERS[0])
    torch.set_float32_matmul_precision("highest")
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "tf32"
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        assert not any("F(4x4" in path for path in explained(given, *LAYERS[0][:2]).values())
        ops.conv2d(*given, padding=1)
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


@pytest.mark.parametrize(("dtype", "stride", "kernel"), [("float64", 1, 3), ("bfloat16", 1, 3), ("float32", 2, 3)])
def test_no_other_convolution_takes_it(dtype, stride, kernel):
    x, w = torch.ones(2, 64, 64, 64, dtype=getattr(torch, dtype)), torch.ones(64, 64, kernel, kernel)
    with ops.conv_backend("auto"):
        paths = ops.explain_conv(x, w.to(x.dtype), stride=stride, sides=(1, 1, 1, 1))
    assert not any("F(4x4" in path for path in paths.values())


@pytest.mark.parametrize(("size", "taken"), [(64, True), (2, False)])
def test_auto_takes_it_where_it_pays(size, taken):
    """Not for the filter of few tiles."""
    x, w = torch.ones(1, 128, size, size), torch.ones(128, 128, 3, 3)
    with ops.conv_backend("auto"):
        assert ("F(4x4" in ops.explain_conv(x, w, sides=(1, 1, 1, 1))["forward"]) == taken


def test_explain_counts_its_products():
    from sdgan_ext.ops import _convolution

    x, w = torch.ones(2, 20, 18, 33), torch.ones(40, 20, 3, 3)
    for precision, tiles, products in (("highest", 9 * 17, 16), ("high", 5 * 9, 36)):
        torch.set_float32_matmul_precision(precision)
        path = _convolution.paths(x, w, (1, 1), (1, 1, 1, 1), (1, 1), 1, transposed=False)["forward"]
        assert path.multiplications == 2 * tiles * products * 32 * 48


def test_the_table_of_explain_names_it():
    given = layer(*LAYERS[0])
    text = str(sd.explain(lambda *t: ops.conv2d(*t, padding=1), *given))
    assert text.count("winograd F(4x4, 3x3) ") == 2 and "winograd: F(4x4, 3x3), asked for by conv_backend" in text


@pytest.mark.parametrize(("transposed", "sides", "shape"), LAYERS, ids=str)
def test_the_same_bits_for_any_number_of_threads(transposed, sides, shape):
    given = layer(transposed, sides, shape)
    cases.check_threads(lambda: products(convolve(ops, transposed, sides), given, activation="relu"))


def test_compiled_graphs_follow_the_precision():
    given = layer(*LAYERS[0])

    def run(x, w, b):
        return ops.conv2d(x, w, b, padding=1)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for precision in ("high", "highest", "high"):
        torch.set_float32_matmul_precision(precision)
        assert torch.equal(compiled(*given), run(*given))


def test_benchmark_measures_each_precision_by_itself():
    given = layer(*LAYERS[0])
    with ops.conv_backend("benchmark"), torch.no_grad():
        for count, precision in ((1, "high"), (2, "highest"), (2, "medium")):
            torch.set_float32_matmul_precision(precision)
            ops.conv2d(*given, padding=1)
            assert len(_C.measured_convolutions()) == count
