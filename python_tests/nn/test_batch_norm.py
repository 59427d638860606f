"""nn.BatchNorm2d beside torch.nn.BatchNorm2d: outputs, buffers, state dict, modes."""

import copy
import io

import pytest
import torch

from sdgan_ext import nn


def pair(**options):
    """The stock layer followed by its activation, and ours, in the same state."""
    stock, ours = torch.nn.BatchNorm2d(6, **options), nn.BatchNorm2d(6, **options, activation="relu")
    if stock.affine:
        torch.nn.init.normal_(stock.weight)
        torch.nn.init.normal_(stock.bias)
    ours.load_state_dict(stock.state_dict(), strict=True)
    return stock, ours


OPTIONS = [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.5, "eps": 0.1}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_trains_and_evaluates_as_the_stock_layer(options):
    stock, ours = pair(**options)
    for step in range(4):
        training = step < 3
        stock.train(training), ours.train(training)
        x = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(step)).requires_grad_()
        expected, got = stock(x).relu(), ours(x)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        upstream = torch.randn_like(expected)
        expected_grads = torch.autograd.grad(expected, [x, *stock.parameters()], upstream)
        grads = torch.autograd.grad(got, [x, *ours.parameters()], upstream)
        for g, want in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(g, want, rtol=1e-4, atol=1e-5)
    for name, buffer in stock.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)


def test_tracking_may_be_switched_off_later():
    stock, ours = pair()
    stock.track_running_stats = ours.track_running_stats = False
    x = torch.randn(4, 6, 3, 3)
    torch.testing.assert_close(ours(x), stock(x).relu())
    assert ours.num_batches_tracked == stock.num_batches_tracked == 0
    assert torch.equal(ours.running_mean, stock.running_mean)


def test_state_dict_goes_both_ways():
    stock, ours = pair()
    ours(torch.randn(4, 6, 3, 3))
    assert list(ours.state_dict()) == list(stock.state_dict())
    stock.load_state_dict(ours.state_dict(), strict=True)
    assert stock.num_batches_tracked == 1


def test_is_a_stock_layer_that_copies_and_prints():
    layer = nn.BatchNorm2d(3, activation="leaky_relu", negative_slope=0.1)
    assert isinstance(layer, torch.nn.BatchNorm2d)
    assert "activation='leaky_relu', negative_slope=0.1" in repr(layer)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        x = torch.randn(2, 3, 4, 4)
        assert torch.equal(other(x), copy.deepcopy(layer)(x))


def test_float32_layer_under_bfloat16_autocast():
    layer = nn.BatchNorm2d(6, activation="relu")
    x = torch.randn(4, 6, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.bfloat16())
    assert y.dtype == torch.bfloat16 and layer.running_mean.dtype == torch.float32
    torch.testing.assert_close(y.float(), nn.BatchNorm2d(6)(x).relu(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.BatchNorm2d(3)(torch.ones(2, 3)), "expected 4D input"),
        (lambda: nn.BatchNorm2d(3)(torch.ones(2, 4, 2, 2)), r"weight has shape \(3,\); it must be \(4,\)"),
        (lambda: nn.BatchNorm2d(3)(torch.ones(1, 3, 1, 1)), "Expected more than 1 value per channel"),
        (lambda: nn.BatchNorm2d(3, activation="mish"), "activation is 'mish'; allowed are"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
