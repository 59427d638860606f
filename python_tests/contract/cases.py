"""The table of cases: every op with arguments, from which the tests of the contract and of the GPU are made.

``case.call(module, *tensors)`` takes ``sdgan_ext.ops`` or its reference, ``ops.reference``, as the module. What is to
hold for the cases is in :mod:`.registry`; `python_tests/cuda` runs them on a GPU.
"""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))

from convolution_cases import ACTIVATIONS, FORMATS, backend  # noqa: E402

from sdgan_ext import ops  # noqa: E402
from sdgan_ext.ops.adversarial_loss import OBJECTIVES  # noqa: E402

TINY = 1e-7
BACKENDS = ["implicit_gemm", "small_channel", "library"]


@dataclass(frozen=True)
class Spec:
    """A tensor that a case takes. ``kind``: normal, unit (0 to 1), positive (0.5 to 1.5) or seed (int64)."""

    shape: tuple[int, ...]
    kind: str = "normal"
    grad: bool = True
    scale: float = 1.0


@dataclass(frozen=True)
class Case:
    """
    Attributes:
        backend: of conv_backend while it runs, the library where that cannot.
        autocast: what comes out under autocast: "half", "float32" or "input" (the dtype of the input).
        kinked: its derivative jumps, so an output that was rounded across the jump has another gradient.
        short: also in the tests that repeat the others under some circumstance.
        conv: of a convolution (transposed, groups).
        device: where its tensors are made unless another device is given.
    """

    name: str
    call: Callable
    specs: tuple[Spec, ...]
    backend: str = "auto"
    autocast: str = "float32"
    kinked: bool = False
    short: bool = True
    conv: tuple[bool, int] | None = None
    device: str = "cpu"

    @property
    def op(self):
        """The public function."""
        return self.name.split(",")[0]

    @property
    def batched(self):
        """Which tensors have a batch: of convolutions input and residual, of norms the first, else all but scalars."""
        if self.conv is not None:
            return [0, *range(3, len(self.specs))]
        one = self.op in ("batch_norm", "group_norm")
        return [i for i, spec in enumerate(self.specs) if spec.shape and not (one and i)]

    def with_batch(self, n):
        specs = list(self.specs)
        for i in self.batched:
            specs[i] = dataclasses.replace(specs[i], shape=(n, *specs[i].shape[1:]))
        return dataclasses.replace(self, specs=tuple(specs))

    @property
    def exact(self):
        """Whether kernels of ours do it: the library's may add in another order from call to call."""
        if self.conv is None:
            return True
        transposed, groups = self.conv
        with backend(self.backend):
            paths = ops.explain_conv(*self.tensors()[:2], groups, transposed=transposed).values()
        return not any(path.startswith("library") for path in paths)

    def tensors(self, dtype=torch.float32, *, seed=0, format=torch.contiguous_format, device=None):
        """The same numbers on every device; leaves where a gradient is wanted."""
        return [_tensor(spec, dtype, 17 * seed + i, format, device or self.device) for i, spec in enumerate(self.specs)]

    def run(self, tensors, upstream=None, module=ops):
        """Outputs and, in order, the gradients of all leaves, for output gradients that are not one."""
        with backend(self.backend):
            outputs = self.call(module, *tensors)
            outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
            with_graph = [output for output in outputs if output.requires_grad]
            leaves = [t for t in tensors if t.requires_grad]
            if not leaves:
                return outputs
            upstream = self.upstream(with_graph) if upstream is None else upstream
            return outputs + list(torch.autograd.grad(with_graph, leaves, upstream))

    def assert_near(self, got, want, tolerance):
        """Of every result, in its order: the outputs, the gradients."""
        half, conv = tolerance > 1e-3, self.conv is not None
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            floor = TINY
            if conv and b.dim() == 1:  # a bias's gradient cancels, of halves to what rounding each term left
                floor = 4.0 if half else 1.0
            # The library rounds before the bias is added, and what then crosses a kink has another gradient.
            flips = half and conv and self.kinked and i > 0
            assert_near(a, b, tolerance * (8 if flips else 1), floor, f"result {i} of {len(want)}")

    def upstream(self, outputs):
        shapes = [Spec(tuple(output.shape), grad=False) for output in outputs]
        return [
            _tensor(s, o.dtype, 900, torch.contiguous_format, o.device) for s, o in zip(shapes, outputs, strict=True)
        ]


def _tensor(spec, dtype, seed, format, device):
    generator = torch.Generator().manual_seed(seed)
    if spec.kind == "seed":
        return torch.randint(-(2**63), 2**63 - 1, spec.shape, generator=generator).to(device)
    draw = torch.randn if spec.kind == "normal" else torch.rand
    t = draw(spec.shape, generator=generator, dtype=torch.float64) * spec.scale
    t = {"normal": t, "unit": 0.05 + 0.9 * t, "positive": 0.5 + t}[spec.kind].to(device, dtype)
    if t.dim() == 4:
        t = t.contiguous(memory_format=format)
    return t.requires_grad_() if spec.grad else t


# --------------------------------------------------------------------------------------------------------- table
def _conv(op, name, x, kernel, outputs, activation=None, short=True, backends=BACKENDS, bias=True, **options):
    """A convolution on every path. ``x``: [N, C, H, W]; ``residual``: the output's shape where one is added."""
    groups, residual = options.get("groups", 1), options.pop("residual", None)
    into = x[1]
    weight = (into, outputs // groups) if op == "conv_transpose2d" else (outputs, into // groups)
    scale = (into * kernel[0] * kernel[1]) ** -0.5
    specs = [Spec(x), Spec((*weight, *kernel), scale=scale)] + ([Spec((outputs,))] if bias else [])
    specs += [Spec(residual)] if residual else []

    def call(module, x, w, b=None, residual=None):
        added = {} if residual is None else {"residual": residual}
        return getattr(module, op)(x, w, b, activation=activation, **added, **options)

    kinked = activation in ("relu", "leaky_relu")
    about = call, tuple(specs)
    conv = op == "conv_transpose2d", groups
    return [
        Case(f"{op}, {name}, {backend}", *about, backend, "half", kinked, short, conv)
        for backend in [*backends, "auto"]
    ]


def _convolutions():
    transposed, conv = "conv_transpose2d", "conv2d"
    cases = _conv(transposed, "5x5 s2 Keras", (3, 20, 5, 4), (5, 5), 33, "relu", crop=(1, 2, 1, 2), stride=2)
    cases += _conv(transposed, "4x4 s2", (3, 64, 7, 7), (4, 4), 40, "leaky_relu", stride=2, padding=1)
    cases += _conv(transposed, "3x2 s3 d2", (2, 17, 4, 5), (3, 2), 9, "elu", stride=3, dilation=2, short=False)
    cases += _conv(transposed, "groups", (2, 12, 5, 5), (3, 3), 8, "silu", groups=2, stride=2, short=False)
    cases += _conv(transposed, "64 to 3", (2, 64, 9, 8), (4, 4), 3, "tanh", stride=2, padding=1)
    cases += _conv(transposed, "3 to 20", (2, 3, 5, 6), (5, 5), 20, "relu", stride=2, padding=2, output_padding=1)
    cases += _conv(conv, "4x4 s2", (3, 40, 9, 8), (4, 4), 64, "leaky_relu", stride=2, padding=1)
    cases += _conv(conv, "5x5 sides", (2, 24, 6, 7), (5, 5), 33, "tanh", padding=(1, 2, 0, 3))
    cases += _conv(conv, "3x3 d2 s3", (2, 9, 11, 9), (3, 3), 17, None, dilation=2, stride=3, bias=False, short=False)
    cases += _conv(conv, "groups", (2, 12, 5, 5), (3, 3), 8, "sigmoid", groups=4, short=False)
    cases += _conv(conv, "128 to 1", (2, 128, 9, 7), (5, 5), 1, "tanh", padding=2)
    cases += _conv(conv, "1 to 64", (3, 1, 12, 11), (5, 5), 64, "leaky_relu", stride=2, padding=(1, 2, 1, 2))
    cases += _conv(conv, "one pixel", (5, 32, 1, 1), (1, 1), 16, "relu", short=False)
    upsampled = "upsample_conv2d"
    cases += _conv(upsampled, "3x3 as transposed", (1, 23, 24, 23), (3, 3), 42, "silu")
    cases += _conv(upsampled, "3x3", (2, 20, 5, 4), (3, 3), 33, "silu")
    cases += _conv(upsampled, "64 to 3", (2, 64, 5, 6), (3, 3), 3, "leaky_relu")
    cases += _conv(upsampled, "5x5 groups", (2, 12, 3, 5), (5, 5), 8, "tanh", groups=2, padding=(2, 1), short=False)
    for activation in ACTIVATIONS:
        options = dict(stride=2, padding=1, short=False)
        cases += _conv(transposed, f"then {activation}", (2, 24, 4, 4), (4, 4), 16, activation, **options)
        cases += _conv(conv, f"to 3, then {activation}", (2, 16, 8, 8), (4, 4), 3, activation, **options)
        block = dict(backends=["library"], short=False, padding=1, residual=(2, 16, 8, 7), output_scale=0.7)
        cases += _conv(conv, f"residual, then {activation}", (2, 16, 8, 7), (3, 3), 16, activation, **block)
    return cases


def _batch_norm(shape, training, activation, short=True):
    c = (shape[1],)

    def call(module, x, weight, bias, mean, var):
        mean, var = mean.clone(), var.clone()
        y = module.batch_norm(x, mean, var, weight, bias, training, activation=activation)
        return y, mean, var

    specs = Spec(shape, scale=2.0), Spec(c, "positive"), Spec(c), Spec(c, grad=False), Spec(c, "positive", False)
    name = f"batch_norm, {'x'.join(map(str, shape))} {'training' if training else 'running'} {activation}"
    return Case(name, call, specs, autocast="input", kinked=activation in ("relu", "leaky_relu"), short=short)


def _batch_norm_alone():
    """Without running statistics."""

    def call(module, x, weight, bias):
        return module.batch_norm(x, None, None, weight, bias, True, activation="silu")

    specs = Spec((4, 6, 5, 3), scale=2.0), Spec((6,), "positive"), Spec((6,))
    return Case("batch_norm, 4x6x5x3 its own silu", call, specs, autocast="input")


def _batch_norms():
    cases = [_batch_norm((5, 17, 7, 6), training, "relu") for training in (True, False)]
    cases += [_batch_norm(shape, True, "relu") for shape in [(64, 33), (3, 130, 2, 3)]]
    cases += [_batch_norm(shape, True, "tanh", False) for shape in [(2, 3, 5), (16, 64, 14, 14), (7, 1, 70, 71)]]
    return [*cases, _batch_norm_alone(), *(_batch_norm((4, 18, 5, 5), True, a, False) for a in ACTIVATIONS)]


def _group_norm(shape, groups, activation, short=True):
    def call(module, x, weight, bias):
        return module.group_norm(x, groups, weight, bias, activation=activation)

    c = (shape[1],)
    name = f"group_norm, {'x'.join(map(str, shape))} {groups} groups {activation}"
    kinked = activation in ("relu", "leaky_relu")
    specs = Spec(shape, scale=2.0), Spec(c, "positive"), Spec(c)
    return Case(name, call, specs, autocast="input", kinked=kinked, short=short)


def _group_norms():
    cases = [_group_norm((5, 18, 7, 6), 3, "relu"), _group_norm((3, 130, 2, 3), 65, "silu")]
    cases += [_group_norm(shape, 3, "silu", False) for shape in [(64, 33), (2, 3, 5), (2, 96, 24, 24)]]
    return [*cases, *(_group_norm((4, 18, 5, 5), 6, a, False) for a in ACTIVATIONS)]


def _losses():
    cases = []
    for objective in OBJECTIVES:
        kinked = objective == "hinge"
        for n in [(7, 1), (20_011,)]:
            short = objective in ("non_saturating", "relativistic")

            def d_loss(m, real, fake, objective=objective):
                return m.discriminator_loss(real, fake, objective)

            def g_loss(m, fake, real, objective=objective):
                return m.generator_loss(fake, real if objective == "relativistic" else None, objective)

            real = Spec(n, scale=3.0, grad=objective == "relativistic")
            two = Spec(n, scale=3.0), Spec(n, scale=3.0)
            cases.append(Case(f"discriminator_loss, {n[0]} {objective}", d_loss, two, kinked=kinked, short=short))
            cases.append(Case(f"generator_loss, {n[0]} {objective}", g_loss, (two[0], real), short=short))
    smooth = lambda m, real, fake: m.discriminator_loss(real, fake, real_target=0.9, reduction="none")  # noqa: E731
    cases.append(Case("discriminator_loss, none, target 0.9", smooth, (Spec((33, 1), scale=3.0),) * 2))
    bce = "binary_cross_entropy"
    for shape in [(5, 3), (3, 1, 33, 29)]:
        target = Spec(shape, "unit")
        for name, input in ((f"{bce}_with_logits", Spec(shape, scale=3.0)), (bce, Spec(shape, "unit"))):
            plain = lambda m, x, t, name=name: getattr(m, name)(x, t)  # noqa: E731
            weighted = lambda m, x, t, w, name=name: getattr(m, name)(x, t, w, reduction="sum")  # noqa: E731
            # torch forbids binary_cross_entropy under autocast; ours computes in float32, as all its losses
            cases.append(Case(f"{name}, {shape}", plain, (input, target)))
            weight = Spec(shape, "positive", False)
            cases.append(Case(f"{name}, {shape} weighted", weighted, (input, target, weight), short=False))
    weights = lambda m, x, t, w: getattr(m, f"{bce}_with_logits")(x, t, pos_weight=w, reduction="none")  # noqa: E731
    specs = Spec((5, 3), scale=3.0), Spec((5, 3), "unit"), Spec((5, 3), "positive", False)
    cases.append(Case(f"{bce}_with_logits, pos_weight", weights, specs))
    for kind in ("mse", "l1", "bce", "gaussian"):
        for shape, reduction in (((3, 1, 28, 28), "batchmean"), ((2, 10_007), "mean"), ((4, 6, 5, 3), "none")):
            call = lambda m, a, b, kind=kind, r=reduction: m.reconstruction_loss(a, b, kind, r)  # noqa: E731
            specs = Spec(shape), Spec(shape, "unit")
            name, short = f"reconstruction_loss, {kind} {shape} {reduction}", kind == "mse"
            cases.append(Case(name, call, specs, kinked=kind == "l1", short=short))
    return cases


def _gaussians():
    cases = []
    for shape, reduction in [((5, 3), "batchmean"), ((64, 100), "mean"), ((3, 4, 5, 7), "none"), ((2, 10_007), "sum")]:
        pair = Spec(shape), Spec(shape)
        sample = lambda m, mean, logvar, s, r=reduction: m.sample_gaussian(mean, logvar, seed=s, reduction=r)  # noqa: E731
        given = lambda m, mean, logvar, e, r=reduction: m.sample_gaussian(mean, logvar, eps=e, reduction=r)  # noqa: E731
        kl = lambda m, mean, logvar, r=reduction: m.gaussian_kl(mean, logvar, r)  # noqa: E731
        cases += [
            Case(f"sample_gaussian, {shape} {reduction}", sample, (*pair, Spec((), "seed", False))),
            Case(f"sample_gaussian, {shape} {reduction} eps", given, (*pair, Spec(shape)), short=False),
            Case(f"gaussian_kl, {shape} {reduction}", kl, pair, short=reduction == "batchmean"),
        ]
    return cases


CASES = [*_convolutions(), *_batch_norms(), *_group_norms(), *_losses(), *_gaussians()]


# -------------------------------------------------------------------------------------------------------- checks
def widened(tensors):
    wide = [t.detach().double() if t.is_floating_point() else t for t in tensors]
    return [w.requires_grad_(t.requires_grad) for w, t in zip(wide, tensors, strict=True)]


def assert_near(got, want, tolerance, floor=1.0, what="it"):
    """Errors are measured by the largest element, or by ``floor`` where sums may cancel; where half precisions round, a
    single element may be worse and the norm of all may not."""
    assert got.shape == want.shape, what
    if not got.numel():
        return
    got, want = got.detach().double(), want.detach().double()
    assert got.isfinite().all() and want.isfinite().all(), what
    half, floor = tolerance > 1e-3, floor if want.dim() else 1.0
    largest, worst = max(floor, want.abs().max().item()), (got - want).abs().max().item()
    assert worst <= tolerance * largest * (5 if half else 1), f"{what} is off by {worst:.3g} of {largest:.3g}"
    norm, error = max(want.norm().item(), floor * want.numel() ** 0.5), (got - want).norm().item()
    assert not half or error <= tolerance * norm, f"{what}: the norm of the error is {error:.3g} of {norm:.3g}"


def assert_all_near(got, want, tolerance):
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert_near(a, b, tolerance, what=f"result {i} of {len(want)}")


def same_bits(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


__all__ = ["ACTIVATIONS", "CASES", "FORMATS", "Case", "Spec", "backend"]
