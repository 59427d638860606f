"""The layers beside the stock ones: state dicts, copies, and channels_last through whole models."""

import copy
import pickle

import pytest
import torch
from torch import nn

import sdgan_ext as sd
import sdgan_ext.nn as sdnn


class Upsampled(nn.Conv2d):
    def __init__(self, *arguments):
        super().__init__(*arguments, padding="same")

    def forward(self, input):
        return super().forward(nn.functional.interpolate(input, scale_factor=2))


LAYERS = {
    "Conv2d": (sdnn.Conv2d, nn.Conv2d, (4, 6, 4, 2, 1)),
    "Conv2d-no_bias": (sdnn.Conv2d, nn.Conv2d, (4, 6, 3, 1, 0, 1, 2, False)),
    "ConvTranspose2d": (sdnn.ConvTranspose2d, nn.ConvTranspose2d, (4, 6, 4, 2, 1)),
    "UpsampleConv2d": (sdnn.UpsampleConv2d, Upsampled, (4, 6, 3)),
    "BatchNorm2d": (sdnn.BatchNorm2d, nn.BatchNorm2d, (4,)),
    "GroupNorm": (sdnn.GroupNorm, nn.GroupNorm, (2, 4)),
    "GroupNorm-plain": (sdnn.GroupNorm, nn.GroupNorm, (2, 4, 1e-4, False)),
    "BatchNorm2d-plain": (sdnn.BatchNorm2d, nn.BatchNorm2d, (4, 1e-4, None, False)),
}
each_layer = pytest.mark.parametrize("kinds", LAYERS.values(), ids=LAYERS)


def images(seed=0, **options):
    return torch.randn(5, 4, 8, 6, generator=torch.Generator().manual_seed(seed), **options)


def train(layer, activation=None, steps=3):
    """Moves parameters and statistics."""
    parameters = list(layer.parameters())
    for step in range(steps):
        y = layer(images(step))
        loss = (y if activation is None else activation(y)).square().sum()
        if parameters:
            for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                p.data -= 1e-4 * g
    return layer


@each_layer
def test_state_dict_goes_both_ways(kinds):
    kind, stock_kind, arguments = kinds
    ours, stock = kind(*arguments, activation="relu"), stock_kind(*arguments)
    for giver, taker in ((train(stock, torch.relu), ours), (train(ours), stock_kind(*arguments))):
        state = giver.state_dict()
        assert list(state) == list(taker.state_dict())
        taker.load_state_dict(state, strict=True)
        assert all(torch.equal(state[name], value) for name, value in taker.state_dict().items())
        x = images(9)
        results = [layer.eval()(x) for layer in (giver, taker)]
        results = [y if layer is ours else y.relu() for y, layer in zip(results, (giver, taker), strict=True)]
        torch.testing.assert_close(*results)
        giver.train(), taker.train()
        train(giver, None if giver is ours else torch.relu), train(taker, None if taker is ours else torch.relu)
        torch.testing.assert_close(list(giver.state_dict().values()), list(taker.state_dict().values()))


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deepcopy", "pickle"]
)
@each_layer
def test_copies(how, kinds):
    kind, _, arguments = kinds
    layer = train(kind(*arguments, activation="leaky_relu", negative_slope=0.3))
    other = how(layer)
    assert type(other) is kind and repr(other) == repr(layer)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert torch.equal(layer.eval()(images(7)), other.eval()(images(7)))
    train(other.train())
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    assert not before or not all(torch.equal(before[name], value) for name, value in other.state_dict().items())


@each_layer
def test_channels_last_is_kept(kinds):
    kind, _, arguments = kinds
    layer = kind(*arguments, activation="tanh").to(memory_format=torch.channels_last)
    x = images().contiguous(memory_format=torch.channels_last).requires_grad_()
    y = layer(x)
    grads = torch.autograd.grad(y.square().sum(), [x, *(p for p in layer.parameters() if p.dim() == 4)])
    assert all(t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous() for t in (y, *grads))


class Strides:
    """Of all images that pass between the layers, and of their gradients."""

    def __init__(self, model):
        self.seen = []
        for name, module in model.named_modules():
            if not list(module.children()):
                module.register_forward_hook(lambda _, inputs, output, name=name: self.note(name, output))

    def note(self, name, output):
        if isinstance(output, torch.Tensor) and output.dim() == 4 and min(output.shape[1:]) > 1:
            self.seen.append((name, output))
            if output.requires_grad:
                output.register_hook(lambda grad, name=name: self.seen.append((f"gradient of {name}", grad)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def test_channels_last_through_whole_models(layout):
    """A VAEGAN's weights are in channels_last, so whatever comes in, nothing between its layers is converted."""
    config = sd.VAEGANConfig(
        image_size=(14, 20), channels=3, encoder_channels=(8, 16), generator_channels=(16, 8, 4), encoder_norm="batch",
        discriminator_channels=(8, 16), discriminator_norm="spectral", generator_head="conv", latent_dim=6,
    )  # fmt: skip
    model = sd.VAEGAN(config)
    strides = Strides(model)
    x = torch.randn(4, 3, 14, 20).contiguous(memory_format=layout).requires_grad_()
    x_hat = model(x)
    logits, features = model.discriminator(x_hat, return_features=True)
    (logits.sum() + x_hat.square().sum()).backward()
    images = [x_hat, *features, *(t for _, t in strides.seen)]
    assert len(images) > 20
    wrong = [name for name, t in strides.seen if not t.is_contiguous(memory_format=torch.channels_last)]
    assert not wrong and all(t.is_contiguous(memory_format=torch.channels_last) for t in images)
