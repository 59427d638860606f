"""A batch in parts, and in bfloat16: the same step, in less memory or in less precision."""

import pytest
import torch
from tiny import make_config, make_model

from sdgan_ext._errors import ConfigError
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.steps import train_step

X = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def gradients(mode, steps=1, **changes):
    """Of the last of some steps, with their losses."""
    model = make_model(mode)
    model = type(model)(model.config.replace(generator_norm="none"))
    model.load_state_dict({k: v for k, v in make_model(mode).state_dict().items() if k in model.state_dict()})
    config = make_config(mode=mode, batch_size=8, r1_gamma=1.0, n_critic=2, **changes)
    optimizers, generator = make_optimizers(model, config), torch.Generator().manual_seed(2)
    for step in range(steps):
        losses = train_step(model, optimizers, X, config, step=step, generator=generator)
    return losses, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("mode", ["gan", "vae", "vae-gan"])
def test_in_parts_it_is_the_same_step(mode, parts):
    losses, grads = gradients(mode)
    parted, parted_grads = gradients(mode, accumulate=parts)
    assert parted.keys() == losses.keys()
    torch.testing.assert_close(parted, losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parted_grads, grads, rtol=1e-3, atol=1e-5)


def test_parts_must_be_equal():
    with pytest.raises(ConfigError, match="accumulate is 3; it must divide batch_size, 8"):
        make_config(batch_size=8, accumulate=3)


@pytest.mark.parametrize("mode", ["gan", "vae", "vae-gan"])
def test_in_bfloat16_the_weights_and_losses_stay_float32(mode):
    losses, grads = gradients(mode, steps=3)
    halves, half_grads = gradients(mode, steps=3, precision="bfloat16")
    assert all(loss.dtype == torch.float32 for name, loss in halves.items() if "kl" not in name)
    for name, loss in losses.items():
        assert halves[name] == pytest.approx(loss.item(), rel=0.05, abs=0.05), name
    for name, grad in grads.items():
        assert half_grads[name].dtype == torch.float32
        assert not torch.equal(half_grads[name], grad) or not grad.any(), name  # it was in bfloat16
