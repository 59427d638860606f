"""bce against its reference and torch.nn.functional: values, first and second derivatives, edges, refusals."""

import inspect

import pytest
import torch
import torch.nn.functional as F

from sdgan_ext import build_info
from sdgan_ext.ops import binary_cross_entropy, binary_cross_entropy_with_logits, reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float64: 1e-12}
FUNCTIONS = {
    "logits": (
        binary_cross_entropy_with_logits,
        reference.binary_cross_entropy_with_logits,
        F.binary_cross_entropy_with_logits,
    ),
    "probabilities": (binary_cross_entropy, reference.binary_cross_entropy, F.binary_cross_entropy),
}
SHAPES = [(), (1,), (7, 1), (3, 1, 5, 7), (20_011,)]


def randn(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def arguments(form, *shape, dtype=torch.float64):
    input = randn(*shape) * 3 if form == "logits" else randn(*shape).sigmoid()
    target = randn(*shape, seed=1).sigmoid()
    return input.to(dtype).requires_grad_(), target.to(dtype).requires_grad_()


def weights(form, input, broadcast):
    shape = input.shape[-1:] if broadcast else input.shape
    options = dict(weight=randn(*shape, seed=2).exp().to(input.dtype))
    if form == "logits":
        options["pos_weight"] = randn(*shape, seed=3).exp().to(input.dtype)
    return options


def double(options):
    return {name: value.double() if isinstance(value, torch.Tensor) else value for name, value in options.items()}


@pytest.mark.parametrize("form", FUNCTIONS)
def test_signature_is_torchs(form):
    ours, theirs, torchs = (inspect.signature(function).parameters for function in FUNCTIONS[form])
    assert list(ours) == list(theirs) == list(torchs)
    assert all(ours[name].default == torchs[name].default for name in ours)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("weighted", ["plain", "weighted", "broadcast"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("form", FUNCTIONS)
def test_values_and_gradients(form, reduction, weighted, dtype):
    close = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    ours, *others = FUNCTIONS[form]
    for shape in SHAPES:
        inputs = arguments(form, *shape, dtype=dtype)
        options = {} if weighted == "plain" else weights(form, inputs[0], weighted == "broadcast")
        loss = ours(*inputs, reduction=reduction, **options)
        upstream = torch.randn(loss.shape, dtype=torch.float64).to(dtype)
        grads = torch.autograd.grad(loss, inputs, upstream)
        assert loss.dtype == dtype
        for other in others:
            wide = [t.detach().double().requires_grad_() for t in inputs]
            expected = other(*wide, reduction=reduction, **double(options))
            expected_grads = torch.autograd.grad(expected, wide, upstream.double())
            for got, want in zip((loss, *grads), (expected, *expected_grads), strict=True):
                torch.testing.assert_close(got.double(), want, **close)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("form", FUNCTIONS)
def test_first_and_second_derivative(form, reduction, weighted):
    input, target = arguments(form, 2, 3)
    options = weights(form, input, True) if weighted else {}

    def run(input, target):
        return FUNCTIONS[form][0](input, target, reduction=reduction, **options)

    for inputs in [(input, target), (input, target.detach()), (input.detach(), target)]:
        assert torch.autograd.gradcheck(run, inputs)
        assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("logit", [0.0, 50.0, -50.0, 1e4, -1e4, 3e38])
def test_extreme_logits_stay_finite(logit):
    for label in (0.0, 0.25, 1.0):
        input, target = torch.full((17,), logit, requires_grad=True), torch.full((17,), label)
        loss = binary_cross_entropy_with_logits(input, target, reduction="none")
        torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(input, target, reduction="none"))
        (grad,) = torch.autograd.grad(loss.sum(), input)
        assert loss.isfinite().all() and grad.isfinite().all()
    assert binary_cross_entropy_with_logits(torch.tensor([-50.0]), torch.tensor([0.0])) > 0
    assert binary_cross_entropy_with_logits(torch.tensor([torch.nan]), torch.tensor([0.0])).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithms_of_probabilities_are_clamped(dtype):
    edges = torch.tensor([0.0, 1e-44, 1e-40, 1e-30, 1e-8, 0.3, 1 - 2**-24, 1.0], dtype=dtype)
    for label in (0.0, 0.25, 1.0):
        input, target = edges.clone().requires_grad_(), torch.full_like(edges, label).requires_grad_()
        loss = binary_cross_entropy(input, target, reduction="none")
        expected = F.binary_cross_entropy(input, target, reduction="none")
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
        assert loss.max() <= 100
        got = torch.autograd.grad(loss.sum(), (input, target))
        want = torch.autograd.grad(expected.sum(), (input, target))
        torch.testing.assert_close(got[0], want[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(got[1], want[1].clamp(-100, 100), rtol=1e-6, atol=0)  # torch's is infinite


@pytest.mark.parametrize("name", ["channels_last", "sliced", "expanded", "permuted"])
@pytest.mark.parametrize("form", FUNCTIONS)
def test_layouts_mixed(form, name):
    view = {
        "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
        "sliced": lambda t: t[:, ::2, 1:],
        "expanded": lambda t: t[:1].expand(3, -1, -1, -1),
        "permuted": lambda t: t.permute(3, 0, 2, 1),
    }[name]
    input = view(arguments(form, 2, 4, 5, 3)[0])
    _, target = arguments(form, *input.shape)
    options = weights(form, input, True)
    ours, theirs, _ = FUNCTIONS[form]
    loss, expected = (function(input, target, reduction="none", **options) for function in (ours, theirs))
    torch.testing.assert_close(loss, expected)
    assert loss.stride() == torch.empty_like(input).stride()
    upstream = view(randn(2, 4, 5, 3, seed=7))
    got = torch.autograd.grad(loss, (input, target), upstream)
    torch.testing.assert_close(got, torch.autograd.grad(expected, (input, target), upstream))


@pytest.mark.parametrize("form", FUNCTIONS)
def test_empty(form):
    for reduction in ("mean", "sum", "none"):
        input, target = arguments(form, 0, 3)
        loss = FUNCTIONS[form][0](input, target, reduction=reduction)
        torch.testing.assert_close(loss, FUNCTIONS[form][2](input, target, reduction=reduction), equal_nan=True)
        assert torch.autograd.grad(loss.sum(), input)[0].shape == (0, 3)


@pytest.mark.parametrize("form", FUNCTIONS)
def test_legacy_reductions(form):
    input, target = arguments(form, 5)
    ours, _, torchs = FUNCTIONS[form]
    for options in (dict(size_average=False), dict(reduce=False), dict(size_average=True, reduce=True)):
        with pytest.warns(UserWarning, match="will be deprecated"):
            loss, expected = (function(input, target, **options) for function in (ours, torchs))
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("form", FUNCTIONS)
def test_same_bits_for_any_number_of_threads(form):
    inputs = arguments(form, 100_003, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            loss = FUNCTIONS[form][0](*inputs)
            results.append([loss, *torch.autograd.grad(loss, inputs)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("reduction", [0, 1])
@pytest.mark.parametrize("form", FUNCTIONS)
def test_opcheck(form, reduction):
    input, target = arguments(form, 5, 3, dtype=torch.float32)
    options = weights(form, input, False)
    tensors = (input, target, options["weight"], options.get("pos_weight"))
    settings = (form == "logits", reduction)
    native = torch.ops.sdgan_ext
    torch.library.opcheck(native.bce.default, (*tensors, *settings, False, False))
    if reduction:
        torch.library.opcheck(native.bce.default, (*tensors, *settings, True, False))
        torch.library.opcheck(native.bce.default, (*tensors, *settings, True, True))
    else:
        with pytest.raises(RuntimeError, match="only a reduced loss has gradients beside it"):
            native.bce(*tensors, *settings, True, False)
    grad_loss = torch.randn((5, 3) if reduction == 0 else ())
    torch.library.opcheck(native.bce_backward.default, (grad_loss, *tensors, *settings, True, False))
    torch.library.opcheck(native.bce_backward.default, (grad_loss, *tensors, *settings, True, True))


@pytest.mark.parametrize("form", FUNCTIONS)
def test_compile(form):
    input, target = arguments(form, 6, 4, dtype=torch.float32)
    options = weights(form, input, True)

    def run(input, target):
        return FUNCTIONS[form][0](input, target, **options)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(input, target), (input, target))
    torch.testing.assert_close(got, torch.autograd.grad(run(input, target), (input, target)))


@pytest.mark.parametrize("form", FUNCTIONS)
def test_autocast_computes_in_float32(form):
    input, target = torch.full((3,), 0.5, dtype=torch.bfloat16, requires_grad=True), torch.zeros(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = FUNCTIONS[form][0](input, target)
    assert loss.dtype == torch.float32
    assert torch.autograd.grad(loss, input)[0].dtype == torch.bfloat16


X = torch.full((2, 3), 0.5)
bce, logits = binary_cross_entropy, binary_cross_entropy_with_logits


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: bce([0.5], X), TypeError, "input must be a torch.Tensor, got list"),
        (lambda: logits(X, X.long()), TypeError, "target has dtype torch.int64"),
        (lambda: logits(X, X.double()), TypeError, "target has dtype torch.float64, input has torch.float32"),
        (lambda: bce(X, X[:1]), ValueError, r"target has shape \(1, 3\), input \(2, 3\); they must match"),
        (lambda: bce(X, X, weight=X.T), ValueError, r"weight has shape \(3, 2\); it must broadcast to the input's"),
        (lambda: logits(X[0], X[0], pos_weight=X), ValueError, r"pos_weight has shape \(2, 3\); it must broadcast"),
        (lambda: logits(X, X, weight=X.double()), TypeError, "weight has dtype torch.float64"),
        (lambda: bce(X, X, reduction="batchmean"), ValueError, "reduction is 'batchmean'; allowed are 'none'"),
        (lambda: bce(X, X, weight=X.clone().requires_grad_()), ValueError, "weight requires grad"),
        (lambda: logits(X, X, pos_weight=X.clone().requires_grad_()), ValueError, "pos_weight requires grad"),
    ],
)
def test_refusals_name_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("bad", [-0.1, 1.1, torch.nan])
@pytest.mark.parametrize("name", ["input", "target"])
def test_probabilities_outside_the_unit_interval(name, bad, dtype):
    """They raise on the CPU; CUDA does not wait for the GPU, so there the element becomes NaN."""
    tensors = {"input": torch.full((2, 3), 0.5, dtype=dtype), "target": torch.full((2, 3), 0.5, dtype=dtype)}
    tensors[name][1, 2] = bad
    if build_info()["cuda_architectures"] != ["host"]:
        for reduction in ("mean", "none"):
            with pytest.raises(RuntimeError, match=f"{name} must hold probabilities, all between 0 and 1"):
                bce(**tensors, reduction=reduction)
        return
    input, target = (t.requires_grad_() for t in tensors.values())
    loss = bce(input, target, reduction="none")
    for result in (loss, *torch.autograd.grad(loss.sum(), (input, target))):
        assert torch.equal(result.isnan().nonzero(), torch.tensor([[1, 2]]))
    assert bce(input, target).isnan()
