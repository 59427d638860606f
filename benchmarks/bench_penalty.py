"""A critic's training step with a gradient penalty, ours against the same step in stock modules.

WGAN-GP (Gulrajani et al. 2017) on real and generated images that are given, R1 (Mescheder et al. 2018) at the real
ones with the non-saturating loss; then Adam. The penalty's gradient goes through the backward pass of every layer.

    eager                  torch.nn in NCHW, torch.optim.Adam with its defaults
    eager channels_last    with the settings that suit the CPU: channels_last, fused Adam
    sdgan_ext              sdgan_ext.nn with these settings
    sdgan_ext NCHW         sdgan_ext.nn with those of "eager"

"batch norm" has one behind every convolution but the first, which the papers advise against and many do.
"""

import torch
import torch.nn.functional as F
from _harness import entry_points
from torch import nn

import sdgan_ext.nn as sdnn
from sdgan_ext import losses, ops
from sdgan_ext.bench.cases import CHANNELS_LAST, EAGER, NCHW, OURS, Case

NEGATIVE_SLOPE = 0.2


def critic(ours: bool, channels: tuple[int, ...], size: int, kernel: int, norm: bool) -> nn.Sequential:
    """Stride-2 convolutions, images of ``size`` pixels a side to one number."""
    layers = sdnn if ours else nn
    act = {"activation": "leaky_relu", "negative_slope": NEGATIVE_SLOPE} if ours else {}
    blocks: list[nn.Module] = []
    for level, (into, out) in enumerate(zip(channels, channels[1:], strict=False)):
        batch = norm and level > 0
        blocks.append(layers.Conv2d(into, out, kernel, 2, (kernel - 1) // 2, bias=not batch, **({} if batch else act)))
        blocks += [layers.BatchNorm2d(out, **act)] if batch else []
        blocks += [] if ours else [nn.LeakyReLU(NEGATIVE_SLOPE)]
        size = (size + 2 * ((kernel - 1) // 2) - kernel) // 2 + 1
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(channels[-1] * size * size, 1))


class Step:
    def __init__(self, ours, penalty, memory_format, fused, *architecture):
        self.ours, self.penalty = ours, penalty
        torch.manual_seed(0)
        self.critic = critic(ours, *architecture).to(memory_format=memory_format)
        self.adam = torch.optim.Adam(self.critic.parameters(), 1e-4, (0.5, 0.9), fused=fused)

    def __call__(self, x, x_hat):
        self.adam.zero_grad()
        (self.wgan_gp if self.penalty == "WGAN-GP" else self.r1)(x, x_hat).backward()
        self.adam.step()

    def wgan_gp(self, x, x_hat):
        real, fake = self.critic(torch.cat([x, x_hat])).chunk(2)
        loss = ops.discriminator_loss(real, fake, "wasserstein") if self.ours else fake.mean() - real.mean()
        return loss + losses.gradient_penalty(self.critic, x, x_hat, 10.0)

    def r1(self, x, x_hat):
        x = x.detach().requires_grad_()
        real, fake = self.critic(x), self.critic(x_hat)
        loss = ops.discriminator_loss(real, fake) if self.ours else F.softplus(-real).mean() + F.softplus(fake).mean()
        return loss + losses.r1_penalty(real, x, 10.0)


CONTESTANTS = {
    EAGER: (False, torch.contiguous_format, None),
    CHANNELS_LAST: (False, torch.channels_last, True),
    OURS: (True, torch.channels_last, True),
    NCHW: (True, torch.contiguous_format, None),
}


def case(penalty, batch, size, kernel, *channels, norm=False, quick=False):
    def build():
        images = [torch.rand(batch, channels[0], size, size) * 2 - 1 for _ in range(2)]
        return {
            name: (
                Step(ours, penalty, layout, fused, channels, size, kernel, norm),
                tuple(t.contiguous(memory_format=layout) for t in images),
            )
            for name, (ours, layout, fused) in CONTESTANTS.items()
        }

    shape = f"{penalty}, {batch} x {'-'.join(map(str, channels))} {kernel}x{kernel} @{size}{', batch norm' * norm}"
    return Case("penalty", shape, build, tuple(CONTESTANTS), passes=("step",), compiled=None, budget=20.0, quick=quick)


CASES = [
    case("WGAN-GP", 16, 64, 4, 3, 64, 128, 256, 512, quick=True),
    case("R1", 16, 64, 4, 3, 64, 128, 256, 512, quick=True),
    case("WGAN-GP", 64, 28, 5, 1, 64, 128),
    case("R1", 64, 28, 5, 1, 64, 128),
    case("R1", 16, 64, 4, 3, 64, 128, 256, 512, norm=True),
]

test_speed, main = entry_points("bench_penalty", CASES)

if __name__ == "__main__":
    main()
