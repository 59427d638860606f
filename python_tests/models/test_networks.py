"""Encoder, generator and discriminator: shapes for any size, memory layout, gradients, agreement with stock layers."""

import pytest
import torch
import torch.nn.functional as F

from sdgan_ext.models import VAEGAN, Discriminator, Encoder, Generator, VAEGANConfig
from sdgan_ext.presets import preset

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [28, 32, (33, 47), 64, (2, 3)]


def small(**changes):
    settings = dict(
        latent_dim=3,
        encoder_channels=(4,),
        generator_channels=(5, 4),
        discriminator_channels=(4,),
        generator_head="conv",
    )
    return VAEGANConfig(**{**settings, **changes})


@pytest.mark.parametrize("kernel_size", [4, 5, 3, 2])
@pytest.mark.parametrize("head", ["conv", "transposed"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size_comes_back_exactly(size, channels, head, kernel_size):
    levels = 1 if size == (2, 3) else 2
    model = VAEGAN(
        small(
            image_size=size,
            channels=channels,
            kernel_size=kernel_size,
            generator_head=head,
            encoder_channels=(4,) * levels,
            generator_channels=(4,) * (levels + (head == "conv")),
            discriminator_channels=(4,) * levels,
        )
    )
    x = torch.rand(2, channels, *model.config.image_size) * 2 - 1
    posterior = model.encode(x)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 3)
    x_hat = model.decode(posterior.mode())
    assert x_hat.shape == x.shape and x_hat.abs().max() <= 1
    logits, features = model.discriminator(x_hat, return_features=True)
    assert logits.shape == (2, 1) and len(features) == levels
    assert torch.equal(logits, model.discriminator(x_hat))
    for activation in (x_hat, *features):
        assert activation.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3])
def test_convolution_weights_lie_channels_last(channels):
    for parameter in VAEGAN(small(channels=channels)).parameters():
        if parameter.dim() == 4:
            assert parameter.stride() == torch.empty(parameter.shape, memory_format=torch.channels_last).stride()


@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_none_and_one(n):
    model = VAEGAN(small())
    x_hat = model.decode(torch.randn(n, 3))
    assert x_hat.shape == (n, 1, 28, 28)
    assert model.discriminator(x_hat).shape == (n, 1)
    assert model.encode(x_hat).mean.shape == (n, 3)


def test_input_layout_changes_nothing():
    model = VAEGAN(small(channels=3)).double()
    x = torch.rand(2, 3, 28, 28, dtype=torch.float64)
    last = x.contiguous(memory_format=torch.channels_last)
    strided = torch.rand(2, 6, 28, 28, dtype=torch.float64)
    strided[:, ::2] = x
    for other in (last, strided[:, ::2]):
        torch.testing.assert_close(model.encode(other).mean, model.encode(x).mean)
        torch.testing.assert_close(model.discriminator(other), model.discriminator(x))


def test_seed_preset_is_the_founding_document():
    """The same arithmetic written with stock layers, the pads and crops of Keras's "same" spelled out."""
    config = preset("seed").model
    torch.manual_seed(0)
    generator, discriminator = Generator(config).double(), Discriminator(config).double()
    assert sum(p.numel() for p in generator.parameters()) == 100 * 6272 + 6272 + 2 * (128 * 128 * 25 + 128) + 3201
    assert sum(p.numel() for p in discriminator.parameters()) == 25 * 128 + 128 + 128 * 128 * 25 + 128 + 6273
    for parameter in (*generator.parameters(), *discriminator.parameters()):
        torch.nn.init.normal_(parameter, std=0.05)

    z = torch.randn(2, 100, dtype=torch.float64)
    x = F.relu(generator.dense(z)).reshape(2, 7, 7, 128).permute(0, 3, 1, 2)  # Keras reshapes to channels last
    for layer in generator.up_blocks:
        x = F.relu(F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)[:, :, 1:-2, 1:-2])
    x = torch.tanh(F.conv2d(x, generator.head.weight, generator.head.bias, padding=2))
    torch.testing.assert_close(generator(z), x)

    c = x
    for layer in discriminator.down_blocks.convs:
        c = F.relu(F.conv2d(F.pad(c, (1, 2, 1, 2)), layer.weight, layer.bias, stride=2))
    c = discriminator.logit(c.permute(0, 2, 3, 1).flatten(1))
    torch.testing.assert_close(discriminator(x), c)


def test_dcgan_preset_is_dcgan():
    config = preset("dcgan-64").model
    model = VAEGAN(config)
    shapes = [tuple(layer.weight.shape) for layer in model.generator.up_blocks]
    assert shapes == [(512, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4), (64, 3, 4, 4)]
    assert all(layer.crop == (1, 1, 1, 1) for layer in model.generator.up_blocks)
    assert [layer.out_channels for layer in model.discriminator.down_blocks.convs] == [64, 128, 256, 512]
    assert isinstance(model.discriminator.down_blocks.norms[0], torch.nn.Identity)
    assert all(isinstance(norm, torch.nn.BatchNorm2d) for norm in model.discriminator.down_blocks.norms[1:])
    assert model.generator.base_shape == (512, 4, 4)


def test_batch_norm_takes_the_place_of_the_bias():
    generator = Generator(small(generator_norm="batch", generator_head="transposed"))
    assert [layer.bias is None for layer in generator.up_blocks] == [True, False]
    encoder = Encoder(small(encoder_norm="batch", encoder_channels=(4, 5)))
    assert [layer.bias is None for layer in encoder.down_blocks.convs] == [False, True]


def test_spectral_norm_bounds_every_layer():
    discriminator = Discriminator(small(discriminator_norm="spectral", discriminator_channels=(4, 6), init="torch"))
    x = torch.rand(2, 1, 28, 28)
    for _ in range(30):
        discriminator(x)
    for layer in (*discriminator.down_blocks.convs, discriminator.logit):
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("network", ["encoder", "generator", "discriminator"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_gradients_in_float64(network, norm):
    model = VAEGAN(
        small(
            image_size=(5, 6),
            channels=2,
            init="torch",
            **{f"{kind}_norm": norm for kind in ("encoder", "generator", "discriminator")},
            encoder_channels=(3, 4),
            generator_channels=(4, 3),
            discriminator_channels=(3, 4),
            encoder_activation="silu",
            generator_activation="elu",
            discriminator_activation="tanh",
        )
    ).double()
    inputs = torch.randn(3, 3) if network == "generator" else torch.randn(3, 2, 5, 6)

    def run(x):
        y = getattr(model, network)(x)
        return (y.mean, y.logvar) if network == "encoder" else y

    assert torch.autograd.gradcheck(run, inputs.double().requires_grad_())


@pytest.mark.parametrize(
    ("init", "expected"), [("dcgan", 0.02), ("glorot", (2 / (25 * 256)) ** 0.5), ("torch", None)], ids=str
)
def test_initial_weights(init, expected):
    torch.manual_seed(0)
    generator = Generator(preset("seed").model.replace(init=init, generator_norm="batch"))
    weight, norm = generator.up_blocks[0].weight, generator.norms[0]
    if expected is not None:
        assert weight.std().item() == pytest.approx(expected, rel=0.02)
        assert not generator.dense.bias.any() and not norm.bias.any()
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert norm.weight.std().item() == pytest.approx(0.02 if init == "dcgan" else 0, abs=0.005)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.encode(torch.rand(2, 3, 28, 28)), r"x has shape \(2, 3, 28, 28\); .* \[N, 1, 28, 28\]"),
        (lambda m: m.discriminator(torch.rand(2, 1, 32, 28)), r"this model takes images of shape \[N, 1, 28, 28\]"),
        (lambda m: m.encode(torch.rand(1, 28, 28)), "this model takes images of shape"),
        (lambda m: m.decode(torch.rand(2, 4)), r"z has shape \(2, 4\); this model takes \[N, 3\]"),
        (lambda m: m.decode(torch.rand(3)), r"z has shape \(3,\)"),
    ],
)
def test_wrong_shapes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(VAEGAN(small()))
