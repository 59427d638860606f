"""A block of diffusers that is hooked, patched, wrapped or rebuilt after ``sd.accelerate`` computes what stock does."""

import copy

import pytest
import torch
from torch import nn

import sdgan_ext as sd

diffusers = pytest.importorskip("diffusers")

from diffusers.models.upsampling import Upsample2D  # noqa: E402
from diffusers_models import SHAPE, blocks, near, pair, randn, resnet  # noqa: E402
from operators_run import operators  # noqa: E402


class WithLora(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.lora = base, nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return self.base(x) + self.lora(x)


def minus_one(module, args, output):
    return output - 1


def patch(part):
    before = part.forward
    part.forward = lambda *args: before(*args) + 1


def doubled(part):
    base = type(part)
    part.__class__ = type("Doubled", (base,), {"forward": lambda self, *args: 2 * base.forward(self, *args)})


def hook(name):
    return lambda model: model.get_submodule(name).register_forward_hook(minus_one)


def edit(name, surgery):
    return lambda model: surgery(model.get_submodule(name))


def put(name, make):
    return lambda model: model.set_submodule(name, make(model.get_submodule(name)))


SURGERY = {
    "a hook on a norm": hook("resnet.norm1"),
    "a hook before a norm": edit(
        "resnet.norm2", lambda m: m.register_forward_pre_hook(lambda module, args: args[0] - 1)
    ),
    "a hook on the activation": hook("resnet.nonlinearity"),
    "a hook on a convolution": hook("resnet.conv1"),
    "a hook on the last convolution": hook("resnet.conv2"),
    "a hook on a block": hook("resnet"),
    "a norm replaced": put("resnet.norm1", lambda norm: nn.InstanceNorm2d(16)),
    "the activation replaced": put("resnet.nonlinearity", lambda act: nn.GELU()),
    "a norm's forward replaced": edit("resnet.norm2", patch),
    "the activation's forward replaced": edit("resnet.nonlinearity", patch),
    "a norm of another class": edit("resnet.norm1", doubled),
    "a convolution with LoRA": put("resnet.conv2", WithLora),
    "a parametrised convolution": edit("resnet.conv1", nn.utils.parametrizations.weight_norm),
    "a parametrised norm": edit("resnet.norm1", lambda m: nn.utils.parametrizations.weight_norm(m, dim=None)),
    "a block's forward replaced": edit("resnet", patch),
    "a block of another class": edit("up", doubled),
    "another scale": edit("resnet", lambda m: setattr(m, "output_scale_factor", 2.0)),
    "another block": put("resnet", lambda m: resnet(out_channels=16, temb_channels=None)),
    "down: a hook": hook("down.conv"),
    "down: with LoRA": put("down.conv", lambda conv: nn.Sequential(conv, nn.Conv2d(16, 16, 1))),
    "down: reflected": put("down.conv", lambda conv: nn.Conv2d(16, 16, 3, 2, padding_mode="reflect")),
    "down: padded": put("down.conv", lambda conv: nn.Conv2d(16, 16, 3, 2, 1)),
    "down: a forward replaced": edit("down.conv", patch),
    "up: a hook": hook("up.conv"),
    "up: with LoRA": put("up.conv", WithLora),
    "up: reflected": put("up.conv", lambda conv: nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")),
    "up: strided": put("up.conv", lambda conv: nn.Conv2d(16, 16, 3, 2, 1)),
    "up: far padding": put("up.conv", lambda conv: nn.Conv2d(16, 16, 3, padding=3)),
    "up: parametrised": edit("up.conv", nn.utils.parametrizations.spectral_norm),
    "up: no convolution": edit("up", lambda m: setattr(m, "use_conv", False)),
    "up: no interpolation": edit("up", lambda m: setattr(m, "interpolate", False)),
    "up: a norm": edit("up", lambda m: setattr(m, "norm", nn.LayerNorm(16))),
    "tiny: a hook": hook("tiny.conv.0"),
    "tiny: a hook on the activation": hook("tiny.conv.1"),
    "tiny: a hook on the convolutions": hook("tiny.conv"),
    "tiny: another activation": put("tiny.conv.1", lambda act: nn.Softsign()),
    "tiny: one more": edit("tiny.conv", lambda m: m.append(nn.Softsign())),
    "tiny: one less": edit("tiny.conv", lambda m: m.pop(3)),
    "tiny: another sum": put("tiny.fuse", lambda act: nn.Tanh()),
    "tiny: a skip": put("tiny.skip", lambda skip: nn.Conv2d(16, 16, 1)),
    "tiny: a hook on the skip": hook("tiny.skip"),
    "last: a hook on the upsampling": hook("last.0"),
    "last: a hook on the convolution": hook("last.1"),
    "last: a hook on the activation": hook("last.2"),
    "last: one between": edit("last", lambda m: m.insert(1, nn.Softsign())),
    "last: no upsampling": edit("last", lambda m: m.pop(0)),
    "last: no convolution": edit("last", lambda m: m.pop(1)),
    "last: other upsampling": put("last.0", lambda up: nn.Upsample(scale_factor=2, mode="bicubic")),
    "last: a grouped convolution": put("last.1", lambda conv: nn.Conv2d(16, 16, 3, padding=1, groups=4)),
    "last: a wide convolution": put("last.1", lambda conv: nn.Conv2d(16, 16, 3, padding=2, dilation=2)),
}


@pytest.mark.parametrize("name", SURGERY)
@pytest.mark.parametrize("undo", [None, sd.restore, sd.accelerate], ids=["", "restored", "accelerated again"])
def test_surgery_on_blocks(name, undo):
    fast, stock, _ = pair(blocks)
    x = randn(*SHAPE)
    for model in (fast, stock):
        torch.manual_seed(1)
        SURGERY[name](model)
    if undo:
        undo(fast)
    with torch.no_grad():
        near(fast(x), stock(x))
        near(copy.deepcopy(fast)(x), stock(x))


def test_what_is_fused_while_nothing_is_changed():
    fast, _, report = pair(blocks)
    assert operators(fast, randn(1, 16, 64, 64)) == {
        ("group_norm", "silu"): 2,
        ("conv2d", None): 4,
        ("conv2d", "relu"): 2,
        ("conv_transpose2d", None): 1,
        ("conv_transpose2d", "relu"): 1,
    }
    adapted = {change.name for change in report.replaced if ": " in change.layer}
    assert adapted == {"resnet", "down", "tiny", "up", "last"}


@pytest.mark.parametrize("part", ["resnet.conv1", "resnet.conv2", "tiny.conv.4"])
def test_an_output_that_somebody_kept_is_not_written_to(part):
    fast, stock, _ = pair(blocks)
    kept = []
    for model in (fast, stock):
        model.get_submodule(part).register_forward_hook(lambda module, args, output: kept.append(output))
        with torch.no_grad():
            model(randn(*SHAPE))
    near(*kept)


def test_a_forward_patched_in_the_class(monkeypatch):
    fast, stock, _ = pair(blocks)
    before = Upsample2D.forward
    monkeypatch.setattr(Upsample2D, "forward", lambda self, x: before(self, x) * 3)
    with torch.no_grad():
        near(fast(randn(*SHAPE)), stock(randn(*SHAPE)))
    left = {left.name: left.reason for left in sd.accelerate(fast).left}
    assert left["up"].startswith("the forward of Upsample2D in diffusers ") and type(fast["up"]) is Upsample2D


def test_a_version_that_is_not_known_is_left_alone():
    class Upsample2D(nn.Module):
        def __init__(self):
            super().__init__()
            self.use_conv, self.interpolate, self.conv = True, True, nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, hidden_states, output_size=None):
            return self.conv(torch.nn.functional.interpolate(hidden_states.sin(), scale_factor=2.0))

    Upsample2D.__module__, Upsample2D.__qualname__ = "diffusers.models.upsampling", "Upsample2D"
    fast, stock, report = pair(lambda: nn.Sequential(Upsample2D()))
    assert type(fast[0]) is Upsample2D
    near(fast(randn(*SHAPE)), stock(randn(*SHAPE)))
    words = f"the forward of Upsample2D in diffusers {diffusers.__version__} is none that this package knows"
    assert {left.name: left.reason for left in report.left} == {"0": words} and words in str(report)


def test_every_hook_of_every_module():
    fast, stock, _ = pair(blocks)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append((module, output)))
    try:
        fast(randn(*SHAPE)), stock(randn(*SHAPE))
    finally:
        handle.remove()
    half = len(seen) // 2
    assert half > 20
    for (got, of_fast), (want, of_stock) in zip(seen[:half], seen[half:], strict=True):
        assert got.__class__.__name__ == want.__class__.__name__
        near(of_fast, of_stock)
