"""The optimizers of a step: rates, schedules, the correction of lazy penalties, and what they refuse."""

import math

import pytest
from test_steps import images_like, tiny

from sdgan_ext._errors import ConfigError
from sdgan_ext.training import steps
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.optimizers import learning_rate_scale, make_optimizers, set_learning_rates


def test_optimizers_take_their_own_rates():
    config = TrainConfig(lr_encoder=1e-3, lr_generator=2e-3, lr_discriminator=3e-3, betas=(0.1, 0.9))
    optimizers = make_optimizers(tiny(), config)
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()}
    assert rates == {"encoder": 1e-3, "generator": 2e-3, "discriminator": 3e-3}
    assert all(optimizer.param_groups[0]["betas"] == (0.1, 0.9) for optimizer in optimizers.values())


def test_lazy_r1_corrects_the_discriminators_adam():
    optimizers = make_optimizers(tiny(), TrainConfig(r1_gamma=1.0, r1_every=16, betas=(0.5, 0.99)))
    group = optimizers["discriminator"].param_groups[0]
    assert group["lr"] == pytest.approx(2e-4 * 16 / 17)
    assert group["betas"] == pytest.approx((0.5 ** (16 / 17), 0.99 ** (16 / 17)))
    assert optimizers["generator"].param_groups[0]["lr"] == 2e-4
    for eager in (TrainConfig(r1_gamma=1.0, r1_every=1), TrainConfig(r1_gamma=0.0)):
        assert make_optimizers(tiny(), eager)["discriminator"].param_groups[0]["lr"] == 2e-4


def test_lazy_r2_corrects_it_too():
    group = make_optimizers(tiny(), TrainConfig(r2_gamma=1.0, r1_every=4))["discriminator"].param_groups[0]
    assert group["lr"] == pytest.approx(2e-4 * 4 / 5) and group["betas"] == pytest.approx((0.5**0.8, 0.999**0.8))


def test_learning_rates_rise_and_fall_along_a_cosine():
    rise = TrainConfig(lr_warmup_steps=4)
    assert [learning_rate_scale(rise, step) for step in (0, 1, 3, 4, 100)] == [0.25, 0.5, 1, 1, 1]
    fall = TrainConfig(lr_hold_steps=10, lr_cosine_steps=20, lr_final=0.1)
    scales = [learning_rate_scale(fall, step) for step in (0, 10, 15, 20, 30, 99)]
    assert scales == pytest.approx([1, 1, 0.1 + 0.45 * (1 + math.cos(math.pi / 4)), 0.55, 0.1, 0.1])
    both = fall.replace(lr_warmup_steps=20)
    assert learning_rate_scale(both, 15) == pytest.approx(16 / 20 * scales[2])


def test_learning_rate_is_a_function_of_the_step():
    config = TrainConfig(steps=100, lr_hold_steps=50, lr_halving_steps=25)
    assert [learning_rate_scale(config, step) for step in (0, 50, 75, 100, 200)] == [1, 1, 0.5, 0.25, 2**-6]
    assert learning_rate_scale(TrainConfig(steps=100), 99) == 1
    optimizers = make_optimizers(tiny(), config)
    for step in (75, 10, 75):  # in any order
        set_learning_rates(optimizers, config, step)
    assert optimizers["encoder"].param_groups[0]["lr"] == pytest.approx(1e-4)
    model = tiny()
    optimizers = make_optimizers(model, config)
    steps.train_step(model, optimizers, images_like(model), config, step=75)
    assert all(optimizer.param_groups[0]["lr"] == pytest.approx(1e-4) for optimizer in optimizers.values())


@pytest.mark.parametrize(
    ("model", "train", "words"),
    [
        ({"encoder_channels": None}, {}, "trains the encoder, but the model has none"),
        ({"discriminator_channels": None}, {"mode": "gan"}, "trains the discriminator, but the model has none"),
        ({"discriminator_norm": "batch"}, {"r1_gamma": 1.0}, "r1_gamma must be 0 with batch norm in the discriminator"),
        ({"discriminator_norm": "batch"}, {"r2_gamma": 1.0}, "r2_gamma must be 0 with batch norm in the discriminator"),
        (
            {"discriminator_norm": "batch"},
            {"gp_weight": 1.0},
            "gp_weight must be 0 with batch norm in the discriminator",
        ),
        (
            {"minibatch_stddev": 4},
            {"batch_size": 6},
            "batch_size is 6; with minibatch_stddev 4 it must be a multiple of 4",
        ),
        ({"learned_variance": True}, {"mode": "gan"}, "learned_variance must be false: .* but mode is 'gan'"),
        ({"learned_variance": True}, {"pixel_weight": 0.0, "feature_weight": 1.0}, "but pixel_weight is 0"),
        ({}, {"objective": "wasserstein"}, "objective 'wasserstein' needs a discriminator whose gradient is bounded"),
        ({}, {"feature_weight": 1.0, "feature_layer": 2}, "feature_layer is 2; the discriminator has 2 layers"),
        ({}, {"feature_weight": 1.0, "feature_layer": -3}, "so -2 to 1 are allowed"),
    ],
)
def test_refuses_what_does_not_fit_together(model, train, words):
    with pytest.raises(ConfigError, match=words):
        make_optimizers(tiny(**model), TrainConfig(**train))
