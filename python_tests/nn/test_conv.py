"""The convolution layers against torch's: values, state dicts, geometry, copies, refusals."""

import copy
import pickle

import pytest
import torch

from sdgan_ext import nn


class Upsampled(torch.nn.Conv2d):
    def forward(self, input):
        return super().forward(input.repeat_interleave(2, -1).repeat_interleave(2, -2))


LAYERS = [
    (nn.Conv2d, torch.nn.Conv2d, dict(stride=2, padding=(1, 2), dilation=1)),
    (nn.Conv2d, torch.nn.Conv2d, dict(padding="same", bias=False)),
    (nn.Conv2d, torch.nn.Conv2d, dict(padding=1, padding_mode="reflect", groups=2)),
    (nn.ConvTranspose2d, torch.nn.ConvTranspose2d, dict(stride=2, padding=1, output_padding=1)),
    (nn.ConvTranspose2d, torch.nn.ConvTranspose2d, dict(groups=2, dilation=2, bias=False)),
    (nn.UpsampleConv2d, Upsampled, dict(padding=1)),
    (nn.UpsampleConv2d, Upsampled, dict(padding=(0, 1), groups=2, bias=False)),
]


def pair(ours, stock, options, **extra):
    torch.manual_seed(0)
    layer, torchs = ours(4, 6, 3, **options, **extra), stock(4, 6, 3, **options)
    assert list(layer.state_dict()) == list(torchs.state_dict())
    layer.load_state_dict(torchs.state_dict())
    return layer, torchs


@pytest.mark.parametrize(("ours", "stock", "options"), LAYERS)
def test_equals_stock_and_exchanges_state_dicts(ours, stock, options):
    layer, torchs = pair(ours, stock, options)
    x = torch.randn(2, 4, 7, 9)
    torch.testing.assert_close(layer(x), torchs(x))
    torch.testing.assert_close(layer(x[0]), torchs(x[0]))
    assert isinstance(layer, torch.nn.Conv2d if stock is Upsampled else stock)
    torchs.load_state_dict(layer.state_dict())


@pytest.mark.parametrize(("ours", "stock", "options"), LAYERS)
def test_activation_is_part_of_the_layer(ours, stock, options):
    layer, torchs = pair(ours, stock, options, activation="leaky_relu", negative_slope=0.1)
    x = torch.randn(2, 4, 7, 9)
    expected = torch.nn.functional.leaky_relu(torchs(x), 0.1)
    torch.testing.assert_close(layer(x), expected)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x), expected)
    assert "activation='leaky_relu', negative_slope=0.1" in repr(layer)


def test_output_size():
    layer, torchs = pair(nn.ConvTranspose2d, torch.nn.ConvTranspose2d, dict(stride=2, padding=1))
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(layer(x, output_size=[10, 9]), torchs(x, output_size=[10, 9]))


def test_keras_same():
    up = nn.ConvTranspose2d(2, 3, 5, stride=2, crop=(1, 2, 1, 2))
    down = nn.Conv2d(3, 2, 5, stride=2, padding=(1, 2, 1, 2))
    assert up(torch.randn(1, 2, 7, 7)).shape == (1, 3, 14, 14)
    assert down(torch.randn(1, 3, 14, 14)).shape == (1, 2, 7, 7)
    assert "crop=(1, 2, 1, 2)" in repr(up)
    assert "padding=(1, 2, 1, 2)" in repr(down)
    torch.testing.assert_close(copy.deepcopy(up).weight, up.weight)


def test_upsampling_keeps_the_size_by_default():
    torch.manual_seed(0)
    layer = nn.UpsampleConv2d(4, 6, 5, activation="silu")
    stock = torch.nn.Sequential(torch.nn.Upsample(scale_factor=2), torch.nn.Conv2d(4, 6, 5, padding=2), torch.nn.SiLU())
    stock[1].load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(layer(x), stock(x))
    assert "scale=2" in repr(layer) and layer.scale == 2


def test_in_a_sequential_of_modules_that_torch_compiles():
    model = torch.nn.Sequential(nn.Conv2d(1, 4, 3, activation="relu"), nn.ConvTranspose2d(4, 1, 3, activation="tanh"))
    x = torch.randn(2, 1, 6, 6)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.Conv2d(1, 2, 3, activation="gelu"), ValueError, "activation is 'gelu'; allowed are"),
        (lambda: nn.Conv2d(1, 2, 3, padding=(1, 2, 3, -1)), ValueError, "padding is .* at least 0"),
        (lambda: nn.Conv2d(1, 2, 3, padding=(1, 2, 3, 4), padding_mode="reflect"), ValueError, "padding_mode"),
        (lambda: nn.UpsampleConv2d(1, 2, 3, scale=4), ValueError, "scale is 4; allowed is 2"),
        (lambda: nn.ConvTranspose2d(1, 2, 3, crop=(1, 2, 1)), ValueError, "crop is .* 4 ints"),
        (lambda: nn.ConvTranspose2d(1, 2, 3, padding=1, crop=(1, 1, 1, 1)), ValueError, "give one or the other"),
        (
            lambda: nn.ConvTranspose2d(1, 2, 3, crop=(0, 0, 0, 0))(torch.ones(1, 1, 3, 3), output_size=[5, 5]),
            ValueError,
            "output_size is",
        ),
    ],
)
def test_refusals_name_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()
