"""The prior that is fitted to latents: what it is, who asks it, that it is kept."""

import pytest
import torch

from sdgan_ext._errors import ConfigError
from sdgan_ext.data import RenderedDigits
from sdgan_ext.models import VAEGAN, FittedPrior, VAEGANConfig
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = dict(image_size=8, latent_dim=5, encoder_channels=(4,), generator_channels=(4,), discriminator_channels=(4,))


def latents(n=4000, dim=5):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return 3 + torch.randn(n, dim, generator=generator, dtype=torch.float64) @ mixing


def test_full_rank_has_the_latents_mean_and_covariance():
    prior, z = FittedPrior(5, 5).double(), latents()
    prior.fit(z)
    torch.testing.assert_close(prior.mean, z.mean(0))
    torch.testing.assert_close(prior.factor.T @ prior.factor, torch.cov(z.T))
    assert prior.scaling_factor.item() == pytest.approx(1 / z.std().item())


def test_lower_rank_keeps_the_largest_components():
    prior, z = FittedPrior(2, 5).double(), latents()
    prior.fit(z)
    kept = torch.linalg.eigvalsh(prior.factor @ prior.factor.T)
    torch.testing.assert_close(kept, torch.linalg.eigvalsh(torch.cov(z.T))[-2:])


def test_before_the_fit_it_is_standard_and_fewer_latents_than_components_do():
    prior, eps = FittedPrior(5, 5), torch.randn(3, 5)
    assert torch.equal(prior(eps), eps)
    prior.fit(torch.tensor([[1.0, 0, 0, 0, 0], [3.0, 0, 0, 0, 0]]))
    assert torch.linalg.matrix_rank(prior.factor) == 1
    torch.testing.assert_close(prior(torch.zeros(1, 5)), torch.tensor([[2.0, 0, 0, 0, 0]]))


def test_samples_are_of_the_fitted_prior(tmp_path):
    torch.manual_seed(0)
    model = VAEGAN(VAEGANConfig(**SMALL, prior_rank=3)).eval()
    before = model.sample(4, seed=0)
    x = torch.rand(40, 1, 8, 8) * 2 - 1
    model.fit_prior(x, batch_size=16)
    samples = model.sample(4, seed=0)
    assert not torch.equal(samples, before)
    eps = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    z = model.prior.mean + eps[:, :3] @ model.prior.factor
    assert torch.equal(samples, model.decode(z))
    model.save_pretrained(tmp_path)
    assert torch.equal(VAEGAN.from_pretrained(tmp_path).sample(4, seed=0), samples)


def test_a_run_fits_the_prior_of_the_model_that_it_saves(tmp_path):
    digits = RenderedDigits(0, 64, 8)
    torch.manual_seed(0)
    model = VAEGAN(VAEGANConfig(**SMALL, prior_rank=4))
    config = TrainConfig(steps=3, batch_size=16, log_every=1, sample_every=2, checkpoint_every=2)
    run = Trainer(model, config, out=tmp_path, progress=False).fit(digits)
    saved = VAEGAN.from_pretrained(run.model)
    assert torch.equal(saved.prior.mean, model.prior.mean) and saved.prior.mean.any()
    again = VAEGAN.from_pretrained(run.model)
    x = next(iter(torch.utils.data.DataLoader(digits, 64)))[0]
    again.fit_prior(x)
    torch.testing.assert_close(again.prior.mean, saved.prior.mean, rtol=0, atol=0.3)  # other draws of z, same images


def test_refusals():
    with pytest.raises(ValueError, match="prior_rank is 0"):
        VAEGAN(VAEGANConfig(**SMALL)).fit_prior(torch.zeros(4, 1, 8, 8))
    with pytest.raises(ValueError, match=r"latents has shape \(1, 5\); it must be \[N, 5\] of two or more"):
        FittedPrior(2, 5).fit(torch.zeros(1, 5))
    with pytest.raises(ConfigError, match="prior_rank is 6, but a latent vector has 5 numbers"):
        VAEGANConfig(**SMALL, prior_rank=6)
    with pytest.raises(ConfigError, match="without an encoder there are no latents"):
        VAEGANConfig(**{**SMALL, "encoder_channels": None}, prior_rank=2)
    assert VAEGANConfig(**SMALL, prior_rank=2).for_mode("gan").prior_rank == 0
