"""R1, R2 and WGAN-GP on the public layers: the penalty's gradients are those of the stock critic."""

import pytest
import torch
from torch import nn

import sdgan_ext.nn as sdnn
from sdgan_ext import losses

from .cases import ACTIVATIONS

STOCK = {
    None: nn.Identity, "relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.2), "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid, "silu": nn.SiLU, "elu": nn.ELU,
}  # fmt: skip


def generator(seed):
    return torch.Generator().manual_seed(seed)


def critics(activation, norm):
    """Convolutions of few and of many channels, transposed too, ours and stock, with the same weights."""

    def build(layers, activated):
        blocks = []
        widths = (3, 16, 24)
        for into, out in zip(widths, widths[1:], strict=False):
            conv = layers.Conv2d(into, out, 4, 2, 1, **({} if norm else activated))
            blocks += [conv, layers.BatchNorm2d(out, **activated)] if norm else [conv]
            blocks += [] if activated else [STOCK[activation]()]
        up = layers.ConvTranspose2d(24, 8, 3, 1, 1, **activated)
        return nn.Sequential(
            *blocks, up, *([] if activated else [STOCK[activation]()]), nn.Flatten(), nn.Linear(128, 1)
        )

    ours, stock = build(sdnn, {"activation": activation} if activation else {}), build(nn, {})
    for mine, theirs in zip(ours.parameters(), stock.parameters(), strict=True):
        theirs.data.copy_(mine.data)
    return ours, stock


PENALTIES = {
    "R1": lambda d, x, x_hat: losses.r1_penalty(d(x), x, 10.0),
    "R2": lambda d, x, x_hat: losses.r1_penalty(d(x_hat), x_hat, 10.0),
    "WGAN-GP": lambda d, x, x_hat: losses.gradient_penalty(d, x, x_hat, 10.0, generator=generator(1)),
}


def penalty_gradients(d, penalty, x, x_hat):
    """Of all parameters; a gradient that is zero by the formula is missing in ours, so that nobody computes with it."""
    value = PENALTIES[penalty](d, x, x_hat)
    grads = torch.autograd.grad(value, list(d.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(d.parameters(), grads, strict=True)]


def images(dtype):
    draws = generator(0)
    return [torch.randn(4, 3, 16, 16, generator=draws).to(dtype).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch_norm"])
def test_penalty_gradients(norm, activation, penalty, layout):
    given = [t.detach().contiguous(memory_format=layout).requires_grad_() for t in images(torch.float64)]
    ours, stock = (
        penalty_gradients(d.to(torch.float64, memory_format=layout), penalty, *given) for d in critics(activation, norm)
    )
    largest = max(1.0, *(g.abs().max().item() for g in stock))
    for mine, theirs in zip(ours, stock, strict=True):
        assert (mine - theirs).abs().max() <= 1e-11 * largest


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
def test_penalty_gradients_in_float32(activation, penalty):
    given = images(torch.float32)
    ours, stock = (
        torch.cat([g.flatten() for g in penalty_gradients(d, penalty, *given)]) for d in critics(activation, False)
    )
    assert stock.norm() > 0 and (ours - stock).norm() <= 1e-5 * stock.norm()
