"""What ``sd.accelerate`` takes, what it leaves and why, what it refuses, and that it leaves no trace."""

import copy
import pickle

import pytest
import torch
from torch import nn

import sdgan_ext as sd
from sdgan_ext import nn as ours
from sdgan_ext._accelerate import measure
from sdgan_ext._accelerate.handshake import link_of


def conv(into=16, out=16, kernel=3, stride=1, padding=1, **options):
    return nn.Conv2d(into, out, kernel, stride, padding, **options)


class Net(nn.Module):
    """``forward`` is the function given, of (self, x)."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def took(report):
    return {change.name: change.took for change in report.replaced}


def reasons(report):
    return {left.name: left.reason for left in report.left}


X = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))


# ----------------------------------------------------------------------------------------- what is taken over
@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.ReLU(), "relu"),
        (nn.ReLU(inplace=True), "relu"),
        (nn.LeakyReLU(0.3, inplace=True), "leaky_relu"),
        (nn.Tanh(), "tanh"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.SiLU(), "silu"),
        (nn.ELU(), "elu"),
    ],
)
def test_every_activation_of_ours(activation, name):
    for layer in (conv(), nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.BatchNorm2d(16)):
        model = nn.Sequential(layer, copy.deepcopy(activation)).eval()
        want = model(X.clone())
        report = sd.accelerate(model)
        assert took(report) == {"0": "1"} and link_of(model[0]) is link_of(model[1]) is not None
        assert report.replaced[0].layer.endswith(f" + {name}")
        torch.testing.assert_close(model(X), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "activation",
    [nn.LeakyReLU(-0.1), nn.GELU(), nn.PReLU(), nn.ELU(alpha=0.5), nn.ReLU6(), nn.Dropout()],
    ids=lambda a: type(a).__name__,
)
def test_no_other_activation(activation):
    model = nn.Sequential(conv(), activation)
    report = sd.accelerate(model)
    assert took(report) == {"0": None} and model[1] is activation and type(activation).__module__.startswith("torch.")


@pytest.mark.parametrize(
    "layer",
    [
        conv(bias=False),
        conv(groups=4),
        conv(dilation=2, padding=2),
        conv(padding="same"),
        conv(padding_mode="reflect"),
        conv(kernel=(3, 1), padding=(1, 0)),
        nn.ConvTranspose2d(16, 8, 5, 3, 2, output_padding=1, groups=2, dilation=2),
        nn.BatchNorm2d(16, momentum=None),
        nn.BatchNorm2d(16, affine=False),
        nn.BatchNorm2d(16, track_running_stats=False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("training", [True, False])
def test_settings_of_the_layers(layer, training):
    stock = nn.Sequential(copy.deepcopy(layer), nn.ReLU()).train(training)
    fast = copy.deepcopy(stock)
    assert took(sd.accelerate(fast)) == {"0": "1"}
    for _ in range(2):
        torch.testing.assert_close(fast(X), stock(X), rtol=1e-4, atol=1e-5)
    for got, want in zip(fast.state_dict().values(), stock.state_dict().values(), strict=True):
        torch.testing.assert_close(got, want)


def test_output_size_goes_on_deciding():
    model = Net(lambda s, x: s.act(s.up(x, output_size=(17, 17))), up=nn.ConvTranspose2d(16, 16, 3, 2), act=nn.Tanh())
    want = model(X)
    assert want.shape[2:] == (17, 17)
    assert took(sd.accelerate(model)) == {"up": "act"}
    torch.testing.assert_close(model(X), want, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------- what is not, and why
def call_twice(s, x):
    return s.act(s.b(s.act(s.a(x))))


def skip(s, x):
    y = s.a(x)
    return s.act(y) + y


def in_training_alone(s, x):
    y = s.a(x)
    return s.act(y) if s.training else y


def keep(s, x):
    s.seen = y = s.a(x)
    return s.act(y)


def collect(s, x):
    s.feats.append(s.a(x))
    return s.act(s.feats[-1])


FLOWS = {
    "an attribute": (keep, "its output is used 2 times"),
    "a list": (collect, "its output is used 2 times"),
    "an activation called twice": (call_twice, "what follows, act, is called 2 times"),
    "an output used twice": (skip, "its output is used 2 times"),
    "another way in evaluation": (in_training_alone, "its output leaves the model"),
    "a function": (lambda s, x: torch.abs(s.a(x)), "what follows is a function, abs, and no module"),
    "the end": (lambda s, x: s.a(x), "its output leaves the model"),
    "no tracing": (lambda s, x: s.act(s.a(x)) if x.sum() > 0 else s.a(x), "is not known: torch.fx cannot trace"),
}


@pytest.mark.parametrize("case", FLOWS)
def test_no_activation_is_taken_over_without_proof(case):
    forward, reason = FLOWS[case]
    stock = Net(forward, a=conv(kernel=1, padding=0), b=conv(kernel=1, padding=0), act=nn.ReLU())
    stock.feats = []
    fast = copy.deepcopy(stock)
    report = sd.accelerate(fast)
    assert not fast.feats and "seen" not in vars(fast)  # tracing leaves nothing
    assert reason in reasons(report)["a"], reasons(report)
    assert type(fast.act) is nn.ReLU
    for training in (True, False):
        assert torch.equal(fast.train(training)(X), stock.train(training)(X))


@pytest.mark.parametrize("where", ["a", "act"])
@pytest.mark.parametrize(
    "hook",
    ["register_forward_hook", "register_full_backward_hook", "register_full_backward_pre_hook"],
)
def test_a_hook_goes_on_seeing_what_it_saw(hook, where):
    model = Net(lambda s, x: s.act(s.a(x)), a=conv(kernel=1, padding=0), act=nn.ReLU())
    seen = []
    getattr(model.get_submodule(where), hook)(lambda module, *args: seen.append(args))
    assert "a hook runs between" in reasons(sd.accelerate(model))["a"]
    model(X.clone().requires_grad_()).sum().backward()
    assert seen and type(model.act) is nn.ReLU


def test_hooks_of_outer_modules_stay():
    model = nn.Sequential(nn.Sequential(conv(), nn.ReLU()), nn.Sequential(conv()), nn.ReLU())
    seen = []
    for block in model[:2]:
        block.register_forward_hook(lambda module, args, output: seen.append(output))
    assert took(sd.accelerate(model)) == {"0.0": "0.1", "1.0": None} and not seen
    model(X)
    assert (seen[0] >= 0).all() and (seen[1] < 0).any()  # the second still sees what is before the ReLU


class OwnForward(nn.Conv2d):
    def forward(self, input):
        return super().forward(input) * 2


def replaced_forward():
    layer = conv()
    layer.forward = lambda input: input
    return layer


UNFIT = {
    "parametrised": (lambda: nn.utils.parametrizations.spectral_norm(conv()), "its weight is parametrised"),
    "subclass": (lambda: OwnForward(16, 16, 3), "a OwnForward is not torch's own layer"),
    "synchronised": (lambda: nn.SyncBatchNorm(16), "a SyncBatchNorm is not torch's own layer"),
    "lazy": (lambda: nn.LazyConv2d(16, 3), "it is lazy and has no weights yet"),
    "double": (lambda: conv().double(), "its weights are float64, where nothing is gained"),
    "half": (lambda: conv().half(), "its weights are float16, where nothing is gained"),
    "replaced forward": (replaced_forward, "its forward was replaced"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_layers_that_stay(case):
    make, reason = UNFIT[case]
    layer = make()
    before = type(layer)
    report = sd.accelerate(nn.Sequential(layer, nn.ReLU()))
    assert reason in reasons(report)["0"] and not report.replaced and type(layer) is before


def test_old_weight_norm_goes_on():
    """A hook of its own makes the weight before each call."""
    with pytest.warns(FutureWarning):
        stock = nn.Sequential(nn.utils.weight_norm(conv()), nn.ReLU())
    with pytest.warns(FutureWarning):
        fast = nn.Sequential(nn.utils.weight_norm(conv()), nn.ReLU())
    fast.load_state_dict(stock.state_dict())
    assert took(sd.accelerate(fast)) == {"0": "1"}
    torch.testing.assert_close(fast(X), stock(X), rtol=1e-4, atol=1e-5)
    assert list(fast.state_dict()) == list(stock.state_dict())


def test_a_layer_at_two_places_keeps_its_activation_apart():
    layer = conv()
    stock = nn.Sequential(layer, nn.ReLU(), layer, nn.Tanh())
    want = stock(X)
    report = sd.accelerate(stock)
    assert took(report) == {"0": None}
    torch.testing.assert_close(stock(X), want, rtol=1e-4, atol=1e-5)


def test_by_rule_what_gains_nothing_stays():
    report = sd.accelerate(nn.Sequential(conv(kernel=1, padding=0), nn.GELU(), conv(groups=2), nn.GELU()))
    assert not report.replaced
    assert "the library's kernel would run as before" in reasons(report)["0"]
    assert "of groups" in reasons(report)["2"]


# ---------------------------------------------------------------------------------------------------- the swap
def test_tensors_stay_the_same_objects_and_the_modules_come_back():
    model = nn.Sequential(conv(), nn.BatchNorm2d(16), nn.LeakyReLU(0.3))
    modules, tensors = list(model), [*model.parameters(), *model.buffers()]
    report = sd.accelerate(model)
    assert all(a is b for a, b in zip([*model.parameters(), *model.buffers()], tensors, strict=True))
    assert isinstance(model[0], ours.Conv2d) and isinstance(model[1], ours.BatchNorm2d)
    assert took(report) == {"0": None, "1": "2"} == took(sd.accelerate(model))  # twice is once
    model.eval().bfloat16()
    model[0].weight = nn.Parameter(torch.ones_like(model[0].weight))
    assert sd.restore(model) == ["0", "1", "2"]
    assert all(a is b for a, b in zip(model, modules, strict=True))
    assert not any(module.training for module in modules) and (modules[0].weight == 1).all()
    assert modules[1].running_mean.dtype == torch.bfloat16


def test_another_model_that_shares_a_module_keeps_what_it_does():
    activation, layer = nn.Tanh(), conv()  # such as a default argument, and a tied encoder
    model, other = nn.Sequential(layer, activation), nn.Sequential(activation, layer, nn.ReLU())
    want = other(X)
    assert took(sd.accelerate(model)) == {"0": "1"}
    torch.testing.assert_close(other(X), want, rtol=1e-4, atol=1e-5)
    assert took(sd.accelerate(other)) == {"1": "2"}
    torch.testing.assert_close(model(X), torch.tanh(layer(X)))


def test_modules_that_plain_attributes_hold_are_left():
    model = Net(lambda s, x: s.stages[1](s.stages[0](x)), a=conv(), b=nn.Tanh())
    model.stages = [model.a, model.b]
    want = model(X)
    report = sd.accelerate(model)
    assert reasons(report) == {"a": "the model holds it a second time, outside of its modules"}
    model.stages = [model.b]
    model._forward = lambda s, x: s.stages[0](s.a(x))
    assert took(sd.accelerate(model)) == {"a": None}
    torch.testing.assert_close(model(X), want, rtol=1e-4, atol=1e-5)


def test_half_of_a_pair_can_be_restored():
    model = nn.Sequential(nn.Sequential(conv()), nn.Tanh())
    want = model(X)
    assert took(sd.accelerate(model)) == {"0.0": "1"}
    assert sd.restore(model[0]) == ["0"] and type(model[0][0]) is nn.Conv2d
    assert torch.equal(model(X), want)
    assert sd.restore(model) == ["1"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_accelerated_and_can_be_restored(copied):
    model = nn.Sequential(conv(), nn.ReLU())
    want = model(X)
    sd.accelerate(model)
    other = copied(model)
    assert torch.equal(other(X), model(X)) and isinstance(other[0], ours.Conv2d)
    assert sd.restore(other) == ["0", "1"] and isinstance(model[0], ours.Conv2d)
    assert torch.equal(other(X), want)


def test_data_parallel_is_accelerated_inside():
    model = nn.DataParallel(nn.Sequential(conv(), nn.ReLU()))
    assert took(sd.accelerate(model)) == {"0": "1"} and isinstance(model.module[0], ours.Conv2d)


# ---------------------------------------------------------------------------------------------- with an example
class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act = conv(kernel=1, padding=0), nn.Tanh()

    def forward(self, x, skip=None):
        return self.act(self.a(x)) if skip is not None else self.a(x)


def test_an_argument_that_is_left_out_counts():
    model = Optional()
    want = model(X)
    assert reasons(sd.accelerate(model)) == {"a": reasons(sd.accelerate(Optional()))["a"]}
    assert torch.equal(model(X), want) and type(model.act) is nn.Tanh


class Noisy(nn.Module):
    """A model of batch statistics, chance and a hand-kept state."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(conv(3, 32), nn.BatchNorm2d(32), nn.ReLU(), nn.Dropout(), conv(32, 3), nn.Tanh())

    def forward(self, x, scale=1.0):
        return {"image": self.net(x) * scale, "count": 1}


@pytest.mark.parametrize("inputs", [(torch.randn(2, 3, 8, 8), 2.0), {"x": torch.randn(2, 3, 8, 8)}])
def test_measuring_leaves_no_trace(inputs):
    model = Noisy()
    model.net[0].weight.grad = torch.ones_like(model.net[0].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grad, state = model.net[0].weight.grad, torch.get_rng_state()
    report = sd.accelerate(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.net[0].weight.grad is grad and (grad == 1).all() and model.net[1].weight.grad is None
    assert model.training
    ratios = [change.speedup for change in report.replaced]
    assert all(ratio.forward > 0 and ratio.training > 0 for ratio in ratios)
    assert len(report.replaced) + len(report.left) == 3


def test_what_is_slower_is_put_back(monkeypatch):
    def slower_for(layer, x):
        ratio = 0.5 if isinstance(plan_layer(layer), nn.BatchNorm2d) else 1.5
        return sd._accelerate.Speedup(ratio, ratio)

    def plan_layer(plan):
        return plan.module

    monkeypatch.setattr(sd._accelerate, "_measure_layer", slower_for)
    monkeypatch.setattr(sd._accelerate, "_measure_model", lambda *_: sd._accelerate.Speedup(1.2, 1.3))
    model = nn.Sequential(conv(), nn.BatchNorm2d(16), nn.ReLU())
    report = sd.accelerate(model, X)
    assert took(report) == {"0": None} and reasons(report) == {"1": "stock was faster when both were measured"}
    assert [type(module) for module in model[1:]] == [nn.BatchNorm2d, nn.ReLU]
    assert "1.20x  1.30x" in str(report)


def test_all_is_put_back_when_the_whole_is_slower(monkeypatch):
    monkeypatch.setattr(sd._accelerate, "_measure_layer", lambda *_: sd._accelerate.Speedup(1.5, 1.5))
    monkeypatch.setattr(sd._accelerate, "_measure_model", lambda *_: sd._accelerate.Speedup(0.8, 1.0))
    model = nn.Sequential(conv(), nn.ReLU())
    report = sd.accelerate(model, X)
    assert not report.replaced and "the whole model was slower" in reasons(report)["0"]
    assert type(model[0]) is nn.Conv2d and type(model[1]) is nn.ReLU


def test_all_is_put_back_when_results_differ(monkeypatch):
    monkeypatch.setattr(ours.Conv2d, "_activated", lambda self, x, w, b, *_: torch.ones_like(x) * (w.sum() + b.sum()))
    model = nn.Sequential(conv(), nn.ReLU())
    report = sd.accelerate(model, X)
    assert not report.replaced and "differs from stock's by" in reasons(report)["0"]
    assert type(model[0]) is nn.Conv2d and type(model[1]) is nn.ReLU


def test_a_wrong_example_raises_what_the_model_raises_and_changes_nothing():
    model = nn.Sequential(conv(), nn.ReLU())
    with pytest.raises(RuntimeError, match="expected input"):
        sd.accelerate(model, torch.randn(2, 3, 8, 8))
    with pytest.raises(TypeError, match="example_inputs is a int; it must be a tensor, a tuple"):
        sd.accelerate(model, 3)
    assert type(model[0]) is nn.Conv2d


def test_a_nan_is_a_difference():
    assert measure.difference([torch.tensor([torch.nan])], [torch.ones(1)])
    assert measure.difference([torch.ones(1)], [torch.ones(1)]) is None


# ---------------------------------------------------------------------------------------------------- bad input
def test_no_convolution_is_no_error():
    report = sd.accelerate(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    assert str(report) == "nothing was replaced: the model has no convolution and no batch or group norm"


def test_a_lone_convolution():
    layer = conv()
    want = layer(X)
    assert took(sd.accelerate(layer)) == {"": None} and isinstance(layer, ours.Conv2d)
    torch.testing.assert_close(layer(X), want, rtol=1e-4, atol=1e-5)
    assert sd.restore(layer) == [""] and type(layer) is nn.Conv2d


def test_refusals_say_what_to_do():
    model = nn.Sequential(conv(), nn.ReLU())
    refused = {
        "compiled": (torch.compile(model), "model was compiled by torch.compile"),
        "inside": (nn.Sequential(torch.compile(model)), "accelerate the module it was made from, then compile that"),
        "traced": (torch.jit.freeze(torch.jit.trace(model.eval(), X)), "TorchScript module, whose code is frozen"),
        "meta": (copy.deepcopy(model).to("meta"), "weights on the meta device, which hold nothing"),
    }
    for bad, words in refused.values():
        with pytest.raises(ValueError, match=words):
            sd.accelerate(bad)
    with pytest.raises(TypeError, match="model is a function; it must be a torch.nn.Module"):
        sd.accelerate(torch.relu.__class__ and call_twice)
    with pytest.raises(TypeError, match="model is a int"):
        sd.restore(1)
    assert type(model[0]) is nn.Conv2d
