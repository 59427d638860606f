"""Models of diffusers and blocks of theirs, small; how to call them, and what a call should run of ours."""

import copy

import pytest
import torch
from torch import nn

import sdgan_ext as sd

diffusers = pytest.importorskip("diffusers")

from diffusers.models.downsampling import Downsample2D  # noqa: E402
from diffusers.models.resnet import ResnetBlock2D  # noqa: E402
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock  # noqa: E402
from diffusers.models.upsampling import Upsample2D  # noqa: E402


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


def pair(make):
    torch.manual_seed(0)
    stock = make().eval()
    with torch.no_grad():
        for parameter in stock.parameters():  # no scale of 1 and no bias of 0
            parameter.add_(0.05 * torch.randn_like(parameter))
    fast = copy.deepcopy(stock)
    report = sd.accelerate(fast)
    return fast, stock, report


def near(got, want, tolerance=1e-5):
    assert got.shape == want.shape
    # a gradient that cancels, as that of a bias before a norm, is rounding and nothing else
    assert (got - want).norm() <= tolerance * want.norm() + 1e-5, (got - want).norm() / want.norm()


def gradients(call, model, x):
    x = x.clone().requires_grad_()
    y = call(model, x)
    taking = [x, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    return [y.detach(), *torch.autograd.grad(y, taking, randn(*y.shape, seed=2))]


# -------------------------------------------------------------------------------------------------------------- blocks
def resnet(**options):
    return ResnetBlock2D(**{"in_channels": 16, "out_channels": 32, "groups": 4, "temb_channels": 8, **options})


SHAPE = 1, 16, 32, 32


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
