"""Activations and upsamplings that are functions in a forward: fused where proved, else what stock computes."""

import copy
import functools
import pickle

import pytest
import torch
import torch.nn.functional as F
from operators_run import operators
from torch import nn
from torch.utils.checkpoint import checkpoint

import sdgan_ext as sd

X = torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(0))


class Then(nn.Module):
    """A layer and a function behind it."""

    def __init__(self, layer, function):
        super().__init__()
        self.layer, self.function, self.options = layer, function, {}

    def forward(self, x):
        y = self.layer(x)
        if "instead" in self.options:  # a switch where nobody looks
            return self.options["instead"](y)
        return self.function(y)


def pair(model):
    stock = model.eval()
    fast = copy.deepcopy(stock)
    return fast, stock, sd.accelerate(fast)


def assert_alike(fast, stock, x=X):
    """Outputs, gradients and their class."""
    results = []
    for model in (fast, stock):
        leaf = x.clone().requires_grad_()
        y = model(leaf)
        assert type(y) is torch.Tensor
        taking = [leaf, *model.parameters()]
        results.append([y.detach(), *torch.autograd.grad(y.square().sum(), taking)])
        with torch.no_grad():
            results[-1].append(model(x))
    for got, want in zip(*results, strict=True):
        assert got.shape == want.shape and (got - want).norm() <= 1e-5 * want.norm() + 1e-5


# --------------------------------------------------------------------------------------------------------- activations
def relu_in_place(y):
    return F.relu(y, inplace=True)


FUNCTIONS = {
    "F.relu": (F.relu, "relu"),
    "F.relu in place": (relu_in_place, "relu"),
    "torch.relu": (torch.relu, "relu"),
    "x.relu": (lambda y: y.relu(), "relu"),
    "F.leaky_relu": (lambda y: F.leaky_relu(y, 0.3), "leaky_relu"),
    "torch.tanh": (torch.tanh, "tanh"),
    "x.tanh": (lambda y: y.tanh(), "tanh"),
    "torch.sigmoid": (torch.sigmoid, "sigmoid"),
    "F.silu": (F.silu, "silu"),
    "F.elu": (F.elu, "elu"),
}
LAYERS = {
    "conv2d": lambda: nn.Conv2d(16, 16, 3, padding=1),
    "conv_transpose2d": lambda: nn.ConvTranspose2d(16, 16, 4, 2, 1),
    "batch_norm": lambda: nn.BatchNorm2d(16),
    "group_norm": lambda: nn.GroupNorm(4, 16),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_function_behind_a_layer(name, layer):
    function, activation = FUNCTIONS[name]
    fast, stock, report = pair(Then(LAYERS[layer](), function))
    (change,) = report.replaced
    assert change.name == "layer" and change.layer.endswith(f" + {activation}") and change.took is None
    assert operators(fast, X) == {(layer, activation): 1}
    assert_alike(fast, stock)
    assert sd.restore(fast) == ["layer"] and type(fast) is Then and type(fast.layer) is type(stock.layer)


OTHERS = {
    "gelu": F.gelu,
    "elu of another alpha": lambda y: F.elu(y, 0.5),
    "leaky_relu that turns back": lambda y: F.leaky_relu(y, -0.1),
    "relu6": F.relu6,
    "used twice": lambda y: F.relu(y) + y,
    "a shape": lambda y: F.relu(y) * y.shape[1],
}


@pytest.mark.parametrize("name", OTHERS)
def test_no_other_function(name):
    fast, stock, _ = pair(Then(nn.Conv2d(16, 16, 3), OTHERS[name]))
    assert operators(fast, X) == {("conv2d", None): 1}
    assert_alike(fast, stock)


class WithLora(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.lora = base, nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return self.base(x) + self.lora(x)


def hooked(model):
    model.layer.register_forward_hook(lambda module, args, output: output - 1)


def wrapped(model):
    model.layer = WithLora(model.layer)


def parametrised(model):
    nn.utils.parametrizations.weight_norm(model.layer)


def replaced(model):
    model.layer = nn.Conv2d(16, 16, 1)


def patched(model):
    model.forward = lambda x: model.layer(x)


def other_forward(model):
    model.__class__ = type("Other", (type(model),), {"forward": lambda self, x: self.layer(x) - 1})


SURGERY = [hooked, wrapped, parametrised, replaced, patched, other_forward]


@pytest.mark.parametrize("surgery", SURGERY, ids=lambda surgery: surgery.__name__)
@pytest.mark.parametrize("undo", [None, sd.restore, sd.accelerate], ids=["", "restored", "accelerated again"])
def test_surgery(surgery, undo):
    fast, stock, _ = pair(Then(nn.Conv2d(16, 16, 3, padding=1), F.silu))
    for model in (fast, stock):
        torch.manual_seed(1)
        surgery(model)
    if undo:
        undo(fast)
    assert_alike(fast, stock)


@pytest.mark.parametrize(
    "instead", [lambda y: y, F.gelu, torch.tanh, lambda y: y.mean(), lambda y: torch.cat([y, y])], ids=range(5)
)
def test_what_cannot_be_seen_is_an_error(instead):
    fast, stock, _ = pair(Then(nn.Conv2d(16, 16, 3), F.silu))
    fast.options["instead"] = stock.options["instead"] = instead
    with pytest.raises(RuntimeError, match="the output of layer did not go into the function silu, as it did when"):
        fast(X)
    sd.restore(fast)
    assert torch.equal(fast(X), stock(X))


def test_an_interrupted_call_leaves_nothing():
    def interrupt(y):
        raise KeyboardInterrupt

    fast, stock, _ = pair(Then(nn.Conv2d(16, 16, 3), F.silu))
    fast.options["instead"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        fast(X)
    fast.options.clear()
    assert_alike(fast, stock)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies(copied):
    fast, stock, _ = pair(nn.Sequential(Then(nn.Conv2d(16, 16, 3), F.silu), Upsample()))
    other = copied(fast)
    assert operators(other, X) == operators(fast, X) == {("conv2d", "silu"): 1, ("conv_transpose2d", None): 1}
    assert_alike(other, stock)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recorded", ["fx", "trace", "export", "compile"])
def test_recorded(recorded):
    fast, stock, _ = pair(nn.Sequential(Then(nn.Conv2d(16, 16, 3), F.silu), Upsample()))
    torch.compiler.reset()
    record = {
        "fx": torch.fx.symbolic_trace,
        "trace": lambda model: torch.jit.trace(model, X),
        "export": lambda model: torch.export.export(model, (X,)).module(),
        "compile": functools.partial(torch.compile, fullgraph=True, backend="aot_eager"),
    }
    model = record[recorded](fast)
    if recorded == "export":
        assert "sdgan_ext" not in str(model.graph)
    torch.testing.assert_close(model(X), stock(X), rtol=1e-4, atol=1e-5)


def test_transforms_and_checkpoints():
    fast, stock, _ = pair(nn.Sequential(Then(nn.Conv2d(16, 16, 3), F.elu), Upsample()))
    for derivative in (lambda m: torch.func.grad(lambda x: m(x).sum())(X), lambda m: torch.func.vmap(m)(X[None])[0]):
        torch.testing.assert_close(derivative(fast), derivative(stock), rtol=1e-4, atol=1e-5)
    x = X.clone().requires_grad_()
    torch.testing.assert_close(*(checkpoint(m, x, use_reentrant=False) for m in (fast, stock)), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- upsampling
def twofold(x):
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Upsample(nn.Module):
    """As it is written in most of the repositories that have one."""

    def __init__(self, conv=None, upsample=twofold, with_conv=True):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(16, 16, 3, padding=1) if conv is None else conv
        self.upsample, self.with_conv = upsample, with_conv

    def forward(self, x):
        x = self.upsample(x)
        if self.with_conv:
            x = self.conv(x)
        return x


class Twice(Upsample):
    def forward(self, x):
        return self.conv(self.upsample(x)) + self.upsample(x)


FUSED = {
    "interpolate": Upsample,
    "an integer": lambda: Upsample(upsample=lambda x: F.interpolate(x, scale_factor=2)),
    "a pair": lambda: Upsample(upsample=lambda x: F.interpolate(x, None, (2, 2))),
    "nn.Upsample": lambda: Upsample(upsample=nn.Upsample(scale_factor=2)),
    "nn.UpsamplingNearest2d": lambda: Upsample(upsample=nn.UpsamplingNearest2d(scale_factor=2)),
    "same": lambda: Upsample(nn.Conv2d(16, 16, 3, padding="same")),
    "5x5, no bias": lambda: Upsample(nn.Conv2d(16, 16, 5, padding=2, bias=False)),
    "within a model": lambda: nn.Sequential(Upsample(), nn.ReLU()),
}
LEFT = {
    "bilinear": lambda: Upsample(upsample=lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "to a size": lambda: Upsample(upsample=lambda x: F.interpolate(x, size=(64, 64))),
    "by 3": lambda: Upsample(upsample=lambda x: F.interpolate(x, scale_factor=3)),
    "strided": lambda: Upsample(nn.Conv2d(16, 16, 3, 2, 1)),
    "reflected": lambda: Upsample(nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")),
    "used twice": Twice,
}


@pytest.mark.parametrize("name", [*FUSED, *LEFT])
def test_upsampling_before_a_convolution(name):
    fast, stock, report = pair({**FUSED, **LEFT}[name]())
    ran = operators(fast, X)
    assert ("conv_transpose2d" in {op for op, _ in ran}) == (name in FUSED)
    words = "Upsample: nearest upsampling + convolution"
    assert [change.layer for change in report.replaced].count(words) == (name in FUSED)
    assert_alike(fast, stock)
    assert_alike(fast, stock, X.contiguous(memory_format=torch.channels_last))
    sd.restore(fast)
    assert [type(a) for a in fast.modules()] == [type(b) for b in stock.modules()]
    assert [vars(a).keys() for a in fast.modules()] == [vars(b).keys() for b in stock.modules()]


def no_convolution(model):
    model.with_conv = False


def with_lora(model):
    model.conv = WithLora(model.conv)


def conv_hooked(model):
    model.conv.register_forward_pre_hook(lambda module, args: args[0] - args[0].shape[-1])


def conv_norm(model):
    nn.utils.parametrizations.spectral_norm(model.conv)


def conv_wide(model):
    model.conv = nn.Conv2d(16, 16, 3, padding=3)


def other_upsampling(model):
    model.upsample = lambda x: F.interpolate(x, scale_factor=2, mode="bicubic") + x.mean()


@pytest.mark.parametrize(
    "surgery",
    [no_convolution, with_lora, conv_hooked, conv_norm, conv_wide, other_upsampling],
    ids=lambda surgery: surgery.__name__,
)
def test_surgery_on_an_upsampling(surgery):
    fast, stock, _ = pair(nn.Sequential(Upsample(), nn.Conv2d(16, 16, 1)))
    for model in (fast, stock):
        torch.manual_seed(1)
        surgery(model[0])
    with torch.no_grad():
        got, want = fast(X), stock(X)
    assert type(fast[0](X)) is torch.Tensor
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def written_to(x):
    y = twofold(x)
    y.mul_(2)
    return y


def without_a_graph(x):
    with torch.no_grad():
        return twofold(x)


@pytest.mark.parametrize("upsample", [written_to, without_a_graph])
def test_an_upsampling_that_was_another_when_it_was_proved(upsample):
    fast, stock, _ = pair(nn.Sequential(nn.Conv2d(16, 16, 1), Upsample()))
    assert ("conv_transpose2d", None) in operators(fast, X)
    results = []
    for model in (fast, stock):
        model[1].upsample = upsample
        x = X.clone().requires_grad_()
        y = model(x)
        y.sum().backward()
        results.append((y.detach(), x.grad, model[1].conv.weight.grad))
    (got, of_x, of_weight), (want, of_x_stock, of_weight_stock) = results
    torch.testing.assert_close((got, of_weight), (want, of_weight_stock), rtol=1e-4, atol=1e-3)
    if of_x_stock is None:
        assert of_x is None
    else:
        torch.testing.assert_close(of_x, of_x_stock, rtol=1e-4, atol=1e-4)


def test_an_argument_that_changes_after_its_upsampling_is_an_error():
    def spoiled(x):
        y = twofold(x)
        x.mul_(2)
        return y

    fast, _, _ = pair(nn.Sequential(Upsample()))
    fast[0].upsample = spoiled
    with torch.no_grad(), pytest.raises(RuntimeError, match="what was upsampled has been modified by an inplace"):
        fast(X.clone())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("by", ["weights", "autocast"])
def test_half_precision(half, by):
    fast, stock, _ = pair(Upsample())
    x = X
    if by == "weights":
        x, fast, stock = x.to(half), fast.to(half), stock.to(half)
    with torch.no_grad(), torch.autocast("cpu", half, enabled=by == "autocast"):
        got, want = fast(x), stock(x)
    assert got.dtype == want.dtype
    torch.testing.assert_close(got.float(), want.float(), rtol=0.03, atol=0.03)


def test_an_argument_by_keyword_and_a_wrong_one():
    fast, stock, _ = pair(Upsample())
    torch.testing.assert_close(fast(x=X), stock(x=X), rtol=1e-4, atol=1e-5)
    for model in (fast, stock):
        with pytest.raises(RuntimeError, match="expected input"):
            model(X[:, :3])
