"""Configurations: what they accept, how they refuse, how they are saved."""

import json
from dataclasses import FrozenInstanceError, fields

import pytest

from sdgan_ext._errors import ConfigError
from sdgan_ext.models import VAEGANConfig
from sdgan_ext.presets import PRESETS, preset
from sdgan_ext.training.autoencoder_config import AutoencoderConfig
from sdgan_ext.training.config import TrainConfig


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_size": 0}, "image_size.0. is 0; it must be an integer, at least 1"),
        ({"image_size": (28, 28, 1)}, r"image_size is \(28, 28, 1\); it must be a sequence of 2 integers"),
        ({"image_size": "28"}, "image_size is '28'; it must be an integer"),
        ({"image_size": 28.0}, "image_size is 28.0; it must be an integer"),
        ({"channels": True}, "channels is True; it must be an integer"),
        ({"latent_dim": -1}, "latent_dim is -1; it must be an integer, at least 1"),
        ({"encoder_channels": ()}, r"encoder_channels is \(\); it must be a sequence of one or more integers"),
        ({"encoder_channels": 32}, "encoder_channels is 32; it must be a sequence of one or more integers"),
        ({"encoder_channels": (32, 0)}, r"encoder_channels\[1\] is 0"),
        ({"generator_channels": None}, "generator_channels is None"),
        ({"generator_channels": (64,), "generator_head": "conv"}, "it needs two or more"),
        ({"kernel_size": 1}, "kernel_size is 1; it must be an integer, at least 2"),
        ({"generator_norm": "spectral"}, "generator_norm is 'spectral'; allowed are 'none', 'batch'"),
        ({"discriminator_norm": "spectrl"}, "did you mean 'spectral'"),
        ({"encoder_activation": "gelu"}, "encoder_activation is 'gelu'; allowed are 'relu'"),
        ({"generator_head": "dense"}, "generator_head is 'dense'; allowed are"),
        ({"minibatch_stddev": 1}, "minibatch_stddev is 1; one image does not deviate from itself"),
        ({"learned_variance": 1}, "learned_variance is 1; it must be true or false"),
        ({"classes": -1}, "classes is -1; it must be an integer, at least 0"),
        ({"init": "kaiming"}, "init is 'kaiming'; allowed are"),
        ({"negative_slope": float("nan")}, "negative_slope is nan; it must be a number, at least 0"),
        ({"image_size": 4, "encoder_channels": (8, 8, 8)}, "image of 4x4 can be halved only 2 times"),
        (
            {"image_size": (64, 3), "generator_channels": (8, 8, 8)},
            "generator_channels .* 3 up blocks, .* 2 times",
        ),
    ],
)
def test_model_config_refuses_in_one_sentence(values, words):
    with pytest.raises(ConfigError, match=words) as refusal:
        VAEGANConfig(**values)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mode": "vaegan"}, "mode is 'vaegan'; allowed are 'gan', 'vae', 'vae-gan', did you mean 'vae-gan'"),
        ({"batch_size": 0}, "batch_size is 0; it must be an integer, at least 1"),
        ({"steps": 10.0}, "steps is 10.0; it must be an integer"),
        ({"lr_encoder": 0}, "lr_encoder is 0.0; it must be a number, above 0"),
        ({"lr_generator": "1e-4"}, "lr_generator is '1e-4'; it must be a number"),
        ({"betas": (0.5, 1.0)}, "betas is .*; both must be below 1"),
        ({"betas": (0.5,)}, "betas is .*; it must be a sequence of 2 numbers"),
        ({"betas": (-0.1, 0.9)}, r"betas\[0\] is -0.1; it must be a number, at least 0 and at most 1"),
        ({"objective": "hing"}, "objective is 'hing'; allowed are .*, did you mean 'hinge'"),
        ({"real_target": 1.1}, "real_target is 1.1; it must be a number, above 0 and at most 1"),
        ({"real_target": 0.9, "objective": "hinge"}, "but objective 'hinge' has no target"),
        ({"pixel_weight": 0.0}, "pixel_weight and feature_weight must not be 0 in mode 'vae-gan'"),
        ({"mode": "vae", "pixel_weight": 0, "feature_weight": 1}, "pixel_weight must not be 0 in mode 'vae'"),
        ({"kl_weight": float("inf")}, "kl_weight is inf"),
        ({"betas": (0.5, 1.5)}, r"betas\[1\] is 1.5; it must be a number, at least 0 and at most 1"),
        ({"n_critic": 0}, "n_critic is 0"),
        ({"feature_layer": "last"}, "feature_layer is 'last'; it must be an integer"),
        (
            {"diffaugment": ("colour",)},
            "is 'colour'; allowed are 'color', 'translation', 'cutout', did you mean 'color'",
        ),
        ({"diffaugment": ()}, r"diffaugment is \(\); it must be a sequence of one or more words"),
        ({"diffaugment": "color"}, "diffaugment is 'color'; it must be a sequence of one or more words"),
        ({"pixel_loss": "l2"}, "pixel_loss is 'l2'; allowed are 'mse', 'l1'"),
        ({"free_bits": 0.1, "kl_weight": 0}, "free_bits is 0.1, but kl_weight is 0: every bit is free"),
        ({"gp_weight": 10, "r1_gamma": 1}, "gp_weight is 10.0 and r1_gamma is above 0: the one draws .* gradient to 1"),
        ({"gp_weight": 10, "r2_gamma": 1}, "gp_weight is 10.0 and r2_gamma is above 0"),
        ({"disc_start": 5, "disc_warmup": 6}, "disc_warmup is 6, but there are 5 steps before disc_start"),
        ({"mode": "gan", "disc_start": 5}, "in mode 'gan' there is nothing else to train before the adv"),
        (
            {"mode": "gan", "adaptive_weight": 0.5},
            "adaptive_weight is 0.5, but mode is 'gan': it weighs adversarial terms against",
        ),
        ({"mode": "gan", "prior_images": False}, "prior_images is false, but in mode 'gan' there are no other images"),
        ({"mode": "vae", "adaptive_weight": 0.5}, "adaptive_weight is 0.5, but mode is 'vae'"),
        ({"adaptive_weight": 0.5, "gamma": 0}, "adaptive_weight is 0.5, but gamma is 0"),
        ({"lr_halving_steps": 5, "lr_cosine_steps": 5}, "lr_halving_steps is 5 and lr_cosine_steps 5: .* in one way"),
        ({"lr_final": 0.1}, "lr_final is 0.1, but lr_cosine_steps is 0: there is no fall that it ends"),
    ],
)
def test_train_config_refuses_in_one_sentence(values, words):
    with pytest.raises(ConfigError, match=words) as refusal:
        TrainConfig(**values)
    assert "\n" not in str(refusal.value)


def test_values_are_normalised():
    config = VAEGANConfig(image_size=[33, 47], encoder_channels=[8], negative_slope=0)
    assert config.image_size == (33, 47) and config.encoder_channels == (8,)
    assert isinstance(config.negative_slope, float)
    assert VAEGANConfig(image_size=32).image_size == (32, 32)
    assert VAEGANConfig(encoder_channels=None).encoder_channels is None
    assert hash(config) == hash(config.replace())
    with pytest.raises(FrozenInstanceError):
        config.channels = 3


@pytest.mark.parametrize("kind", [VAEGANConfig, TrainConfig, AutoencoderConfig])
def test_every_field_has_help(kind):
    assert all(item.metadata["help"] for item in fields(kind))


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip_through_json(name):
    for config in preset(name):
        values = json.loads(json.dumps(config.to_dict()))
        assert values["format_version"] == 1
        assert type(config).from_dict(values) == config


def test_from_dict_refuses_what_it_does_not_know():
    with pytest.raises(ConfigError, match="VAEGANConfig has no field 'latent_dims', did you mean 'latent_dim'"):
        VAEGANConfig.from_dict({"latent_dims": 3})
    with pytest.raises(ConfigError, match="has no field 'stepz', did you mean 'steps'"):
        TrainConfig().replace(stepz=3)
    for version in (2, "new"):
        with pytest.raises(ConfigError, match="format_version is .*, this sdgan_ext reads up to 1; update it"):
            VAEGANConfig.from_dict({"format_version": version, "from_the_future": 1})
    with pytest.raises(ConfigError, match="made from a mapping of its fields, got list"):
        VAEGANConfig.from_dict([1])


def test_for_mode_leaves_out_the_untrained_network():
    config = VAEGANConfig()
    assert config.for_mode("gan").encoder_channels is None
    assert config.for_mode("vae").discriminator_channels is None
    assert config.for_mode("vae-gan") == config
    learned = config.replace(learned_variance=True)
    assert learned.for_mode("vae").learned_variance and not learned.for_mode("gan").learned_variance
    with pytest.raises(ConfigError, match="mode is 'ae'"):
        config.for_mode("ae")


def test_unknown_preset_names_the_nearest():
    with pytest.raises(
        ConfigError, match="there is no preset 'mnist-smal', did you mean 'mnist-small'.; there are seed"
    ):
        preset("mnist-smal")
