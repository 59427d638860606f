"""One VAE-GAN training step of a preset, ours against the same step in stock modules.

The stock side is what a careful user writes: the same layers from torch.nn, the losses from torch.nn.functional, the
phases of docs/training.md with each network's gradients asked for by name. Both sides leave out the averaged weights
and the R1 penalty, which is taken every 16th step. One difference: stock convolutions have no asymmetric padding, so
where ours pads and crops (1, 2) the stock layers pad and crop 2 with output_padding=1, as much work and no copy.

    eager                  NCHW, torch.optim.Adam with its defaults, D frozen in phase E+G
    eager, D not frozen    the same, with plain backward(): D's weight gradients are computed, not used
    eager channels_last    as "eager", with the settings that suit the CPU: channels_last, fused Adam
    compile                the latter with its networks compiled; the step between them is not
    sdgan_ext              training.train_step with default settings

"sd-kl-like" is no preset but the model of _sd_kl.py. In bfloat16 all are under autocast.
"""

import itertools

import torch
import torch.nn.functional as F
from _harness import entry_points
from _sd_kl import IMAGE_SIZE, Autoencoder, OurLayers, StockLayers
from torch import nn

import sdgan_ext.training.steps as steps
from sdgan_ext.bench.cases import CHANNELS_LAST, EAGER, OURS, Case
from sdgan_ext.models.geometry import level_sizes, margins
from sdgan_ext.models.vae_gan import VAEGAN
from sdgan_ext.presets import preset
from sdgan_ext.training.optimizers import make_optimizers

ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.2)}


# ---------------------------------------------------------------------------------------------- stock networks
def stock_margins(large, small, kernel):
    """padding and output_padding, (height, width) each, between two levels."""
    top, bottom, left, right = margins(large, small, kernel)
    return (max(top, bottom), max(left, right)), (abs(top - bottom), abs(left - right))


class DownBlocks(nn.ModuleList):
    """The activations after each stride-2 convolution."""

    def __init__(self, config, widths, norm, activation):
        sizes = level_sizes(config.image_size, len(widths))
        self.features = widths[-1] * sizes[-1][0] * sizes[-1][1]
        blocks = []
        for level, (into, out) in enumerate(zip((config.channels, *widths), widths, strict=False)):
            padding, _ = stock_margins(sizes[level], sizes[level + 1], config.kernel_size)
            batch = norm == "batch" and level > 0
            conv = nn.Conv2d(into, out, config.kernel_size, 2, padding, bias=not batch)
            norms = [nn.BatchNorm2d(out)] if batch else []
            blocks.append(nn.Sequential(conv, *norms, ACTIVATIONS[activation]()))
        super().__init__(blocks)

    def forward(self, x):
        return list(itertools.accumulate(self, lambda x, block: block(x), initial=x))[1:]


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.down_blocks = DownBlocks(config, config.encoder_channels, config.encoder_norm, config.encoder_activation)
        self.mean = nn.Linear(self.down_blocks.features, config.latent_dim)
        self.logvar = nn.Linear(self.down_blocks.features, config.latent_dim)

    def forward(self, x):
        h = self.down_blocks(x)[-1].flatten(1)
        return self.mean(h), self.logvar(h)


class Discriminator(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.down_blocks = DownBlocks(
            config, config.discriminator_channels, config.discriminator_norm, config.discriminator_activation
        )
        self.logit = nn.Linear(self.down_blocks.features, 1)

    def forward(self, x):
        features = self.down_blocks(x)
        return self.logit(features[-1].flatten(1)), features


def generator(config):
    sizes = level_sizes(config.image_size, config.generator_levels)[::-1]
    first, *widths = config.generator_channels
    widths += [config.channels] if config.generator_head == "transposed" else []
    batch = config.generator_norm == "batch"

    def block(channels):
        return [*([nn.BatchNorm2d(channels)] if batch else []), ACTIVATIONS[config.generator_activation]()]

    layers = [nn.Linear(config.latent_dim, first * sizes[0][0] * sizes[0][1]), nn.Unflatten(1, (first, *sizes[0]))]
    layers += block(first)
    for level, (into, out) in enumerate(zip((first, *widths), widths, strict=False)):
        image = config.generator_head == "transposed" and level == len(widths) - 1
        padding, output_padding = stock_margins(sizes[level + 1], sizes[level], config.kernel_size)
        layers.append(
            nn.ConvTranspose2d(into, out, config.kernel_size, 2, padding, output_padding, bias=image or not batch)
        )
        layers += [nn.Tanh()] if image else block(out)
    if config.generator_head == "conv":
        layers += [nn.Conv2d(widths[-1], config.channels, config.kernel_size, padding="same"), nn.Tanh()]
    return nn.Sequential(*layers)


# -------------------------------------------------------------------------------------------------- stock step
class Stock:
    def __init__(self, config, train, memory_format, fused, freeze):
        self.config, self.train, self.freeze = config, train, freeze
        self.networks = [Encoder(config), generator(config), Discriminator(config)]
        self.memory_format = memory_format
        rates = train.lr_encoder, train.lr_generator, train.lr_discriminator
        self.optimizers = [
            torch.optim.Adam(network.to(memory_format=memory_format).parameters(), rate, train.betas, fused=fused)
            for network, rate in zip(self.networks, rates, strict=True)
        ]

    def step(self, x):
        config, train = self.config, self.train
        E, G, D = self.networks
        step_e, step_g, step_d = (optimizer.step for optimizer in self.optimizers)
        mean, logvar = E(x)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / len(x)
        zp = torch.randn_like(z)
        x_hat, x_p = G(torch.cat([z, zp])).chunk(2) if config.generator_norm == "batch" else (G(z), G(zp))

        fakes = [x_hat.detach(), x_p.detach()]
        if config.discriminator_norm == "batch":
            real, *fake = [D(images)[0] for images in (x, *fakes)]
        else:
            real, *fake = D(torch.cat([x, *fakes]))[0].split(len(x))
        loss_d = F.softplus(-real).mean() + F.softplus(torch.cat(fake)).mean()
        set_gradients(D, torch.autograd.grad(loss_d, list(D.parameters())))
        step_d()

        D.requires_grad_(not self.freeze)
        with torch.no_grad():
            target = D(x)[1][train.feature_layer] if train.feature_weight else None
        logits_hat, features = D(x_hat)
        logits_p, _ = D(x_p)
        rec = train.pixel_weight * 0.5 * F.mse_loss(x_hat, x, reduction="sum") / len(x)
        if train.feature_weight:
            feature = F.mse_loss(features[train.feature_layer], target, reduction="sum") / len(x)
            rec = rec + train.feature_weight * 0.5 * feature
        loss_e = train.kl_weight * kl + rec
        loss_g = train.gamma * rec + F.softplus(-logits_hat).mean() + F.softplus(-logits_p).mean()
        if self.freeze:
            grads_e = torch.autograd.grad(loss_e, list(E.parameters()), retain_graph=True)
            grads_g = torch.autograd.grad(loss_g, list(G.parameters()))
        else:
            grads_e, grads_g = self.backward(loss_e, E, retain_graph=True), self.backward(loss_g, G)
        set_gradients(E, grads_e)
        set_gradients(G, grads_g)
        D.requires_grad_(True)
        step_e()
        step_g()

    def backward(self, loss, network, **options):
        for other in self.networks:
            other.zero_grad()
        loss.backward(**options)
        return [parameter.grad for parameter in network.parameters()]


def set_gradients(network, grads):
    for parameter, grad in zip(network.parameters(), grads, strict=True):
        parameter.grad = grad


# ------------------------------------------------------------------------------------------------------- cases
NOT_FROZEN = "eager, D not frozen"


def under_autocast(step, dtype):
    """``step`` as it is, or in bfloat16 where autocast knows how."""
    if dtype == "float32":
        return step

    def cast(*inputs):
        with torch.autocast("cpu", torch.bfloat16):
            step(*inputs)

    return cast


def preset_case(name, batch, dtype="float32", **options):
    config, train = preset(name)
    train = train.replace(r1_gamma=0.0)

    def stock(x, memory_format, fused, freeze=True, wrap=None):
        contestant = Stock(config, train, memory_format, fused, freeze)
        if wrap:
            contestant.networks = [wrap(network) for network in contestant.networks]
        return under_autocast(contestant.step, dtype), (x.contiguous(memory_format=memory_format),)

    def build():
        x = torch.rand(batch, config.channels, *config.image_size) * 2 - 1
        model = VAEGAN(config)
        optimizers = make_optimizers(model, train)
        ours = lambda: steps.train_step(model, optimizers, x, train, step=0)  # noqa: E731
        return {
            EAGER: stock(x, torch.contiguous_format, None),
            NOT_FROZEN: stock(x, torch.contiguous_format, None, freeze=False),
            CHANNELS_LAST: stock(x, torch.channels_last, True),
            OURS: (under_autocast(ours, dtype), ()),
        }

    def compiled(contestants):
        _, (x,) = contestants[CHANNELS_LAST]
        return stock(x, torch.channels_last, True, wrap=torch.compile)

    return step_case(
        f"{name}, batch {batch}", build, compiled, (EAGER, NOT_FROZEN, CHANNELS_LAST, OURS), dtype, **options
    )


def sd_kl_case(batch, **options):
    def stock(x, memory_format, fused, **how):
        step = Autoencoder(StockLayers, memory_format, fused, **how).step
        return step, (x.contiguous(memory_format=memory_format),)

    def build():
        x = torch.rand(batch, 3, IMAGE_SIZE, IMAGE_SIZE) * 2 - 1
        last = x.contiguous(memory_format=torch.channels_last)
        return {
            EAGER: stock(x, torch.contiguous_format, None),
            CHANNELS_LAST: stock(x, torch.channels_last, True),
            OURS: (Autoencoder(OurLayers, torch.channels_last, True).step, (last,)),
        }

    def compiled(contestants):
        _, (x,) = contestants[CHANNELS_LAST]
        return stock(x, torch.channels_last, True, wrap=torch.compile)

    return step_case(f"sd-kl-like, batch {batch}", build, compiled, (EAGER, CHANNELS_LAST, OURS), **options)


def step_case(shape, build, compiled, names, dtype="float32", **options):
    return Case("train_step", shape, build, names, dtype, ("step",), compiled=compiled, budget=30.0, **options)


CASES = [
    preset_case("seed", 64, quick=True),
    preset_case("dcgan-64", 16),
    sd_kl_case(4, quick=True),
    preset_case("mnist-small", 64),
    preset_case("seed", 64, "bfloat16"),
]

test_speed, main = entry_points("bench_train_step", CASES)

if __name__ == "__main__":
    main()
