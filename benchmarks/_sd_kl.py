"""A small relative of the autoencoder in Stable Diffusion, and its training step, in stock layers and in ours.

Residual blocks of 3x3 convolutions with group norm and SiLU, a KL term, a PatchGAN discriminator with the hinge loss
(Rombach et al. 2022; Isola et al. 2017): widths and image size are those that a CPU takes a step of in a second. Both
sides share every line but the layers' constructors and the loss functions. No perceptual loss: it would be the same
network on both sides.
"""

import torch
import torch.nn.functional as F
from torch import nn

import sdgan_ext.nn as fused
from sdgan_ext import ops

WIDTHS, LATENT_CHANNELS, IMAGE_SIZE = (32, 64, 128), 4, 64
KL_WEIGHT, GAN_WEIGHT = 1e-6, 0.5


class StockLayers:
    @staticmethod
    def conv(into, out, kernel=3, stride=1, padding=1, *, activation=None, bias=True):
        layers = []
        if isinstance(padding, tuple):
            top, bottom, left, right = padding
            layers, padding = [nn.ZeroPad2d((left, right, top, bottom))], 0
        layers.append(nn.Conv2d(into, out, kernel, stride, padding, bias=bias))
        return nn.Sequential(*layers, *([nn.LeakyReLU(0.2)] if activation else []))

    @staticmethod
    def batch_norm(channels):
        return nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU(0.2))

    @staticmethod
    def sample(mean, logvar):
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        return z, 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / len(mean)

    @staticmethod
    def reconstruction(x_hat, x):
        return F.l1_loss(x_hat, x, reduction="sum") / len(x)

    @staticmethod
    def discriminator_loss(real, fake):
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    @staticmethod
    def generator_loss(fake):
        return -fake.mean()


class OurLayers:
    @staticmethod
    def conv(into, out, kernel=3, stride=1, padding=1, *, activation=None, bias=True):
        return fused.Conv2d(into, out, kernel, stride, padding, bias=bias, activation=activation)

    @staticmethod
    def batch_norm(channels):
        return fused.BatchNorm2d(channels, activation="leaky_relu")

    sample = staticmethod(ops.sample_gaussian)
    reconstruction = staticmethod(lambda x_hat, x: ops.reconstruction_loss(x_hat, x, "l1"))
    discriminator_loss = staticmethod(lambda real, fake: ops.discriminator_loss(real, fake, "hinge"))
    generator_loss = staticmethod(lambda fake: ops.generator_loss(fake, objective="hinge"))


class Residual(nn.Module):
    def __init__(self, layers, into, out):
        super().__init__()
        self.block = nn.Sequential(
            nn.GroupNorm(8, into), nn.SiLU(), layers.conv(into, out),
            nn.GroupNorm(8, out), nn.SiLU(), layers.conv(out, out),
        )  # fmt: skip
        self.skip = nn.Identity() if into == out else layers.conv(into, out, 1, padding=0)

    def forward(self, x):
        return self.skip(x) + self.block(x)


def encoder(layers):
    blocks, into = [layers.conv(3, WIDTHS[0])], WIDTHS[0]
    for level, width in enumerate(WIDTHS):
        blocks.append(Residual(layers, into, width))
        if level < len(WIDTHS) - 1:
            blocks.append(layers.conv(width, width, stride=2, padding=(0, 1, 0, 1)))
        into = width
    return nn.Sequential(*blocks, nn.GroupNorm(8, into), nn.SiLU(), layers.conv(into, 2 * LATENT_CHANNELS))


def decoder(layers):
    blocks, into = [layers.conv(LATENT_CHANNELS, WIDTHS[-1])], WIDTHS[-1]
    for level, width in enumerate(reversed(WIDTHS)):
        blocks.append(Residual(layers, into, width))
        if level < len(WIDTHS) - 1:
            blocks += [nn.Upsample(scale_factor=2), layers.conv(width, width)]
        into = width
    return nn.Sequential(*blocks, nn.GroupNorm(8, into), nn.SiLU(), layers.conv(into, 3))


def discriminator(layers):
    first, second, third = WIDTHS
    return nn.Sequential(
        layers.conv(3, first, 4, 2, activation="leaky_relu"),
        layers.conv(first, second, 4, 2, bias=False), layers.batch_norm(second),
        layers.conv(second, third, 4, 1, bias=False), layers.batch_norm(third),
        layers.conv(third, 1, 4, 1),
    )  # fmt: skip


class Autoencoder:
    """Three networks, their optimizers and a step; ``wrap`` is applied to each network that is called."""

    def __init__(self, layers, memory_format, fused_adam, wrap=lambda network: network):
        networks = [make(layers).to(memory_format=memory_format) for make in (encoder, decoder, discriminator)]
        self.parameters = [list(network.parameters()) for network in networks]
        self.encoder, self.decoder, self.discriminator = map(wrap, networks)
        encoder_decoder = self.parameters[0] + self.parameters[1]
        self.optimizers = [
            torch.optim.Adam(parameters, 1e-4, (0.5, 0.9), fused=fused_adam)
            for parameters in (encoder_decoder, self.parameters[2])
        ]
        self.layers = layers

    def step(self, x):
        layers = self.layers
        z, kl = layers.sample(*self.encoder(x).chunk(2, 1))
        x_hat = self.decoder(z)

        self._require_gradients(False)
        gan = layers.generator_loss(self.discriminator(x_hat))
        loss = layers.reconstruction(x_hat, x) + KL_WEIGHT * kl + GAN_WEIGHT * gan
        self._update(0, loss)

        self._require_gradients(True)
        real, fake = self.discriminator(x), self.discriminator(x_hat.detach())
        self._update(1, layers.discriminator_loss(real, fake))

    def _require_gradients(self, on):
        for parameter in self.parameters[2]:
            parameter.requires_grad_(on)

    def _update(self, which, loss):
        self.optimizers[which].zero_grad()
        loss.backward()
        self.optimizers[which].step()
