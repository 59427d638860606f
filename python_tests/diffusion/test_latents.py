"""Scaling of latents, and z drawn anew from a cache of posteriors."""

import math

import pytest
import torch

from sdgan_ext._errors import ConfigError, DataError
from sdgan_ext.diffusion import LatentScaling, sample_posterior


def posteriors():
    generator = torch.Generator().manual_seed(0)
    mean = 3 + 2 * torch.randn(500, 4, 5, 5, generator=generator)
    return mean, -1 + 0.5 * torch.randn(mean.shape, generator=generator)


def test_normalize():
    scaling, z = LatentScaling(0.5, 3.0), torch.tensor([[3.0, 5.0, -1.0]])
    torch.testing.assert_close(scaling.normalize(z), torch.tensor([[0.0, 1.0, -2.0]]))
    torch.testing.assert_close(scaling.denormalize(scaling.normalize(z)), z)


@pytest.mark.parametrize("shift", [False, True])
def test_measured_of_posteriors(shift):
    """What is drawn from them has variance 1 then, and mean 0 with the shift."""
    mean, logvar = posteriors()
    scaling = LatentScaling.measured(mean, logvar, shift=shift)
    x = scaling.normalize(sample_posterior(mean, logvar, torch.randn(mean.shape)))
    assert x.std() == pytest.approx(1.0, abs=0.01)
    assert x.mean() == pytest.approx(0.0 if shift else 3 * scaling.scale, abs=0.02)


def test_measured_of_latents():
    z = posteriors()[0]
    assert LatentScaling.measured(z) == LatentScaling(1 / z.double().std(correction=0).item())


def test_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    small = dict(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, sample_size=8)
    vae = diffusers.AutoencoderKL(**small, scaling_factor=0.3611, shift_factor=0.1159)
    assert LatentScaling.from_config(vae.config) == LatentScaling(0.3611, 0.1159)
    assert LatentScaling.from_config(diffusers.AutoencoderKL(**small).config) == LatentScaling(0.18215, 0.0)


def test_sample_posterior():
    mean, logvar = torch.tensor([[1.0, -2.0]]), torch.tensor([[math.log(4.0), math.log(0.25)]])
    z = sample_posterior(mean, logvar, torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(z, torch.tensor([[3.0, -2.5]]))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "configuration has no scaling_factor"),
        ({"scaling_factor": 0.0}, "scaling_factor of the latents is 0.0; it must be a number above 0"),
        ({"scaling_factor": "1"}, "scaling_factor of the latents is '1'"),
        ({"scaling_factor": 1.0, "shift_factor": math.inf}, "shift_factor of the latents is inf; it must be a number"),
    ],
)
def test_refused(config, words):
    with pytest.raises(ConfigError, match=words):
        LatentScaling.from_config(config)


@pytest.mark.parametrize("latents", [torch.ones(3, 2), torch.tensor([1.0, math.nan])], ids=["constant", "nan"])
def test_latents_that_cannot_be_scaled(latents):
    with pytest.raises(DataError, match="the latents have a variance of (0.0|nan); it must be finite and above 0"):
        LatentScaling.measured(latents)
