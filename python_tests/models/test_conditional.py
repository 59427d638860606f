"""Class-conditional networks: what the labels do, and who asks for them."""

import pytest
import torch

from sdgan_ext.models import VAEGAN, VAEGANConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = dict(image_size=8, latent_dim=4, encoder_channels=(4,), generator_channels=(4,), discriminator_channels=(4,))


def make(**changes):
    torch.manual_seed(0)
    model = VAEGAN(VAEGANConfig(**{**SMALL, "classes": 3, "generator_norm": "none", **changes})).double()
    for network in model.children():
        torch.nn.init.normal_(network.embedding.weight)
    return model


def batch(n=6):
    return torch.rand(n, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1


LABELS = torch.tensor([0, 1, 2, 2, 1, 0])


def test_generator_adds_the_embedding_to_z():
    model, z = make(), torch.randn(6, 4, dtype=torch.float64)
    plain = VAEGAN(VAEGANConfig(**SMALL, generator_norm="none")).double()
    plain.generator.load_state_dict({k: v for k, v in model.generator.state_dict().items() if "embedding" not in k})
    torch.testing.assert_close(model.decode(z, LABELS), plain.decode(z + model.generator.embedding.weight[LABELS]))


def test_discriminator_is_a_projection_discriminator():
    d, x = make().discriminator, batch()
    logits, features = d(x, return_features=True, labels=LABELS)
    flat = features[-1].permute(0, 2, 3, 1).flatten(1)
    expected = flat @ d.logit.weight.T + d.logit.bias + (d.embedding.weight[LABELS] * flat).sum(1, keepdim=True)
    torch.testing.assert_close(logits, expected)


def test_encoder_shifts_the_posterior():
    model, x = make(), batch()
    a, b = (model.encode(x, torch.full((6,), label)) for label in (0, 2))
    shift = model.encoder.embedding.weight[2] - model.encoder.embedding.weight[0]
    torch.testing.assert_close(b.mean - a.mean, shift[:4].expand(6, 4))
    torch.testing.assert_close(b.logvar - a.logvar, shift[4:].expand(6, 4))


def test_sample_reconstruct_interpolate():
    model = make()
    one = model.sample(6, labels=2, seed=0)
    assert torch.equal(one, model.sample(6, labels=[2] * 6, seed=0))
    assert torch.equal(one, model.sample(6, labels=torch.full((6,), 2, dtype=torch.int32), seed=0))
    assert not torch.allclose(one, model.sample(6, labels=1, seed=0))
    assert model.reconstruct(batch(), LABELS).shape == batch().shape
    z = torch.randn(2, 4, dtype=torch.float64)
    assert model.interpolate(z[0], z[1], 5, labels=1).shape == (5, 1, 8, 8)


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (None, ValueError, r"labels are missing: this model is conditioned on 3 classes; give \[2\] integers, 0 to 2"),
        ([0, 1, 2], ValueError, r"labels has shape \(3,\); it must be \(2,\), one label for each image"),
        ([0, 3], ValueError, "labels has 3; this model's are 0 to 2"),
        (-1, ValueError, "labels has -1; this model's are 0 to 2"),
        ([0.0, 1.0], TypeError, "labels must be integers, got torch.float32"),
    ],
)
def test_refusals(labels, error, words):
    with pytest.raises(error, match=words):
        make().sample(2, labels=labels)


def test_networks_ask_for_labels():
    model = make()
    for ask in (
        lambda: model.discriminator(batch()),
        lambda: model.encode(batch()),
        lambda: model.reconstruct(batch()),
    ):
        with pytest.raises(ValueError, match="labels are missing"):
            ask()
    with pytest.raises(TypeError, match="labels must be a tensor of int64, got list"):
        model.decode(torch.randn(2, 4).double(), [0, 1])
    with pytest.raises(ValueError, match="labels are given, but this model is not conditioned on classes"):
        VAEGAN(VAEGANConfig(**SMALL)).sample(2, labels=1)


@pytest.mark.parametrize("norm", ["none", "batch", "spectral"])
def test_saved_and_loaded(tmp_path, norm):
    model = VAEGAN(VAEGANConfig(**SMALL, classes=3, discriminator_norm=norm, minibatch_stddev=2, learned_variance=True))
    model.save_pretrained(tmp_path)
    again = VAEGAN.from_pretrained(tmp_path)
    x = batch().float()
    assert torch.equal(model.sample(6, labels=LABELS, seed=0), again.sample(6, labels=LABELS, seed=0))
    assert torch.equal(model.eval().discriminator(x, labels=LABELS), again.discriminator(x, labels=LABELS))
    assert again.generator.log_scale == model.generator.log_scale
