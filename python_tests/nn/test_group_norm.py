"""nn.GroupNorm beside torch.nn.GroupNorm: outputs, gradients, state dict."""

import copy
import io

import pytest
import torch

from sdgan_ext import nn


def pair(**options):
    """The stock layer followed by its activation, and ours, in the same state."""
    stock, ours = torch.nn.GroupNorm(3, 6, **options), nn.GroupNorm(3, 6, **options, activation="silu")
    if stock.affine:
        torch.nn.init.normal_(stock.weight)
        torch.nn.init.normal_(stock.bias)
    ours.load_state_dict(stock.state_dict(), strict=True)
    return stock, ours


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}, {"dtype": torch.float64}], ids=str)
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5), (4, 6, 5, 5), (2, 6, 3, 4, 5)], ids=str)
def test_equals_the_stock_layer(shape, options):
    stock, ours = pair(**options)
    for training in (True, False):
        stock.train(training), ours.train(training)
        dtype = options.get("dtype", torch.float32)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
        expected, got = torch.nn.functional.silu(stock(x)), ours(x)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        upstream = torch.randn(shape, generator=generator, dtype=dtype)
        expected_grads = torch.autograd.grad(expected, [x, *stock.parameters()], upstream)
        grads = torch.autograd.grad(got, [x, *ours.parameters()], upstream)
        for g, want in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(g, want, rtol=1e-4, atol=1e-5)


def test_is_a_stock_layer_that_copies_and_prints():
    layer = nn.GroupNorm(2, 4, activation="leaky_relu", negative_slope=0.1)
    assert isinstance(layer, torch.nn.GroupNorm)
    assert repr(layer).startswith("GroupNorm(2, 4, eps=1e-05, affine=True")
    assert "activation='leaky_relu', negative_slope=0.1" in repr(layer)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        x = torch.randn(2, 4, 4, 4)
        assert torch.equal(other(x), layer(x))


def test_float32_layer_under_bfloat16_autocast():
    layer = nn.GroupNorm(3, 6, activation="relu")
    x = torch.randn(4, 6, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), nn.GroupNorm(3, 6)(x).relu(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.GroupNorm(4, 6), "num_groups is 4; it must divide num_channels, which is 6"),
        (lambda: nn.GroupNorm(0, 6), "num_groups is 0; it must divide num_channels, which is 6"),
        (lambda: nn.GroupNorm(2, 4)(torch.ones(2, 6, 2, 2)), r"weight has shape \(4,\); it must be \(6,\)"),
        (lambda: nn.GroupNorm(2, 4)(torch.ones(4)), "at least 2 dimensions"),
        (lambda: nn.GroupNorm(2, 4, activation="mish"), "activation is 'mish'; allowed are"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
