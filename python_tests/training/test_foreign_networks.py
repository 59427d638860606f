"""A user's own networks as a model: shapes that are found, answers that are refused, what is sampled and saved."""

import json
from types import SimpleNamespace

import pytest
import torch
from own import Discriminator, Encoder, FeatureDiscriminator, Generator, make_networks
from torch import nn

import sdgan_ext as sd
from sdgan_ext._errors import CheckpointError, ConfigError
from sdgan_ext.losses import kl
from sdgan_ext.models import VAEGAN, Posterior
from sdgan_ext.nn import BatchNorm2d
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.networks import Networks
from sdgan_ext.training.optimizers import make_optimizers

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


class Answer(nn.Module):
    """A network whose answer is ``make(x)``."""

    def __init__(self, make):
        super().__init__()
        self.make = make
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, *labels, **options):
        return self.make(x, **options)


def encoder_of(make):
    return Networks(encoder=Answer(make), generator=Generator(), image_shape=(1, 8, 8))


def generator_of(make):
    return Networks(generator=Answer(make), latent_shape=4)


def discriminator_of(make):
    return Networks(generator=Generator(), discriminator=Answer(make))


# ------------------------------------------------------------------------------------------------ shapes
def test_the_package_exports_it():
    assert sd.Networks is Networks


@pytest.mark.parametrize(
    ("options", "image", "latent"),
    [
        (dict(encoder=Encoder(), generator=Generator(), image_shape=(1, 8, 8)), (1, 8, 8), (4,)),
        (dict(encoder=Encoder("map"), generator=Generator("map"), image_shape=(1, 8, 8)), (1, 8, 8), (2, 2, 2)),
        (dict(encoder=Encoder("map"), generator=Generator("map"), latent_shape=(2, 2, 2)), (1, 8, 8), (2, 2, 2)),
        (dict(encoder=Encoder(), generator=Generator()), (1, 8, 8), (4,)),
        (dict(generator=Generator(), latent_shape=4), (1, 8, 8), (4,)),
        (dict(generator=Generator()), (1, 8, 8), (4,)),
        (dict(generator=nn.ConvTranspose2d(5, 3, 8)), (3, 8, 8), (5, 1, 1)),  # DCGAN's way to take a vector
    ],
)
def test_shapes_are_found_by_a_dry_call(options, image, latent):
    model = Networks(**options)
    assert model.traits.image_shape == image and model.traits.latent_shape == latent
    assert model.sample(2, seed=0).shape == (2, *image)


def test_a_dry_call_leaves_weights_buffers_modes_and_the_random_state_alone():
    networks = {"encoder": Encoder(), "generator": Generator(), "discriminator": FeatureDiscriminator()}
    networks["encoder"].dropout.eval()
    state = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks.values()]
    modes = [part.training for network in networks.values() for part in network.modules()]
    random = torch.get_rng_state()
    noisy = Answer(lambda z: torch.randn(len(z), 1, 8, 8))
    Networks(generator=noisy, latent_shape=4)
    make_optimizers(Networks(**networks), TrainConfig(feature_weight=1.0))
    assert torch.equal(torch.get_rng_state(), random)
    assert modes == [part.training for network in networks.values() for part in network.modules()]
    for before, network in zip(state, networks.values(), strict=True):
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_what_the_layers_say_of_themselves():
    traits = make_networks().traits
    assert traits.generator_mixes_images and not traits.discriminator_mixes_images
    assert not make_networks(norm=False).traits.generator_mixes_images
    discriminator = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 1))
    traits = Networks(generator=Generator(), discriminator=discriminator).traits
    assert traits.discriminator_mixes_images and traits.discriminator_batch_norm
    given = Networks(generator=Generator(), discriminator=Discriminator(), discriminator_mixes_images=True).traits
    assert given.discriminator_mixes_images and not given.discriminator_batch_norm
    plain = make_networks(channels=3)
    assert plain.traits.memory_format == torch.contiguous_format
    assert plain.to(memory_format=torch.channels_last).traits.memory_format == torch.channels_last


# ------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Networks(generator=None), "generator is None; it must be a torch.nn.Module"),
        (lambda: Networks(generator=torch.tanh), "generator is a builtin_function_or_method; it must be a torch.nn"),
        (lambda: Networks(generator=nn.LazyLinear(4)), "generator has lazy layers without weights yet; call it once"),
        (lambda: Networks(generator=Generator(), image_shape=(8, 8)), r"image_shape is \(8, 8\); it must be"),
        (lambda: Networks(generator=Generator(), latent_shape=0), r"latent_shape\[0\] is 0; it must be an integer"),
        (lambda: Networks(generator=Generator(), latent_shape=5), r"generator cannot be called .* shape \(2, 5\): "),
        (lambda: Networks(generator=Generator(), image_shape=(1, 9, 9)), "images of shape .*, but image_shape is"),
        (lambda: Networks(generator=Answer(None)), "latent_shape could not be found, for the generator has neither"),
        (lambda: Networks(encoder=Encoder("map"), generator=Generator("map")), "latent_shape could not be found, for"),
        (lambda: Networks(generator=Generator(), last_weight="tail"), "last_weight is 'tail'; the generator's param"),
        (lambda: Networks(generator=Generator(), last_weight=torch.ones(2)), "last_weight, .* no parameter of the gen"),
        (lambda: encoder_of(lambda x: x[:, 0, 0, :4]), r"encoder's answer is a Tensor; it must be \(mean"),
        (lambda: encoder_of(lambda x: None), "the encoder's answer is None; it must be"),
        (lambda: encoder_of(lambda x: (x, x, x)), "the encoder's answer is a tuple of 3; it must be"),
        (lambda: encoder_of(lambda x: (x, 1)), "the encoder's answer is a tuple of 2; it must be"),
        (lambda: encoder_of(lambda x: (x[:, 0, 0, :4], x[:, 0, 0, :3])), r"\(2, 4\) and its logvar \(2, 3\); they"),
        (lambda: encoder_of(lambda x: (x[0, 0], x[0, 0])), r"the encoder's mean has shape \(8, 8\) for 2 images"),
        (lambda: encoder_of(lambda x: (x[:, 0, 0, :3],) * 2), r"cannot be called with a tensor of shape \(2, 3\)"),
        (lambda: encoder_of(lambda x: (x[:, 0, 0, :4].long(),) * 2), "the encoder's mean is a tensor of torch.int64"),
        (lambda: generator_of(lambda z: [z]), "the generator's answer is a list of 1; it must be a tensor"),
        (lambda: generator_of(lambda z: z), r"generator's images have shape \(2, 4\) for 2 latents of shape"),
        (lambda: generator_of(lambda z: z[:1].view(1, 1, 2, 2)), r"have shape \(1, 1, 2, 2\) for 2 latents"),
        (lambda: generator_of(lambda z: z.long().view(2, 1, 2, 2)), "generator's answer is a tensor of torch.int64"),
        (lambda: discriminator_of(lambda x: {}), "the discriminator's answer is a dict; it must be a tensor"),
        (lambda: discriminator_of(lambda x: x.mean()), r"logits have shape \(\) for 2 images; they must be one for"),
        (lambda: discriminator_of(lambda x: x[:, 0, 0]), r"logits have shape \(2, 8\) for 2 images; they must be"),
        (lambda: discriminator_of(lambda x: x[:1, 0, 0, 0]), r"logits have shape \(1,\) for 2 images"),
        (lambda: discriminator_of(lambda x: x[:, 0]), r"logits have shape \(2, 8, 8\) for 2 images"),
        (lambda: Networks(generator=nn.Linear(4, 64), classes=3), r"with a tensor of shape \(2, 4\) and labels: "),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused_in_a_sentence(make, words):
    with pytest.raises(ConfigError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_networks_that_share_parameters_are_refused():
    shared = nn.Conv2d(1, 4, 4, 2, 1)
    encoder, discriminator = Encoder(), Discriminator()
    encoder.conv = discriminator.conv = shared
    with pytest.raises(ConfigError, match="encoder and discriminator share the parameter conv.weight"):
        Networks(encoder=encoder, generator=Generator(), discriminator=discriminator, image_shape=(1, 8, 8))


def test_answers_are_checked_in_training_too():
    model = make_networks()
    model.generator.last = nn.ConvTranspose2d(4, 1, 3, 2, 1)
    with pytest.raises(
        ConfigError, match=r"the generator's answer has shape \(2, 1, 7, 7\); it must be \(2, 1, 8, 8\)"
    ):
        model.decode(torch.zeros(2, 4))
    model.encoder.head = nn.Linear(64, 6)
    with pytest.raises(ConfigError, match=r"the encoder's mean has shape \(3, 3\); it must be \(3, 4\)"):
        model.encode(X)
    with pytest.raises(ValueError, match="these networks have no encoder"):
        make_networks("gan").encode(X)


@pytest.mark.parametrize(
    ("options", "train", "words"),
    [
        ({"mode": "gan"}, {}, "mode 'vae-gan' trains the encoder, but the model has none: encoder is None"),
        ({"mode": "vae"}, {"mode": "gan"}, "trains the discriminator, but the model has none: discriminator is None"),
        (
            {},
            {"feature_weight": 1.0},
            r"the discriminator must take return_features=True .*, but the discriminator can",
        ),
        ({"features": True}, {"feature_weight": 1.0, "feature_layer": 2}, "feature_layer is 2; .* has 2 layers"),
        ({}, {"adaptive_weight": 0.5}, "the generator does not say which of its weights is the last"),
        ({"channels": 3}, {"binarise": True}, "binarise must be false: the model's images have 3 channels"),
    ],
)
def test_a_setting_that_the_networks_cannot_serve(options, train, words):
    with pytest.raises(ConfigError, match=words):
        make_optimizers(make_networks(**options), TrainConfig(**train))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, **_: x[:, 0, 0, 0], "but its answer is a Tensor"),
        (lambda x, **_: (x[:, 0, 0, 0], x) if _ else x[:, 0, 0, 0], "but its answer is a tuple of 2"),
        (lambda x, **_: (x[:, 0, 0, 0], (x, x[:1])) if _ else x[:, 0, 0, 0], r"but features\[1\] is of shape \(1, 1,"),
        (lambda x, **_: (x[:, 0, 0, 0], [None]) if _ else x[:, 0, 0, 0], r"but features\[0\] is None"),
    ],
)
def test_features_that_are_none(answer, words):
    model = Networks(encoder=Encoder(), generator=Generator(), discriminator=Answer(answer), image_shape=(1, 8, 8))
    with pytest.raises(ConfigError, match="feature_weight is above 0: .*" + words):
        make_optimizers(model, TrainConfig(feature_weight=1.0))


def test_penalties_are_refused_with_a_users_batch_norm():
    discriminator = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 1))
    model = Networks(generator=Generator(), discriminator=discriminator)
    with pytest.raises(ConfigError, match="gp_weight must be 0 with batch norm in the discriminator"):
        make_optimizers(model, TrainConfig(mode="gan", gp_weight=1.0))


# ------------------------------------------------------------------------------------------------ posteriors
def test_every_kind_of_posterior_is_understood():
    mean, logvar = torch.randn(2, 3, 4).unbind()
    library_like = SimpleNamespace(mean=mean, logvar=logvar, sample=None)
    for answer in ((mean, logvar), [mean, logvar], library_like, SimpleNamespace(latent_dist=library_like)):
        model = Networks(
            encoder=Answer(lambda x, a=answer: _rows(a, len(x))), generator=Generator(), image_shape=(1, 8, 8)
        )
        posterior = model.encode(X)
        assert torch.equal(posterior.mean, mean) and torch.equal(posterior.mode(), mean)
        z, nats = posterior.sample_with_kl(eps=torch.ones(3, 4))
        torch.testing.assert_close(z, mean + (logvar / 2).exp())
        torch.testing.assert_close(nats, kl(mean, logvar))
    ours = Posterior(mean, logvar)
    model = Networks(encoder=Answer(lambda x: _rows(ours, len(x))), generator=Generator(), image_shape=(1, 8, 8))
    assert isinstance(model.encode(X), Posterior)


def _rows(answer, n):
    """The first rows: a dry call has two images."""
    if isinstance(answer, (tuple, list)):
        return type(answer)(part[:n] for part in answer)
    if hasattr(answer, "latent_dist"):
        return SimpleNamespace(latent_dist=_rows(answer.latent_dist, n))
    return type(answer)(mean=answer.mean[:n], logvar=answer.logvar[:n])


# ------------------------------------------------------------------------------------------------ use
@pytest.mark.parametrize("latent", ["vector", "map"])
def test_sample_reconstruct_interpolate(latent):
    model = make_networks(latent=latent, classes=3).train()
    shape = model.config.latent_shape
    images = model.sample(4, labels=2, seed=3)
    again = model.sample(4, labels=[2] * 4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(images, again) and model.training
    assert not torch.equal(images, model.sample(4, labels=1, seed=3))
    assert torch.equal(model.reconstruct(X, 1), model.reconstruct(X, torch.ones(3, dtype=torch.long)))
    a, b = torch.randn(2, *shape)
    walk = model.interpolate(a, b, 5, labels=1)
    model.eval()
    ends = model.decode(torch.stack([a, b]), torch.tensor([1, 1]))
    torch.testing.assert_close(walk[[0, -1]], ends)
    with pytest.raises(ValueError, match=r"a has shape \(7,\); it must be \("):
        model.interpolate(torch.zeros(7), b, 5, labels=1)
    with pytest.raises(ValueError, match="labels are missing"):
        model.sample(2)


def test_weights_come_back(tmp_path):
    model, other = make_networks(classes=3), make_networks(classes=3, seed=1)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model"] == "Networks" and config["encoder"] == "Encoder" and config["latent_shape"] == [4]
    assert config["image_shape"] == [1, 8, 8] and config["classes"] == 3
    assert other.load_weights(tmp_path) is other and not other.training
    assert torch.equal(other.sample(2, labels=1, seed=0), model.sample(2, labels=1, seed=0))


def test_shared_memory_is_saved_twice(tmp_path):
    model = make_networks("vae")
    model.generator.again = model.generator.last
    model.save_pretrained(tmp_path)
    other = make_networks("vae", seed=1)
    other.generator.again = other.generator.last
    assert torch.equal(other.load_weights(tmp_path).sample(2, seed=0), model.sample(2, seed=0))


def test_weights_of_something_else(tmp_path):
    make_networks().save_pretrained(tmp_path / "own")
    with pytest.raises(CheckpointError, match="config.json is not the configuration of a VAEGAN"):
        VAEGAN.from_pretrained(tmp_path / "own")
    with pytest.raises(CheckpointError, match=r"of other networks: latent_shape is \(4,\) there and \(2, 2, 2\) in th"):
        make_networks(latent="map").load_weights(tmp_path / "own")
    with pytest.raises(CheckpointError, match="of another architecture than the model: it has discriminator.conv"):
        make_networks("vae").load_weights(tmp_path / "own")
    with pytest.raises(CheckpointError, match="config.json is missing"):
        make_networks().load_weights(tmp_path)
    VAEGAN().save_pretrained(tmp_path / "vaegan")
    with pytest.raises(CheckpointError, match="is not the configuration of Networks"):
        make_networks().load_weights(tmp_path / "vaegan")
