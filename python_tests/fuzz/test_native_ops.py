"""Operators on tensors of any shape, layout, offset and dtype: the reference's values, or a refusal.

`make test` runs this file again on a build with AddressSanitizer, where a read beside a tensor ends the process.
``python -m pytest python_tests/fuzz --examples 1000`` runs more examples.
"""

import contextlib

import pytest
import torch
from contract.cases import ACTIVATIONS, Case, Spec, assert_all_near, backend, widened
from contract.registry import OPERATIONS, each_op
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from sdgan_ext import ops
from sdgan_ext.ops import _convolution
from sdgan_ext.ops.adversarial_loss import OBJECTIVES

from .layouts import DTYPES, laid_out, other_argument, shapes

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float64: 1e-10}
REDUCTIONS = ("none", "mean", "sum", "batchmean")
REFUSALS = (TypeError, ValueError, RuntimeError, OverflowError)

pytestmark = pytest.mark.usefixtures("one_thread")


def examples(pytestconfig):
    """The same ones in each run."""
    count = pytestconfig.getoption("examples", 20)  # the option is known where this folder is named
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )


# ------------------------------------------------------------------------------------- cases of the public ops
@st.composite
def convolutions(draw, op):
    small, channels = st.integers(1, 3), st.sampled_from((1, 2, 3, 4, 5, 8, 16, 17))
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    x = (draw(st.integers(0, 3)), groups * draw(channels), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    k, r, s = groups * draw(channels), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    weight = (k, x[1] // groups, r, s) if op == "conv2d" else (x[1], k // groups, r, s)
    options = {"stride": draw(st.tuples(small, small)), "dilation": draw(small), "groups": groups}
    sides = st.integers(0, 3)
    if op == "conv2d":
        options["padding"] = draw(sides | st.tuples(sides, sides) | st.tuples(sides, sides, sides, sides))
    elif draw(st.booleans()):
        options["crop"] = draw(st.tuples(sides, sides, sides, sides))
    else:
        below = max(options["dilation"], min(options["stride"]))
        options |= {"padding": draw(sides), "output_padding": draw(st.integers(0, below - 1))}
    options["activation"] = draw(st.sampled_from(ACTIVATIONS))
    specs = [Spec(x), Spec(weight, scale=(weight[1] * r * s) ** -0.5)] + [Spec((k,))] * draw(st.booleans())
    name = draw(st.sampled_from(("auto", "library", "small_channel", "winograd", "implicit_gemm")))
    kinked, bias = options["activation"] in ("relu", "leaky_relu"), len(specs) - 2
    if op == "conv2d" and draw(st.booleans()):
        specs.append(Spec((x[0], k, *output_size(x[2:], (r, s), **options))))
        options["output_scale"] = draw(st.sampled_from((1.0, 0.5, -3.0)))

    def call(m, x, w, *more):
        added = {"residual": more[bias]} if len(more) > bias else {}
        return getattr(m, op)(x, w, more[0] if bias else None, **added, **options)

    return Case(f"{op}, {options}", call, tuple(specs), name, kinked=kinked, conv=(op == "conv_transpose2d", groups))


def output_size(size, kernel, stride, padding, dilation, **_):
    """Of conv2d; at least 1, for what is refused."""
    sides = _convolution.sides("padding", padding)
    return tuple(max(1, n) for n in _convolution.conv_size(size, kernel, stride, sides, (dilation, dilation)))


@st.composite
def batch_norms(draw):
    shape, activation = draw(shapes(2, 5, 4).filter(lambda shape: shape[1])), draw(st.sampled_from(ACTIVATIONS))
    training, running, affine = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    c = (shape[1],)
    statistics = (Spec(c, grad=False), Spec(c, "positive", False)) if running else ()
    specs = (Spec(shape, scale=2.0), *statistics, *((Spec(c, "positive"), Spec(c)) if affine else ()))

    def call(module, x, *others):
        used = others[:2] if running else (None, None)
        y = module.batch_norm(x, *used, *others[2 * running :], training=training, activation=activation)
        return (y, *others[: 2 * running])

    return Case(f"batch_norm, {training}", call, specs, kinked=activation in ("relu", "leaky_relu"))


@st.composite
def group_norms(draw):
    shape, activation = draw(shapes(2, 5, 4).filter(lambda shape: shape[1])), draw(st.sampled_from(ACTIVATIONS))
    groups = draw(st.sampled_from([g for g in range(1, shape[1] + 1) if shape[1] % g == 0]))
    affine = (Spec((shape[1],), "positive"), Spec((shape[1],))) if draw(st.booleans()) else ()
    call = lambda m, x, *affine: m.group_norm(x, groups, *affine, activation=activation)  # noqa: E731
    return Case("group_norm", call, (Spec(shape, scale=2.0), *affine), kinked=activation in ("relu", "leaky_relu"))


@st.composite
def upsampling_convolutions(draw):
    size, channels, groups = st.integers(1, 9), st.sampled_from((1, 3, 4, 16, 17)), draw(st.integers(1, 2))
    x = (draw(st.integers(0, 2)), groups * draw(channels), draw(size), draw(size))
    k, r, s = groups * draw(channels), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    padding = draw(st.sampled_from(("same", "valid")) | st.integers(0, min(r, s) - 1))
    activation = draw(st.sampled_from(ACTIVATIONS))
    options = {"padding": padding, "groups": groups, "activation": activation}
    weight = (k, x[1] // groups, r, s)
    specs = [Spec(x), Spec(weight, scale=(weight[1] * r * s) ** -0.5)] + [Spec((k,))] * draw(st.booleans())
    call = lambda m, x, w, b=None: m.upsample_conv2d(x, w, b, **options)  # noqa: E731
    return Case(f"upsample_conv2d, {options}", call, tuple(specs), kinked=activation in ("relu", "leaky_relu"))


@st.composite
def losses(draw, op):
    batched, both = op == "reconstruction_loss", draw(st.booleans())
    shape, reduction = draw(shapes(batched)), draw(st.sampled_from(REDUCTIONS if batched else REDUCTIONS[:3]))
    if op.endswith("_loss") and op != "reconstruction_loss":
        objective = draw(st.sampled_from(sorted(OBJECTIVES)))
        paired = objective == "relativistic" or reduction == "none"
        first = draw(shapes()) if draw(st.booleans()) and not paired else shape
        specs = Spec(shape, scale=3.0), Spec(first, scale=3.0, grad=both)
        if op == "discriminator_loss":
            call = lambda m, a, b: m.discriminator_loss(b, a, objective, reduction=reduction)  # noqa: E731
        else:
            real = objective == "relativistic"
            specs = specs if real else specs[:1]
            call = lambda m, a, b=None: m.generator_loss(a, b, objective, reduction=reduction)  # noqa: E731
        return Case(f"{op}, {objective}", call, specs, kinked=objective == "hinge")
    if op == "reconstruction_loss":
        kind = draw(st.sampled_from(("mse", "l1", "bce", "gaussian")))
        call = lambda m, a, b: m.reconstruction_loss(a, b, kind, reduction)  # noqa: E731
        return Case(f"{op}, {kind}", call, (Spec(shape), Spec(shape, "unit", both)), kinked=kind == "l1")
    weights = (Spec(shape, "positive", False),) * draw(st.booleans())
    logits = op.endswith("_with_logits")
    name = draw(st.sampled_from(("weight", "pos_weight"))) if logits else "weight"
    call = lambda m, a, b, *w: getattr(m, op)(a, b, reduction=reduction, **dict(zip((name,), w, strict=False)))  # noqa: E731
    return Case(op, call, (Spec(shape, "normal" if logits else "unit"), Spec(shape, "unit", both), *weights))


@st.composite
def gaussians(draw, op):
    shape, reduction = draw(shapes(1)), draw(st.sampled_from(REDUCTIONS))
    pair = Spec(shape), Spec(shape)
    if op == "gaussian_kl":
        return Case(op, lambda m, mean, logvar: m.gaussian_kl(mean, logvar, reduction), pair)
    given = draw(st.booleans())
    name, last = ("eps", Spec(shape)) if given else ("seed", Spec((), "seed", False))
    call = lambda m, mean, logvar, e: m.sample_gaussian(mean, logvar, **{name: e}, reduction=reduction)  # noqa: E731
    return Case(op, call, (*pair, last))


def cases_of(op):
    if op.startswith("conv"):
        return convolutions(op)
    others = {
        "batch_norm": batch_norms,
        "group_norm": group_norms,
        "upsample_conv2d": upsampling_convolutions,
    }
    if op in others:
        return others[op]()
    return gaussians(op) if op in ("sample_gaussian", "gaussian_kl") else losses(op)


def outcome(run, *refusals):
    try:
        return run(), None
    except refusals as error:
        return None, error


@each_op()
def test_values_in_any_layout(op, pytestconfig):
    """The op gives what its reference gives on a plain copy in float64, and refuses what that refuses."""

    @examples(pytestconfig)
    @given(st.data())
    def check(data):
        case, dtype = data.draw(cases_of(op.name)), data.draw(st.sampled_from(DTYPES))
        written = [i for i, spec in enumerate(case.specs) if op.name == "batch_norm" and not spec.grad]
        given = [data.draw(laid_out(t, i not in written)) for i, t in enumerate(case.tensors(dtype))]
        plain = widened(
            [t.detach().clone(memory_format=torch.contiguous_format).requires_grad_(t.requires_grad) for t in given]
        )
        want, refused = outcome(lambda: case.run(plain, module=ops.reference), *REFUSALS, IndexError)
        got, refused_too = outcome(lambda: case.run(given), TypeError, ValueError)
        if refused_too is not None:
            assert refused is not None or not want[0].numel(), f"{refused_too!r} of what the reference takes"
            assert str(refused_too).isprintable()
            return
        assert refused is None, f"the reference refuses it: {refused!r}"
        assert [(t.shape, t.dtype) for t in got] == [(t.shape, dtype) for t in want]
        if dtype.itemsize == 2 and case.kinked:
            return
        if all(t.numel() for t in (*given, *want)):
            assert_all_near(got, want, TOLERANCE[dtype])
        for ours, theirs in zip(got, want, strict=True):
            assert torch.equal(ours.isfinite(), theirs.isfinite())

    check()


# --------------------------------------------------------------------------- the operators by their own names
class Recorder(TorchDispatchMode):
    """Keeps the arguments of every call of an operator of ours."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "sdgan_ext":
            detached = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args)
            self.calls.setdefault(function, []).append(detached)
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def calls():
    """Right arguments of every operator: those of the contract's cases."""
    with Recorder() as recorder:
        for op in OPERATIONS:
            for case in op.cases:
                if sum(torch.Size(spec.shape).numel() for spec in case.specs) < 10_000:
                    case.run(case.tensors())
        mean = torch.zeros(3, 4)
        ops.sample_gaussian(mean, mean, seed=1, out=torch.empty(4, 3).t())
        ops.upsample_conv2d(torch.ones(2, 16, 8, 9), torch.ones(17, 16, 3, 3))  # the operator runs without gradients
    return recorder.calls


OPERATORS = sorted(
    name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("sdgan_ext::")
)


@pytest.mark.parametrize("name", OPERATORS)
def test_wrong_arguments_are_refused(name, calls, pytestconfig):
    """An operator that gets one or two other arguments returns or raises; it neither reads nor writes elsewhere."""
    operator = getattr(torch.ops.sdgan_ext, name).default
    kinds = [str(argument.type) for argument in operator._schema.arguments]

    @examples(pytestconfig)
    @given(st.data())
    def check(data):
        arguments = list(calls[operator][data.draw(st.integers(0, len(calls[operator]) - 1))])
        arguments += [argument.default_value for argument in operator._schema.arguments[len(arguments) :]]
        for i in data.draw(st.lists(st.integers(0, len(kinds) - 1), max_size=2)):
            arguments[i] = data.draw(other_argument(kinds[i], arguments[i]))
        arguments = [data.draw(laid_out(a)) if isinstance(a, torch.Tensor) else a for a in arguments]
        path = data.draw(st.sampled_from(("auto", "library", "small_channel", "winograd")))
        with backend(path), contextlib.suppress(*REFUSALS):
            outputs = operator(*arguments)
            for output in outputs if isinstance(outputs, (tuple, list)) else (outputs,):
                output.clone()

    check()


def test_every_operator_is_called(calls):
    assert sorted(operator._schema.name.split("::")[1] for operator in calls) == OPERATORS
