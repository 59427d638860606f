"""``sd.accelerate`` on models of diffusers: the same results and gradients, and what was fused was fused."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import sdgan_ext as sd
from sdgan_ext._accelerate import adapters
from sdgan_ext.ops._enums import ACTIVATIONS

diffusers = pytest.importorskip("diffusers")

from diffusers.models.attention_processor import Attention  # noqa: E402
from diffusers.models.downsampling import Downsample2D  # noqa: E402
from diffusers.models.resnet import ResnetBlock2D  # noqa: E402
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock  # noqa: E402
from diffusers.models.upsampling import Upsample2D  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------------------------------- whole models
def autoencoder(**options):
    """Stable Diffusion's, of two levels."""
    settings = {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [16, 32],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 64,
    }
    return diffusers.AutoencoderKL(**{**settings, **options})


def tiny_autoencoder():
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(16, 16),
        decoder_block_out_channels=(16, 16),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        upsampling_scaling_factor=2,
    )


def u_net():
    return diffusers.UNet2DModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=16,
    )


def conditional_u_net():
    return diffusers.UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=2,
    )


def call_u_net(model, x):
    return model(x, 500).sample


def call_conditional(model, x):
    return model(x, torch.tensor([700]), randn(1, 5, 16, seed=1)).sample


def call_autoencoder(model, x):
    return model(x).sample


def call_tiny(model, x):
    return model.decoder(model.encoder(x))


# What a call runs: operators of ours with their activation. Each residual block has two norms, and there is one before
# the last convolution, which stands alone in the U-Nets, since their forward cannot be traced.
MODELS = {
    "autoencoder-kl": (
        autoencoder,
        call_autoencoder,
        (1, 3, 64, 64),
        {("group_norm", "silu"): 22, ("group_norm", None): 2, ("conv_transpose2d", None): 1},
    ),
    "autoencoder-tiny": (
        tiny_autoencoder,
        call_tiny,
        (1, 3, 64, 64),
        {("conv2d", "relu"): 9, ("conv_transpose2d", None): 1},
    ),
    "u-net": (
        u_net,
        call_u_net,
        (1, 4, 64, 64),
        {("group_norm", "silu"): 16, ("group_norm", None): 5, ("conv_transpose2d", None): 1},
    ),
    "conditional u-net": (
        conditional_u_net,
        call_conditional,
        (1, 4, 64, 64),
        {("group_norm", "silu"): 16, ("group_norm", None): 5, ("conv_transpose2d", None): 1},
    ),
}
every_model = pytest.mark.parametrize("name", MODELS)


def pair(make):
    torch.manual_seed(0)
    stock = make().eval()
    with torch.no_grad():
        for parameter in stock.parameters():  # no scale of 1 and no bias of 0
            parameter.add_(0.05 * torch.randn_like(parameter))
    fast = copy.deepcopy(stock)
    report = sd.accelerate(fast)
    return fast, stock, report


def operators(call, *inputs):
    """What a call runs of ours."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "sdgan_ext":
                seen[func._schema.name.partition("::")[2], names[args[-2]]] += 1
            return func(*args, **(kwargs or {}))

    names = {code: name for name, code in ACTIVATIONS.items()}
    seen = Counter()
    with torch.no_grad(), Watch():
        call(*inputs)
    return seen


def near(got, want, tolerance=1e-5):
    assert got.shape == want.shape
    # a gradient that cancels, as that of a bias before a norm, is rounding and nothing else
    assert (got - want).norm() <= tolerance * want.norm() + 1e-5, (got - want).norm() / want.norm()


def gradients(call, model, x):
    x = x.clone().requires_grad_()
    y = call(model, x)
    taking = [x, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    return [y.detach(), *torch.autograd.grad(y, taking, randn(*y.shape, seed=2))]


@every_model
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def test_outputs_and_gradients(name, training, layout):
    make, call, shape, fused = MODELS[name]
    fast, stock, _ = pair(make)
    x = randn(*shape)
    for model in (fast, stock):
        model.train(training).to(memory_format=layout)
    for got, want in zip(gradients(call, fast, x), gradients(call, stock, x), strict=True):
        near(got, want, 1e-4)
    with torch.no_grad():
        got, want = call(fast, x), call(stock, x)
    near(got, want)
    assert got.is_contiguous(memory_format=layout)
    ran = operators(call, fast, x)
    assert {kind: ran[kind] for kind in fused} == fused
    assert not operators(call, stock, x)


# -------------------------------------------------------------------------------------------------------------- blocks
def resnet(**options):
    return ResnetBlock2D(**{"in_channels": 16, "out_channels": 32, "groups": 4, "temb_channels": 8, **options})


def call_resnet(block, x):
    return block(x, randn(1, 8, seed=1) if block.time_emb_proj is not None else None)


def call(block, x):
    return block(x)


def sized(block, x):
    return block(x, output_size=(66, 66))


SILU_TWICE, UPSAMPLED = {("group_norm", "silu"): 2}, {("conv_transpose2d", None): 1}
BLOCKS = {
    "resnet": (resnet, call_resnet, SILU_TWICE),
    "resnet, no temb": (lambda: resnet(temb_channels=None), call_resnet, SILU_TWICE),
    "resnet, relu": (lambda: resnet(non_linearity="relu"), call_resnet, {("group_norm", "relu"): 2}),
    "resnet, mish": (lambda: resnet(non_linearity="mish"), call_resnet, {("group_norm", "silu"): 0}),
    "resnet, skip_time_act": (lambda: resnet(skip_time_act=True), call_resnet, SILU_TWICE),
    "resnet, scaled": (lambda: resnet(output_scale_factor=1.5, out_channels=16), call_resnet, SILU_TWICE),
    "resnet, dropout": (lambda: resnet(dropout=0.5), call_resnet, SILU_TWICE),
    "resnet, scale_shift": (lambda: resnet(time_embedding_norm="scale_shift"), call_resnet, {}),
    "resnet, up": (lambda: resnet(up=True), call_resnet, {}),
    "resnet, down": (lambda: resnet(down=True), call_resnet, {}),
    "upsample": (lambda: Upsample2D(16, use_conv=True), call, UPSAMPLED),
    "upsample, named": (lambda: Upsample2D(16, use_conv=True, out_channels=32, name="op"), call, UPSAMPLED),
    "upsample, no bias": (lambda: Upsample2D(16, use_conv=True, bias=False), call, UPSAMPLED),
    "upsample, 5x5": (lambda: Upsample2D(16, use_conv=True, kernel_size=5, padding=2), call, UPSAMPLED),
    "upsample, sized": (lambda: Upsample2D(16, use_conv=True), sized, {("conv2d", None): 1}),
    "upsample, alone": (lambda: Upsample2D(16), call, {}),
    "upsample, transposed": (lambda: Upsample2D(16, use_conv_transpose=True), call, UPSAMPLED),
    "upsample, norm": (
        lambda: Upsample2D(16, use_conv=True, norm_type="rms_norm", eps=1e-5, elementwise_affine=True),
        call,
        {("conv2d", None): 1},
    ),
    "downsample": (lambda: Downsample2D(16, use_conv=True, padding=0), call, {("conv2d", None): 1}),
    "downsample, padded": (lambda: Downsample2D(16, use_conv=True, padding=1), call, {("conv2d", None): 1}),
    "downsample, pooled": (lambda: Downsample2D(16), call, {}),
    "tiny": (lambda: AutoencoderTinyBlock(16, 16, "relu"), call, {("conv2d", "relu"): 2}),
    "tiny, wider": (lambda: AutoencoderTinyBlock(16, 32, "swish"), call, {("conv2d", "silu"): 2}),
    "tiny, gelu": (lambda: AutoencoderTinyBlock(16, 16, "gelu"), call, {("conv2d", None): 3}),
    "sequential": (
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(16, 16, 3, padding=1), nn.SiLU()),
        call,
        {("conv_transpose2d", "silu"): 1},
    ),
    "sequential, bilinear": (
        lambda: nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(16, 16, 3, padding=1)),
        call,
        {("conv_transpose2d", None): 0},
    ),
    "sequential, by 3": (
        lambda: nn.Sequential(nn.UpsamplingNearest2d(scale_factor=3), nn.Conv2d(16, 16, 3, padding=1)),
        call,
        {("conv_transpose2d", None): 0},
    ),
    "attention": (
        lambda: Attention(16, heads=1, dim_head=16, bias=True, norm_num_groups=4, residual_connection=True),
        call,
        {("group_norm", None): 1},
    ),
}
SHAPE = 1, 16, 32, 32


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def test_a_block(name, layout):
    make, run, fused = BLOCKS[name]
    fast, stock, _ = pair(lambda: nn.Sequential(make()))
    fast, stock = fast[0], stock[0]
    x = randn(*SHAPE).contiguous(memory_format=layout)
    ran = operators(run, fast, x)
    assert {kind: ran[kind] for kind in fused} == fused
    with torch.no_grad():
        kept = x.clone()
        near(run(fast, x), run(stock, x))
        assert torch.equal(x, kept)
    for model in (fast, stock):
        model.train()
    results = []
    for model in (fast, stock):
        torch.manual_seed(3)  # of a dropout
        results.append(gradients(run, model, x))
    for got, want in zip(*results, strict=True):
        near(got, want, 1e-4)


# ------------------------------------------------------------------------------------------------ surgery on the blocks
def blocks():
    """One after the other; the names of the parts stand in SURGERY."""
    torch.manual_seed(0)
    parts = {
        "resnet": resnet(out_channels=16, temb_channels=None, conv_shortcut=True, use_in_shortcut=True),
        "down": Downsample2D(16, use_conv=True, padding=0),
        "tiny": AutoencoderTinyBlock(16, 16, "relu"),
        "up": Upsample2D(16, use_conv=True),
        "last": nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
    }
    return Blocks(parts)


class Blocks(nn.ModuleDict):
    def forward(self, x):
        x = self["resnet"](x, None)
        for name in ("down", "tiny", "up", "last"):
            x = self[name](x)
        return x


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


# ------------------------------------------------------------------------------------- copies, files, modes, compilers
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("copied", COPIES)
def test_copies_are_accelerated_and_can_be_restored(copied):
    make, run, shape, _ = MODELS["autoencoder-kl"]
    fast, stock, _ = pair(make)
    other = COPIES[copied](fast)
    x = randn(*shape)
    assert operators(run, other, x) == operators(run, fast, x)
    with torch.no_grad():
        assert torch.equal(run(other, x), run(fast, x))
        sd.restore(other)
        assert torch.equal(run(other, x), run(stock, x))


@every_model
def test_restored_it_is_stock(name):
    make, run, shape, _ = MODELS[name]
    fast, stock, report = pair(make)
    assert {change.name for change in report.replaced} <= set(sd.restore(fast)) | {""}
    assert [type(a) for a in fast.modules()] == [type(b) for b in stock.modules()]
    assert [vars(a).keys() for a in fast.modules()] == [vars(b).keys() for b in stock.modules()]
    with torch.no_grad():
        assert torch.equal(run(fast, randn(*shape)), run(stock, randn(*shape)))
    assert sd.restore(fast) == []


def test_saved_and_loaded(tmp_path):
    make, run, shape, _ = MODELS["autoencoder-kl"]
    fast, stock, _ = pair(make)
    fast.save_pretrained(tmp_path)
    loaded = diffusers.AutoencoderKL.from_pretrained(tmp_path).eval()
    x = randn(*shape)
    with torch.no_grad():
        assert torch.equal(run(loaded, x), run(stock, x))
    assert dict(loaded.config).items() >= {k: v for k, v in stock.config.items() if k[0] != "_"}.items()
    fast.load_state_dict(loaded.state_dict())
    assert not operators(run, loaded, x) and operators(run, fast, x)


@pytest.mark.parametrize("mode", ["enable_tiling", "enable_slicing", "enable_gradient_checkpointing"])
def test_modes_of_the_autoencoder(mode):
    fast, stock, _ = pair(lambda: autoencoder(sample_size=32))
    x = randn(2, 3, 64, 64)
    for model in (fast, stock):
        getattr(model, mode)()
        model.train()
    for got, want in zip(*(gradients(call_autoencoder, model, x) for model in (fast, stock)), strict=True):
        near(got, want, 1e-4)
    assert operators(call_autoencoder, fast, x)["group_norm", "silu"] > 0


def test_attention_processors_go_on():
    fast, stock, _ = pair(conditional_u_net)
    x = randn(1, 4, 32, 32)
    for model in (fast, stock):
        model.set_attn_processor(diffusers.models.attention_processor.AttnProcessor())
        model.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    with torch.no_grad():
        near(call_conditional(fast, x), call_conditional(stock, x))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("by", ["weights", "autocast"])
def test_half_precision(half, by):
    fast, stock, _ = pair(blocks)
    x = randn(*SHAPE)
    if by == "weights":
        x, fast, stock = x.to(half), fast.to(half), stock.to(half)
    with torch.no_grad(), torch.autocast("cpu", half, enabled=by == "autocast"):
        got, want = fast(x), stock(x)
    assert got.dtype == want.dtype
    near(got.float(), want.float(), 0.03)


def export(model, x):
    program = torch.export.export(model, (x,))
    assert "sdgan_ext" not in str(program.graph)
    return program.module()


def compiled(model, x):
    torch.compiler.reset()
    return torch.compile(model, fullgraph=True, backend="aot_eager")


def traced(model, x):
    return torch.jit.trace(model, x)


@pytest.mark.parametrize("recorded", [export, compiled, traced])
@pytest.mark.parametrize("make", [blocks, lambda: autoencoder().decoder], ids=["blocks", "decoder"])
@pytest.mark.filterwarnings("ignore")
def test_recorded(recorded, make):
    fast, stock, _ = pair(make)
    x = randn(*SHAPE) if make is blocks else randn(1, 4, 32, 32)
    with torch.no_grad():
        near(recorded(fast, x)(x), stock(x))


def test_scripting_says_what_to_do():
    fast, _, _ = pair(lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(16, 16, 3, padding=1)))
    with pytest.raises(RuntimeError, match=r"call sdgan_ext.restore\(model\) first"):
        torch.jit.script(fast)


def test_the_layout_inside():
    fast, stock, _ = pair(autoencoder)
    seen = []
    for module in fast.decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, args, output: seen.append(output))
    fast.decode(randn(1, 4, 32, 32))
    assert len(seen) > 10
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in seen)
    assert all(a.stride() == b.stride() for a, b in zip(fast.parameters(), stock.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------------ with an example
def test_blocks_are_measured_and_compared():
    fast, stock, _ = pair(autoencoder)
    report = sd.accelerate(fast.decoder, randn(1, 4, 16, 16))
    measured = {c.layer.partition(":")[0] for c in report.replaced if c.speedup.forward and c.speedup.training}
    left = {left.layer.partition(":")[0] for left in report.left}
    assert {"ResnetBlock2D", "Upsample2D"} <= measured | left
    near(fast.decode(randn(1, 4, 16, 16)).sample, stock.decode(randn(1, 4, 16, 16)).sample)


def test_all_is_put_back_when_an_adapter_is_wrong(monkeypatch):
    monkeypatch.setattr(adapters, "_added", lambda conv, x, residual: conv(x) - residual)
    model = blocks().eval()
    report = sd.accelerate(model, randn(*SHAPE))
    assert not report.replaced and "differs from stock's by" in str(report)
    assert type(model["resnet"]) is ResnetBlock2D


# ------------------------------------------------------------------------------------------------ pipelines, bad input
def pipeline():
    """Of parts as small as they can be, random."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    text = transformers.CLIPTextConfig(
        vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    made = diffusers.StableDiffusionPipeline(
        vae=autoencoder(sample_size=64),
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=None,
        unet=conditional_u_net(),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def image(made):
    prompt = {"prompt_embeds": randn(1, 5, 16), "negative_prompt_embeds": randn(1, 5, 16, seed=1)}
    noise = randn(1, 4, 32, 32, seed=2)
    return torch.from_numpy(made(**prompt, latents=noise, num_inference_steps=2, output_type="np").images)


def test_a_pipeline(tmp_path):
    made = pipeline()
    want = image(made)
    report = sd.accelerate(made)
    names = {change.name.partition(".")[0] for change in report.replaced}
    assert names == {"vae", "unet"} and "vae.decoder" in {change.name for change in report.replaced}
    near(image(made), want)
    made.save_pretrained(tmp_path)
    near(image(diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, tokenizer=None)), want)
    changed = sd.restore(made)
    assert "unet" in changed and "vae.decoder.up_blocks.0.resnets.0" in changed
    assert torch.equal(image(made), want)


def offloaded(made):
    hooks = pytest.importorskip("accelerate.hooks")
    hooks.add_hook_to_module(made.vae, hooks.CpuOffload("cpu"))


def offloaded_in_parts(made):
    hooks = pytest.importorskip("accelerate.hooks")
    hooks.add_hook_to_module(made.vae.decoder.conv_in, hooks.AlignDevicesHook("cpu", offload=True))


def offloaded_in_sequence(made):
    hooks = pytest.importorskip("accelerate.hooks")
    hooks.add_hook_to_module(made.vae, hooks.SequentialHook(hooks.ModelHook(), hooks.CpuOffload("cpu")))


BAD = {
    "offloaded": (offloaded, ValueError, "^vae is offloaded by hooks that move its weights"),
    "offloaded in parts": (offloaded_in_parts, ValueError, "^vae is offloaded by hooks that move its weights"),
    "offloaded in sequence": (offloaded_in_sequence, ValueError, "^vae is offloaded by hooks that move its weights"),
    "meta": (lambda made: made.vae.to("meta"), ValueError, "^vae has weights on the meta device, which hold nothing"),
    "compiled": (
        lambda made: setattr(made, "vae", torch.compile(made.vae)),
        ValueError,
        "^vae was compiled by torch.compile",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_pipeline_that_is_refused_is_not_changed(name):
    spoil, kind, words = BAD[name]
    made = pipeline()
    spoil(made)
    with pytest.raises(kind, match=words) as caught:
        sd.accelerate(made)
    assert "\n" not in str(caught.value) and sd.restore(made.unet) == []


def test_a_pipeline_takes_no_example():
    made = pipeline()
    with pytest.raises(TypeError, match="example_inputs is given, but model is a pipeline"):
        sd.accelerate(made, randn(1, 4, 8, 8))
    assert sd.restore(made) == []
