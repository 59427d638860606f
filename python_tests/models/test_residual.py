"""Residual blocks, group norm, latent maps and patch logits: what they compute, and where."""

import pytest
import torch
import torch.nn.functional as F

from sdgan_ext._errors import ConfigError
from sdgan_ext.models import VAEGAN, VAEGANConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = dict(
    image_size=16,
    channels=3,
    latent_dim=32,
    encoder_channels=(8, 16),
    generator_channels=(16, 8),
    discriminator_channels=(8, 16),
    residual_blocks=1,
    discriminator_blocks=1,
    latent_map=True,
    encoder_norm="group",
    generator_norm="group",
    discriminator_norm="group",
    encoder_activation="silu",
    generator_activation="silu",
    discriminator_head="patch",
)


def make(**changes):
    """In float64; every weight is drawn, those that start at zero too."""
    torch.manual_seed(0)
    model = VAEGAN(VAEGANConfig(**{**SMALL, **changes})).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def images(n=2, size=(16, 16)):
    return torch.rand(n, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def normalised(norm, x):
    """Of the modules that ``normalisation("group", ...)`` makes, in stock functions; 4 channels a group."""
    return F.silu(F.group_norm(x, x.shape[1] // 4, norm[0].weight, norm[0].bias))


def block(module, x):
    h = F.conv2d(normalised(module.norms[0], x), module.first.weight, module.first.bias, padding=1)
    return x + F.conv2d(normalised(module.norms[1], h), module.last.weight, module.last.bias, padding=1)


def test_autoencoder_written_out():
    model, x = make(), images()
    e, g = model.encoder, model.generator
    h = F.silu(F.conv2d(x, e.down_blocks.convs[0].weight, e.down_blocks.convs[0].bias, stride=2, padding=1))
    h = block(e.down_blocks.blocks[0][0], h)
    h = F.conv2d(h, e.down_blocks.convs[1].weight, e.down_blocks.convs[1].bias, stride=2, padding=1)
    h = block(e.down_blocks.blocks[1][0], normalised(e.down_blocks.norms[1], h))
    mean = F.conv2d(h, e.mean.weight, e.mean.bias, padding=1)
    logvar = F.conv2d(h, e.logvar.weight, e.logvar.bias, padding=1)
    posterior = model.encode(x)
    for got, expected in ((posterior.mean, mean), (posterior.logvar, logvar)):  # pixel by pixel
        torch.testing.assert_close(got, expected.permute(0, 2, 3, 1).reshape(2, 32))
    h = F.conv2d(mean, g.dense.weight, g.dense.bias, padding=1)
    h = block(g.blocks[0][0], normalised(g.norms[0], h))
    h = F.conv_transpose2d(h, g.up_blocks[0].weight, g.up_blocks[0].bias, stride=2, padding=1)
    h = block(g.blocks[1][0], normalised(g.norms[1], h))
    h = torch.tanh(F.conv_transpose2d(h, g.up_blocks[1].weight, g.up_blocks[1].bias, stride=2, padding=1))
    torch.testing.assert_close(model.decode(posterior.mean), h)


def test_block_without_a_norm_written_out():
    model = make(generator_norm="none", generator_activation="leaky_relu")
    g, z = model.generator, torch.randn(2, 32, dtype=torch.float64)
    module = g.blocks[0][0]
    h = F.conv2d(z.reshape(2, 4, 4, 2).permute(0, 3, 1, 2), g.dense.weight, g.dense.bias, padding=1)
    h = F.leaky_relu(h, 0.2)
    inner = F.leaky_relu(F.conv2d(h, module.first.weight, module.first.bias, padding=1), 0.2)
    expected = h + F.conv2d(inner, module.last.weight, module.last.bias, padding=1)
    torch.testing.assert_close(module(h), expected)


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("init", ["dcgan", "glorot", "torch"])
def test_blocks_start_as_the_identity(norm, init):
    model = VAEGAN(VAEGANConfig(**{**SMALL, "generator_norm": norm, "init": init}))
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(model.generator.blocks[0](x), x)
    assert all(block.first.weight.any() for blocks in model.generator.blocks for block in blocks)


@pytest.mark.parametrize("size", [(16, 16), (13, 22), 28], ids=str)
@pytest.mark.parametrize("head", ["conv", "transposed"])
def test_every_size_comes_back_exactly(size, head):
    height, width = (size, size) if isinstance(size, int) else size
    pixels = -(-height // 4) * -(-width // 4)
    widths = (16, 8, 8) if head == "conv" else (16, 8)
    model = make(image_size=size, latent_dim=3 * pixels, generator_head=head, generator_channels=widths)
    x = images(2, (height, width))
    assert model.config.latent_shape == (3, -(-height // 4), -(-width // 4))
    assert model.reconstruct(x).shape == x.shape
    logits = model.discriminator(x)
    assert logits.shape == (2, 1, -(-height // 4), -(-width // 4))


def test_latents_keep_their_places():
    """Far from the place that changes nothing changes (without norms, which depend on the whole image)."""
    model, x = make(image_size=64, latent_dim=512, encoder_norm="none", residual_blocks=0), images(1, (64, 64))
    other = x.clone()
    other[:, :, :8, :8] *= -1
    moved = (model.encode(other).mean != model.encode(x).mean).reshape(16, 16, 2)
    assert moved[0, 0].any() and not moved[5:].any() and not moved[:, 5:].any()


def test_patch_logits_see_patches():
    model = make(image_size=64, latent_dim=512, discriminator_norm="none", discriminator_blocks=0)
    x = images(1, (64, 64))
    other = x.clone()
    other[:, :, 56:, 56:] *= -1
    moved = (model.discriminator(other) != model.discriminator(x))[0, 0]
    assert moved[-1, -1] and not moved[:11].any() and not moved[:, :11].any()


def test_patch_logits_of_a_class_are_projections_of_their_place():
    model, x = make(classes=3), images()
    labels = torch.tensor([2, 0])
    logits, features = model.discriminator(x, return_features=True, labels=labels)
    d = model.discriminator
    plain = F.conv2d(F.pad(features[-1], (1, 2, 1, 2)), d.logit.weight, d.logit.bias)
    projection = torch.einsum("nc,nchw->nhw", d.embedding.weight[labels], features[-1])
    torch.testing.assert_close(logits, plain + projection[:, None])


def test_without_blocks_the_weights_are_named_as_before():
    model = VAEGAN(VAEGANConfig())
    assert not [name for name in model.state_dict() if ".blocks." in name]


def test_group_norm_has_groups_of_four_channels_and_at_most_32():
    widths = {3: 1, 8: 2, 12: 3, 13: 1, 64: 16, 128: 32, 512: 32}
    for width, groups in widths.items():
        model = VAEGAN(VAEGANConfig(**{**SMALL, "generator_channels": (width, 8)}))
        assert model.generator.norms[0][0].num_groups == groups, width


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"latent_dim": 33}, "latent_dim is 33; with latent_map it must be a multiple of 16, the pixels of the 4x4"),
        ({"encoder_channels": (8,)}, r"halves the image 1 times and .* doubles 2 times; they must agree"),
        ({"discriminator_norm": "spectral"}, "discriminator_blocks is 1 with discriminator_norm 'spectral'"),
        ({"residual_blocks": -1}, "residual_blocks is -1; it must be an integer, at least 0"),
        ({"discriminator_head": "pixel"}, "discriminator_head is 'pixel'; allowed are 'dense', 'patch'"),
    ],
)
def test_refusals(values, words):
    with pytest.raises(ConfigError, match=words):
        VAEGANConfig(**{**SMALL, **values})


def test_saved_and_loaded(tmp_path):
    model = make().float()
    model.save_pretrained(tmp_path)
    loaded = VAEGAN.from_pretrained(tmp_path)
    assert torch.equal(loaded.sample(2, seed=0), model.sample(2, seed=0))
