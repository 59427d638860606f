"""The exponential moving average against its formula."""

import io

import pytest
import torch

from sdgan_ext.models import VAEGAN, VAEGANConfig
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.ema import ema_beta, make_ema

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = dict(image_size=6, latent_dim=2, encoder_channels=(3,), generator_channels=(3,), discriminator_channels=(3,))


def wander(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
        for buffer in model.buffers():
            buffer += 1


def test_beta_halves_after_ema_images_and_ramps_up():
    assert ema_beta(10**9, 64, 64) == 0.5
    assert ema_beta(10**9, 50, 100) == pytest.approx(0.5**0.5)
    assert ema_beta(1000, 50, 10**9) == 0.5  # 0.05 * 1000 images
    assert ema_beta(64, 64, 10_000) < 1e-5  # the first batch: nearly nothing of the initial weights stays
    assert ema_beta(10**9, 64, 0) == 0


def test_average_follows_the_formula():
    config = TrainConfig(batch_size=10, ema_images=40)
    model = VAEGAN(VAEGANConfig(**MODEL))
    ema = make_ema(model, config)
    expected = None
    for update in range(1, 30):
        wander(model, update)
        ema.update_parameters(model)
        weight = model.generator.dense.weight.detach().clone()
        beta = 0.5 ** (10 / min(40, 0.05 * update * 10))
        expected = weight if expected is None else beta * expected + (1 - beta) * weight
        torch.testing.assert_close(ema.module.generator.dense.weight, expected, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in ema.parameters())


def test_batch_norm_statistics_are_copied():
    model = VAEGAN(VAEGANConfig(**MODEL, generator_norm="batch"))
    ema = make_ema(model, TrainConfig())
    for update in range(3):
        wander(model, update)
        ema.update_parameters(model)
    for copied, buffer in zip(ema.module.buffers(), model.buffers(), strict=True):
        assert torch.equal(copied, buffer)


def test_no_average_is_the_model_itself():
    model = VAEGAN(VAEGANConfig(**MODEL))
    ema = make_ema(model, TrainConfig(ema_images=0))
    for update in range(3):
        wander(model, update)
        ema.update_parameters(model)
    assert all(torch.equal(a, b) for a, b in zip(ema.module.parameters(), model.parameters(), strict=True))


def test_resumed_average_is_the_uninterrupted_one():
    config, torch_seed = TrainConfig(ema_images=200), 0
    torch.manual_seed(torch_seed)
    model = VAEGAN(VAEGANConfig(**MODEL))
    ema = make_ema(model, config)
    for update in range(6):
        if update == 3:
            file = io.BytesIO()
            torch.save(ema.state_dict(), file)
            file.seek(0)
            resumed = make_ema(VAEGAN(VAEGANConfig(**MODEL)), config)
            resumed.load_state_dict(torch.load(file, weights_only=True))
        wander(model, update)
        ema.update_parameters(model)
        if update >= 3:
            resumed.update_parameters(model)
    assert all(torch.equal(a, b) for a, b in zip(ema.state_dict().values(), resumed.state_dict().values(), strict=True))


def test_average_keeps_channels_last_weights():
    ema = make_ema(VAEGAN(VAEGANConfig(**MODEL)), TrainConfig())
    strides = [parameter.stride() for parameter in ema.module.generator.up_blocks[0].parameters()]
    assert strides == [p.stride() for p in VAEGAN(VAEGANConfig(**MODEL)).generator.up_blocks[0].parameters()]
