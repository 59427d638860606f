"""A model that is taken apart, wrapped, hooked or converted after ``sd.accelerate`` computes what stock would."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import sdgan_ext as sd
from sdgan_ext.ops._enums import ACTIVATIONS

X = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))


def near(got, want, tolerance=1e-5):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def chain():
    """A layer of each kind with an activation behind it; in evaluation, with the statistics of a batch."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(16, 32, 3, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 16, 3),
        nn.LeakyReLU(0.3),
        nn.ConvTranspose2d(16, 16, 4, 2, 1),
        nn.Tanh(),
    )
    model(X)
    return model.eval()


def pair(make=chain):
    """The same model, accelerated and stock."""
    stock = make()
    fast = copy.deepcopy(stock)
    assert sd.accelerate(fast).replaced
    return fast, stock


def fused(model, *inputs):
    """The activations that our operators compute in a call, in order."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "sdgan_ext":
                seen.append({code: name for name, code in ACTIVATIONS.items()}[args[-2]])
            return func(*args, **(kwargs or {}))

    seen = []
    with torch.no_grad(), Watch():
        model(*inputs)
    return seen


def test_what_it_fuses_while_nothing_is_changed():
    fast, _ = pair()
    assert fused(fast, X) == [None, "relu", "leaky_relu", "tanh"]


# ------------------------------------------------------------------------------------------------------- surgery
class WithLora(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.lora = base, nn.Conv2d(32, 16, 3)

    def forward(self, x):
        return self.base(x) + self.lora(x)


def fuse_norm(model):
    model[0], model[1] = fuse_conv_bn_eval(model[0], model[1]), nn.Identity()


def replace(index, make):
    def surgery(model):
        model[index] = make(model[index])

    return surgery


def convert(kind, make):
    """As the converters of many libraries do it: by the class of each child."""

    def surgery(model):
        for name, module in list(model.named_children()):
            if isinstance(module, kind):
                setattr(model, name, make(module))

    return surgery


def patch_forward(model):
    before = model[3].forward
    model[3].forward = lambda x: before(x) + 1


def patch_activation(model):
    model[4].forward = torch.abs


def other_class(model):
    base = type(model[3])
    model[3].__class__ = type("Doubled", (base,), {"forward": lambda self, x: 2 * base.forward(self, x)})


def set_negative_slope(model):
    model[4].negative_slope = 0.7


def set_negative_slope_below_0(model):
    model[4].negative_slope = -0.7


SURGERY = {
    "fuse_conv_bn_eval": fuse_norm,
    "an instance norm for the norm": replace(1, lambda norm: nn.InstanceNorm2d(32)),
    "norms converted": convert(nn.BatchNorm2d, lambda norm: nn.GroupNorm(4, norm.num_features)),
    "norms synchronised": lambda model: model.__init__(*nn.SyncBatchNorm.convert_sync_batchnorm(model)),
    "activations converted": convert((nn.ReLU, nn.LeakyReLU), lambda activation: nn.GELU()),
    "convolutions converted": convert(nn.Conv2d, lambda conv: nn.Sequential(conv, nn.Dropout())),
    "a layer wrapped": replace(3, WithLora),
    "an activation wrapped": replace(4, lambda activation: nn.Sequential(nn.Softsign(), activation)),
    "another layer": replace(3, lambda layer: nn.Conv2d(32, 16, 1)),
    "another activation": replace(4, lambda activation: nn.Identity()),
    "one inserted between": lambda model: model.insert(4, nn.Softsign()),
    "one inserted before": lambda model: model.insert(0, nn.Softsign()),
    "an activation removed": lambda model: model.pop(4),
    "a forward replaced": patch_forward,
    "an activation's forward replaced": patch_activation,
    "another class": other_class,
    "another negative_slope": set_negative_slope,
    "a negative_slope below 0": set_negative_slope_below_0,
    "a hook on a layer": lambda model: model[3].register_forward_hook(lambda module, args, output: output - 1),
    "a hook before an activation": lambda model: model[4].register_forward_pre_hook(lambda module, args: args[0] - 1),
    "a hook on an activation": lambda model: model[4].register_forward_hook(lambda module, args, output: args[0]),
    "a spectral norm": lambda model: parametrizations.spectral_norm(model[3]),
    "a weight norm": lambda model: parametrizations.weight_norm(model[5]),
}


@pytest.mark.parametrize("name", SURGERY)
@pytest.mark.parametrize("undo", [None, sd.restore, sd.accelerate], ids=["", "restored", "accelerated again"])
def test_surgery(name, undo):
    fast, stock = pair()
    for model in (fast, stock):
        torch.manual_seed(1)
        SURGERY[name](model)
    if undo:
        undo(fast)
    for model in (fast, copy.deepcopy(fast)):
        near(model.eval()(X), stock.eval()(X))


TAKEN_APART = {
    "a slice": lambda model, k: model[:k],
    "the children": lambda model, k: nn.Sequential(*list(model.children())[:k]),
    "one after the other": lambda model, k: lambda x: [x := layer(x) for layer in list(model)[:k]][-1],
    "a copy of a slice": lambda model, k: copy.deepcopy(model[:k]),
    "features by name": lambda model, k: fx.Interpreter(features(model, k)).run,
}


def features(model, k):
    """As feature extractors on torch.fx do it: the graph up to a node that has a module's name."""
    traced = fx.symbolic_trace(model)
    node = [node for node in traced.graph.nodes if node.op == "call_module"][k - 1]
    traced.graph.erase_node(list(traced.graph.nodes)[-1])
    traced.graph.output(node)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


@pytest.mark.parametrize("name", TAKEN_APART)
@pytest.mark.parametrize("k", range(1, 8))
def test_taken_apart(name, k):
    fast, stock = pair()
    near(TAKEN_APART[name](fast, k)(X), TAKEN_APART[name](stock, k)(X))
    near(fast(X), stock(X))


def test_a_new_model_of_old_parts_can_be_accelerated():
    fast, stock = pair()
    head = nn.Sequential(*list(fast)[:5])
    assert fused(head, X) == [None, None, None]
    took = {change.name: change.took for change in sd.accelerate(head).replaced}
    assert took == {"0": None, "1": "2", "3": "4"} and fused(head, X) == [None, "relu", "leaky_relu"]
    near(head(X), stock[:5](X))
    near(fast(X), stock(X))  # the old one has lost these pairs, and computes the same


class Block(nn.Module):
    """As people write them: a chain over several modules, a method beside forward, and switches."""

    def __init__(self):
        super().__init__()
        self.stem, self.act = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)), nn.ReLU()
        self.head = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Tanh())
        self.raw, self.skips, self.calls = False, "none", 0

    def encode(self, x):
        return self.stem(x)

    def forward(self, x):
        self.calls += 1
        h = self.stem(x)
        if self.raw:
            return h
        y = self.act(h)
        return self.head(y + h if self.skips == "add" else y)


def block():
    torch.manual_seed(0)
    return Block()


def test_a_method_beside_forward():
    fast, stock = pair(block)
    assert fused(fast, X) == ["relu", "tanh"]
    near(fast.encode(X), stock.encode(X))
    assert fused(fast.head, X) == ["tanh"]  # its own forward is proof enough


@pytest.mark.parametrize(("switch", "value"), [("raw", True), ("skips", "add")])
def test_switches_of_the_forward(switch, value):
    fast, stock = pair(block)
    for turned in (value, getattr(stock, switch)):
        for model in (fast, stock):
            setattr(model, switch, turned)
        near(fast(X), stock(X))
    assert fused(fast, X) == ["relu", "tanh"]


class Hidden(nn.Module):
    """A switch where nobody looks."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.options = nn.Conv2d(16, 16, 3), nn.ReLU(), {"raw": False}

    def forward(self, x):
        h = self.conv(x)
        return h if self.options["raw"] else self.act(h)


def test_what_cannot_be_seen_is_not_wrong_in_silence():
    fast, _ = pair(Hidden)
    fast.options["raw"] = True
    with pytest.raises(RuntimeError, match="the output of conv did not go into act, as it did when"):
        fast(X)
    sd.restore(fast)
    assert fast(X).min() < 0


def test_a_hook_around_the_layer_alone():
    fast, stock = pair(block)
    seen = {fast: [], stock: []}
    for model, outputs in seen.items():
        model.stem.register_forward_hook(lambda module, args, output, outputs=outputs: outputs.append(output))
        model(X)
    near(seen[fast], seen[stock])


def test_a_hook_on_every_module():
    fast, stock = pair()
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append((module, output)))
    try:
        fast(X), stock(X)
    finally:
        handle.remove()
    assert len(seen) == 16
    for (_, got), (_, want) in zip(seen[:8], seen[8:], strict=True):
        near(got, want)


@pytest.mark.parametrize("where", [3, 4])
def test_backward_hooks_see_what_stocks_see(where):
    seen = []
    for model in pair():
        model[where].register_full_backward_hook(lambda module, grad_input, grad_output: seen.append(grad_output[0]))
        model(X.clone().requires_grad_()).square().sum().backward()
    near(*seen)


def test_an_interrupted_call_leaves_nothing():
    fast, stock = pair()

    def interrupt(module, args):
        raise KeyboardInterrupt

    handle = fast[5].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        fast(X)
    handle.remove()
    near(fast[:4](X), stock[:4](X))
    assert fused(fast, X) == [None, "relu", "leaky_relu", "tanh"]


def test_no_grad_that_begins_between():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(16, 16, 3), nn.ReLU()

        def forward(self, x):
            h = self.conv(x)
            with torch.no_grad():
                return self.act(h)

    fast, _ = pair(Between)
    assert not fast(X).requires_grad


# --------------------------------------------------------------------------------------- parametrisations and restore
@pytest.mark.parametrize("first", ["restore", "remove"])
def test_a_parametrisation_and_accelerate_are_undone_in_either_order(first):
    fast, stock = pair()
    for model in (fast, stock):
        torch.manual_seed(0)
        parametrizations.spectral_norm(model[3])
    near(fast(X), stock(X))
    steps = [lambda: sd.restore(fast), lambda: parametrize.remove_parametrizations(fast[3], "weight")]
    for step in steps if first == "restore" else steps[::-1]:
        step()
        near(fast(X), stock(X))
    assert type(fast[3]) is nn.Conv2d and not fast[3].__dict__.keys() - stock[0].__dict__.keys()


# ------------------------------------------------------------------------------------------ copies, threads, compilers
@pytest.mark.parametrize("make", [chain, block])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_shake_hands_among_themselves(make, copied):
    fast, stock = pair(make)
    other = copied(fast)
    assert fused(other, X) == fused(fast, X) and "relu" in fused(fast, X)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.zero_()
    near(other(X), stock(X))
    sd.restore(fast)
    assert "relu" in fused(other, X)


def test_threads_do_not_see_each_others_calls():
    fast, stock = pair()
    inside, leave = threading.Event(), threading.Event()

    def wait(module, args):
        inside.set()
        leave.wait(30)

    fast[5].register_forward_pre_hook(wait)
    thread = threading.Thread(target=fast, args=(X,))
    thread.start()
    assert inside.wait(30)
    try:
        near(fast[:5](X), stock[:5](X))
        near(fast[3](fast[2](fast[1](fast[0](X)))), stock[:4](X))
    finally:
        leave.set()
        thread.join()


@pytest.mark.parametrize("make", [chain, block])
def test_a_compiled_whole_and_a_compiled_part(make):
    torch.compiler.reset()
    fast, stock = pair(make)
    near(torch.compile(fast, fullgraph=True, backend="aot_eager")(X), stock(X))
    parts = [nn.Sequential(*list(model.children())[:1]) for model in (fast, stock)]
    near(torch.compile(parts[0], fullgraph=True, backend="aot_eager")(X), parts[1](X))


def test_a_graph_break_between():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(16, 16, 3), nn.ReLU()

        def forward(self, x):
            h = self.conv(x)
            torch._dynamo.graph_break()
            return self.act(h)

    torch.compiler.reset()
    fast, stock = pair(lambda: (torch.manual_seed(0), Breaks())[1])
    near(torch.compile(fast, backend="aot_eager")(X), stock(X))


def test_a_call_within_a_call():
    class Twice(nn.Sequential):
        def forward(self, x, depth=0):
            return super().forward(self(x, 1) if depth == 0 else x)

    def twice():
        torch.manual_seed(0)
        return Twice(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())

    fast, stock = pair(twice)
    near(fast(X), stock(X))


# ------------------------------------------------------------------------------------------- what ours do not serve
def test_another_dtype():
    fast, stock = pair()
    near(fast.half()(X.half()), stock.half()(X.half()))
    near(fast.double()(X.double()), stock.double()(X.double()))
    assert fused(fast.float(), X) == [None, "relu", "leaky_relu", "tanh"]


def test_another_device():
    fast, _ = pair()
    assert fast.to("meta")(X.to("meta")).shape == (2, 16, 8, 8)


def test_autocast_to_float16():
    fast, stock = pair()
    with torch.autocast("cpu", torch.float16):
        assert fast(X).dtype == torch.float16
        near(fast(X), stock(X), 1e-2)


# ------------------------------------------------------------------------------------------------------------- exports
def trace(model):
    return torch.jit.trace(model, X)


def export(model):
    return torch.export.export(model, (X,)).module()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("recorded", [fx.symbolic_trace, trace, export])
@pytest.mark.parametrize("make", [chain, block])
def test_recorded(recorded, make):
    fast, stock = pair(make)
    near(recorded(fast)(X), stock(X))


def test_exports_are_of_torchs_operators():
    fast, _ = pair()
    assert "sdgan_ext" not in str(torch.export.export(fast, (X,)).graph)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx(dynamo):
    session = pytest.importorskip("onnxruntime").InferenceSession
    fast, stock = pair()
    file = io.BytesIO()
    if dynamo:
        torch.onnx.export(fast, (X,), dynamo=True).save(file)
    else:
        torch.onnx.export(fast, (X,), file, dynamo=False)
    runner = session(file.getvalue())
    (got,) = runner.run(None, {runner.get_inputs()[0].name: X.numpy()})
    near(torch.from_numpy(got), stock(X).detach(), 1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripting_says_what_to_do():
    fast, _ = pair()
    with pytest.raises(RuntimeError, match=r"the model is accelerated, .* call sdgan_ext.restore\(model\) first"):
        torch.jit.script(fast)
    sd.restore(fast)
    torch.jit.script(fast)


@pytest.mark.filterwarnings("ignore")
def test_quantisation_says_what_to_do():
    quantization = torch.ao.quantization
    fast, stock = pair()

    def quantised(model):
        model = nn.Sequential(quantization.QuantStub(), model, quantization.DeQuantStub()).eval()
        model.qconfig = quantization.default_qconfig
        model = quantization.prepare(model)
        model(X)
        return quantization.convert(model)

    with pytest.raises(RuntimeError, match=r"was quantised, .* call sdgan_ext.restore\(model\) first, then quantise"):
        quantised(copy.deepcopy(fast))(X)
    sd.restore(fast)
    assert torch.equal(quantised(fast)(X), quantised(stock)(X))


# ------------------------------------------------------------------------------------- autograd's saved tensors
def layers():
    return [nn.Conv2d(16, 16, 3), nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.BatchNorm2d(16)]


def gradients(model, change):
    x = X.clone().requires_grad_()
    y = model(x)
    y = change(y)
    first = torch.autograd.grad(y.square().sum(), [x, *model.parameters()], create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, *model.parameters()])
    return [y, *first, *second]


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.3), nn.ELU(), nn.SiLU()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("layer", range(3), ids=[type(layer).__name__ for layer in layers()])
@pytest.mark.parametrize("bias", [True, False])
def test_an_output_may_be_written_to_where_stocks_may(activation, layer, bias):
    def make():
        torch.manual_seed(0)
        stock = layers()[layer]
        if not bias:
            stock.bias = None
        return nn.Sequential(stock, copy.deepcopy(activation))

    fast, stock = pair(make)
    for got, want in zip(*(gradients(model, lambda y: y.mul_(2)) for model in (fast, stock)), strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm()


def test_a_bias_that_changes_as_well_is_named():
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.LeakyReLU())
    sd.accelerate(model)
    y = model(X)
    y.mul_(2)
    with torch.no_grad():
        model[0].bias.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation, and its bias or residual as well"):
        y.sum().backward()


@pytest.mark.parametrize("segments", [1, 2, 3])
@pytest.mark.parametrize("autocast", [False, True])
def test_checkpoints_move_the_statistics_as_stocks(segments, autocast):
    def make():
        torch.manual_seed(0)
        conv = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(3)]
        norm = [nn.BatchNorm2d(16) for _ in range(3)]
        return nn.Sequential(conv[0], norm[0], nn.ReLU(), conv[1], norm[1], nn.LeakyReLU(), conv[2], norm[2])

    fast, stock = pair(make)
    for model in (fast, stock):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = checkpoint_sequential(model, segments, X, use_reentrant=False)
        y.float().square().mean().backward()
    for got, want in zip(fast.buffers(), stock.buffers(), strict=True):
        near(got, want, 1e-2 if autocast else 1e-5)
    assert fast[1].num_batches_tracked == stock[1].num_batches_tracked


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_inside_of_the_forward(reentrant):
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(16, 16, 3), nn.LeakyReLU(0.3)
            self.norm, self.last = nn.BatchNorm2d(16), nn.ELU()

        def part(self, x):
            return self.last(self.norm(self.act(self.conv(x)))).mul_(2)

        def forward(self, x):
            return checkpoint(self.part, x, use_reentrant=reentrant)

    results = []
    for model in pair(lambda: (torch.manual_seed(0), Inside())[1]):
        x = X.clone().requires_grad_()
        y = model(x)
        y.square().mean().backward()
        results.append([y, x.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    for got, want in zip(*results, strict=True):
        near(got, want, 1e-4)


def test_it_still_saves_no_more_than_before():
    """One output, not the output and what is before the activation."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        sd.ops.conv2d(X, torch.randn(16, 16, 3, 3).requires_grad_(), activation="relu")
    assert sum(t.numel() > 0 for t in saved) == 3
