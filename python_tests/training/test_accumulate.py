"""A batch in parts, and in bfloat16: the same step, in less memory or in less precision."""

import pytest
import torch
from tiny import make_config, make_model

from sdgan_ext._errors import ConfigError
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.perceptual import perceptual_of
from sdgan_ext.training.steps import train_step

X = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def gradients(mode, steps=1, model=None, **changes):
    """Of the last of some steps, with their losses."""
    made = make_model(mode, **(model or {}))
    model = type(made)(made.config.replace(generator_norm="none"))
    model.load_state_dict({k: v for k, v in made.state_dict().items() if k in model.state_dict()})
    config = make_config(**{**dict(mode=mode, batch_size=8, r1_gamma=1.0, n_critic=2), **changes})
    optimizers, generator = make_optimizers(model, config), torch.Generator().manual_seed(2)
    labels = torch.arange(8) % model.config.classes if model.config.classes else None
    given = {"labels": labels, "generator": generator, "perceptual": perceptual_of(config, X.shape[1:])}
    for step in range(steps):
        losses = train_step(model, optimizers, X, config, step=step, **given)
    return losses, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("mode", ["gan", "vae", "vae-gan"])
def test_in_parts_it_is_the_same_step(mode, parts):
    losses, grads = gradients(mode)
    parted, parted_grads = gradients(mode, accumulate=parts)
    assert parted.keys() == losses.keys()
    torch.testing.assert_close(parted, losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parted_grads, grads, rtol=1e-3, atol=1e-5)


SETTINGS = [
    ({"classes": 3}, {"diffaugment": ("color", "translation", "cutout")}),
    ({}, {"r2_gamma": 0.5, "objective": "relativistic", "weight_l2": 0.1}),
    ({}, {"r1_gamma": 0.0, "gp_weight": 10.0, "objective": "wasserstein"}),
    ({"minibatch_stddev": 4}, {"clip_generator": 1e-3, "clip_encoder": 1e-3}),
    ({"learned_variance": True}, {"disc_start": 2, "disc_warmup": 1}),
    ({"learned_variance": True}, {"perceptual_weight": 0.5, "adaptive_weight": 0.5}),
]


@pytest.mark.parametrize(("model", "changes"), SETTINGS)
def test_in_parts_it_is_the_same_step_with(model, changes):
    settings = dict(steps=3, model=model, lr_encoder=1e-6, lr_generator=1e-6, lr_discriminator=1e-6, **changes)
    losses, grads = gradients("vae-gan", **settings)
    parted, parted_grads = gradients("vae-gan", accumulate=2, **settings)
    torch.testing.assert_close(parted, losses, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(parted_grads, grads, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("model", "changes"), SETTINGS)
def test_in_bfloat16_with(model, changes):
    settings = dict(steps=3, model=model, **changes)
    losses, _ = gradients("vae-gan", **settings)
    halves, grads = gradients("vae-gan", precision="bfloat16", **settings)
    assert halves.keys() == losses.keys()
    for name, loss in losses.items():
        assert halves[name].item() == pytest.approx(loss.item(), rel=0.1, abs=0.1), name
    assert all(grad is None or grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads.values())


def test_parts_must_hold_whole_groups():
    with pytest.raises(ConfigError, match="batch_size is 8 in 4 parts; with minibatch_stddev 4 it must be a multiple"):
        gradients("gan", model={"minibatch_stddev": 4}, accumulate=4)


def test_parts_must_be_equal():
    with pytest.raises(ConfigError, match="accumulate is 3; it must divide batch_size, 8"):
        make_config(batch_size=8, accumulate=3)


@pytest.mark.parametrize("mode", ["gan", "vae", "vae-gan"])
def test_in_bfloat16_the_weights_and_losses_stay_float32(mode):
    losses, grads = gradients(mode, steps=3)
    halves, half_grads = gradients(mode, steps=3, precision="bfloat16")
    assert all(loss.dtype == torch.float32 for loss in halves.values())
    for name, loss in losses.items():
        assert halves[name].item() == pytest.approx(loss.item(), rel=0.05, abs=0.05), name
    for name, grad in grads.items():
        assert half_grads[name].dtype == torch.float32
        assert not torch.equal(half_grads[name], grad) or not grad.any(), name  # it was in bfloat16
