"""``sd.accelerate`` on models of diffusers: the same results and gradients, and what was fused was fused."""

import copy
import pickle

import pytest
import torch
from torch import nn

import sdgan_ext as sd
from sdgan_ext._accelerate import adapters
from sdgan_ext.ops.conv2d import conv2d_of_layer

diffusers = pytest.importorskip("diffusers")

from diffusers.models.attention_processor import Attention  # noqa: E402
from diffusers.models.downsampling import Downsample2D  # noqa: E402
from diffusers.models.resnet import ResnetBlock2D  # noqa: E402
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock  # noqa: E402
from diffusers.models.upsampling import Upsample2D  # noqa: E402
from diffusers_models import (  # noqa: E402
    MODELS,
    SHAPE,
    autoencoder,
    blocks,
    call_autoencoder,
    call_conditional,
    conditional_u_net,
    gradients,
    near,
    pair,
    randn,
    resnet,
)
from operators_run import operators  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
every_model = pytest.mark.parametrize("name", MODELS)


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


@pytest.mark.parametrize(
    ("name", "residuals"), [("autoencoder-kl", 10), ("autoencoder-tiny", 4), ("u-net", 8)], ids=lambda value: str(value)
)
def test_residuals_are_added_inside_the_convolution(name, residuals, monkeypatch):
    make, call, shape, _ = MODELS[name]
    fast, stock, _ = pair(make)
    x, seen = randn(*shape), []

    def watch(*args, residual):
        seen.append(residual.shape)
        return conv2d_of_layer(*args, residual=residual)

    monkeypatch.setattr(adapters, "conv2d_of_layer", watch)
    near(call(fast, x), call(stock, x))
    assert len(seen) == residuals


# -------------------------------------------------------------------------------------------------------------- blocks
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
    monkeypatch.setattr(adapters, "_added", lambda conv, x, residual, activation=None: conv(x) - residual)
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
