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
    return model(x, torch.tensor([3, 700]), randn(2, 5, 16, seed=1)).sample


def call_autoencoder(model, x):
    return model(x).sample


def call_tiny(model, x):
    return model.decoder(model.encoder(x))


# What a call runs: each residual block has two norms, encoder and decoder one before the last convolution. Operators of ours with their activation. Of the U-Nets the last norm stands alone, since their
# forward cannot be traced; the others are attentions'.
MODELS = {
    "autoencoder-kl": (
        autoencoder,
        call_autoencoder,
        (2, 3, 64, 64),
        {("group_norm", "silu"): 22, ("group_norm", None): 2, ("conv_transpose2d", None): 1},
    ),
    "autoencoder-tiny": (
        tiny_autoencoder,
        call_tiny,
        (2, 3, 64, 64),
        {("conv2d", "relu"): 9, ("conv_transpose2d", None): 1},
    ),
    "u-net": (
        u_net,
        call_u_net,
        (2, 4, 64, 64),
        {("group_norm", "silu"): 16, ("group_norm", None): 5, ("conv_transpose2d", None): 1},
    ),
    "conditional u-net": (
        conditional_u_net,
        call_conditional,
        (2, 4, 64, 64),
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
