"""Models as other people write them, from their papers, small: what ``sd.accelerate`` is tested on."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


# ------------------------------------------------------------------------------ DCGAN (Radford et al. 2016)
def dcgan_generator(z=16, width=16):
    """As the PyTorch tutorial writes it: one Sequential, in-place activations, no biases."""

    def block(into, out, stride, padding):
        return [nn.ConvTranspose2d(into, out, 4, stride, padding, bias=False), nn.BatchNorm2d(out), nn.ReLU(True)]

    return nn.Sequential(
        *block(z, 4 * width, 1, 0),
        *block(4 * width, 2 * width, 2, 1),
        *block(2 * width, width, 2, 1),
        nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


def dcgan_discriminator(width=16):
    return nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(4 * width),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(4 * width, 1, 4, 1, 0, bias=False),
        nn.Sigmoid(),
    )


# ----------------------------------------------------------------------------- pix2pix (Isola et al. 2017)
class UNetLevel(nn.Module):
    """Down, what lies below, up, and the input beside it; activations come before the convolutions."""

    def __init__(self, outer, inner, below=None, outermost=False):
        super().__init__()
        self.outermost = outermost
        down = nn.Conv2d(outer, inner, 4, 2, 1, bias=below is None)
        up = nn.ConvTranspose2d(inner if below is None else 2 * inner, 3 if outermost else outer, 4, 2, 1)
        if outermost:
            parts = [down, below, nn.ReLU(True), up, nn.Tanh()]
        elif below is None:
            parts = [nn.LeakyReLU(0.2), down, nn.ReLU(True), up, nn.BatchNorm2d(outer)]
        else:
            parts = [nn.LeakyReLU(0.2), down, nn.BatchNorm2d(inner), below, nn.ReLU(True), up, nn.BatchNorm2d(outer)]
        self.model = nn.Sequential(*parts)

    def forward(self, x):
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


def pix2pix_generator(width=16):
    level = UNetLevel(2 * width, 2 * width)
    level = UNetLevel(width, 2 * width, level)
    return UNetLevel(3, width, level, outermost=True)


def patch_discriminator(width=16, channels=3):
    """PatchGAN: a logit for each overlapping patch."""
    layers = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for into, out, stride in ((width, 2 * width, 2), (2 * width, 4 * width, 1)):
        layers += [nn.Conv2d(into, out, 4, stride, 1, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 4, 1, 1))


# ---------------------------------------------------------------------------- CycleGAN (Zhu et al. 2017)
class ResnetBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width), nn.ReLU(True),
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width),
        )  # fmt: skip

    def forward(self, x):
        return x + self.conv_block(x)


def cyclegan_generator(width=16, blocks=2):
    return nn.Sequential(
        nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width), nn.ReLU(True),
        nn.Conv2d(width, 2 * width, 3, 2, 1), nn.InstanceNorm2d(2 * width), nn.ReLU(True),
        *(ResnetBlock(2 * width) for _ in range(blocks)),
        nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1), nn.InstanceNorm2d(width), nn.ReLU(True),
        nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh(),
    )  # fmt: skip


# ------------------------------------------------------- the decoder of latent diffusion (Rombach et al. 2022)
class ResidualBlock(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, into), nn.Conv2d(into, out, 3, padding=1)
        self.norm2, self.dropout, self.conv2 = nn.GroupNorm(8, out), nn.Dropout(0.0), nn.Conv2d(out, out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(into, out, 1) if into != out else None

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class Upsample(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class AutoencoderDecoder(nn.Module):
    def __init__(self, z=4, width=16):
        super().__init__()
        self.conv_in = nn.Conv2d(z, 2 * width, 3, padding=1)
        self.mid = ResidualBlock(2 * width, 2 * width)
        self.up = nn.ModuleList([ResidualBlock(2 * width, width), Upsample(width), ResidualBlock(width, width)])
        self.norm_out, self.conv_out = nn.GroupNorm(8, width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z):
        h = self.mid(self.conv_in(z))
        for layer in self.up:
            h = layer(h)
        return self.conv_out(F.silu(self.norm_out(h)))


# --------------------------------------------------------------------------- WGAN-GP (Gulrajani et al. 2017)
class Critic(nn.Module):
    """Layer norm in place of batch norm, which a gradient penalty forbids."""

    def __init__(self, width=16, size=16):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 5, 2, 2), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 5, 2, 2), nn.LayerNorm([2 * width, size // 4, size // 4]), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 5, 2, 2), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.score = nn.Linear(4 * width * (size // 8) ** 2, 1)

    def forward(self, x):
        return self.score(self.net(x).flatten(1))


# --------------------------------------------------------------------- U-Net (Ronneberger et al. 2015)
class DoubleConv(nn.Sequential):
    def __init__(self, into, out):
        super().__init__(
            nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
        )  # fmt: skip


class SegmentationUNet(nn.Module):
    def __init__(self, width=16, classes=2):
        super().__init__()
        self.inc, self.down1 = DoubleConv(3, width), DoubleConv(width, 2 * width)
        self.bottom = DoubleConv(2 * width, 4 * width)
        self.up1, self.conv1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), DoubleConv(4 * width, 2 * width)
        self.up2, self.conv2 = nn.ConvTranspose2d(2 * width, width, 2, 2), DoubleConv(2 * width, width)
        self.outc = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        a = self.inc(x)
        b = self.down1(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        y = self.conv1(torch.cat([b, self.up1(c)], 1))
        return self.outc(self.conv2(torch.cat([a, self.up2(y)], 1)))


@dataclass(frozen=True)
class Foreign:
    """A model and what it takes: at the size of the tests, and with ``large`` at one worth measuring."""

    small: object
    input: tuple[int, ...]
    large: object
    large_input: tuple[int, ...]
    replaced: int  # layers that become ours, without an example


FOREIGN = {
    "dcgan-generator": Foreign(dcgan_generator, (4, 16, 1, 1), lambda: dcgan_generator(100, 64), (32, 100, 1, 1), 6),
    "dcgan-discriminator": Foreign(
        dcgan_discriminator, (4, 3, 32, 32), lambda: dcgan_discriminator(64), (32, 3, 32, 32), 6
    ),
    "pix2pix-unet": Foreign(pix2pix_generator, (2, 3, 16, 16), lambda: pix2pix_generator(64), (4, 3, 128, 128), 9),
    "patchgan": Foreign(patch_discriminator, (2, 3, 32, 32), lambda: patch_discriminator(64), (8, 3, 64, 64), 5),
    "cyclegan-resnet": Foreign(
        cyclegan_generator, (2, 3, 16, 16), lambda: cyclegan_generator(32, 4), (2, 3, 64, 64), 8
    ),
    "sd-decoder": Foreign(AutoencoderDecoder, (2, 4, 8, 8), lambda: AutoencoderDecoder(4, 64), (2, 4, 32, 32), 17),
    "wgan-gp-critic": Foreign(Critic, (4, 3, 16, 16), lambda: Critic(64, 32), (32, 3, 32, 32), 3),
    "unet": Foreign(SegmentationUNet, (2, 3, 16, 16), lambda: SegmentationUNet(32), (4, 3, 64, 64), 21),
}
