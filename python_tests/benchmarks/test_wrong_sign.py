"""benchmarks/_wrong_sign.py: the same training but for the sign of G's adversarial terms."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdgan_ext import losses
from sdgan_ext.data import ImageDataset
from sdgan_ext.models import VAEGAN, VAEGANConfig
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.steps import encoder_generator_phase, forward
from sdgan_ext.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from _wrong_sign import wrong_sign  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = VAEGANConfig(
    image_size=8, latent_dim=4, encoder_channels=(4,), generator_channels=(4,), discriminator_channels=(4,)
)
PIXELS = torch.randint(0, 256, (16, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


def make_model(mode="vae-gan"):
    torch.manual_seed(0)
    return VAEGAN(MODEL.for_mode(mode))


def trained(mode="vae-gan"):
    model = make_model(mode)
    Trainer(model, TrainConfig(mode=mode, steps=4, batch_size=4), out=None, progress=False).fit(ImageDataset(PIXELS))
    return model.state_dict()


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def test_outside_the_trainer_is_untouched():
    before = trained()
    with wrong_sign():
        assert not same(before, trained())
    assert same(before, trained())


def test_a_vae_has_no_sign_to_be_wrong():
    before = trained("vae")
    with wrong_sign():
        assert same(before, trained("vae"))


@pytest.mark.parametrize("objective", ["non_saturating", "hinge", "wasserstein", "relativistic"])
def test_G_follows_Ds_loss_and_E_what_it_always_does(objective):
    """Against autograd of D's own loss at the same images."""
    config = TrainConfig(objective=objective, gamma=0.5)
    x = PIXELS[:4].float() / 127.5 - 1

    def gradients():
        model = make_model()
        images = forward(model, x, config, generator=torch.Generator().manual_seed(1))
        encoder_generator_phase(model, images, config)
        return model, {name: parameter.grad for name, parameter in model.named_parameters()}

    _, right = gradients()
    with wrong_sign():
        model, wrong = gradients()
    assert same({k: g for k, g in right.items() if k.startswith("encoder")}, wrong)
    images = forward(model, x, config, generator=torch.Generator().manual_seed(1))
    real = model.discriminator(x)
    loss = config.gamma * losses.pixel_loss(images.reconstructed, x)
    for made in (images.reconstructed, images.generated):
        loss = loss + losses.discriminator_loss(real, model.discriminator(made), objective)
    names = [name for name in right if name.startswith("generator")]
    parameters = dict(model.named_parameters())
    for name, expected in zip(names, torch.autograd.grad(loss, [parameters[n] for n in names]), strict=True):
        torch.testing.assert_close(wrong[name], expected, rtol=1e-4, atol=1e-6)


def test_the_command_takes_what_sdgan_ext_takes():
    command = [sys.executable, ROOT / "benchmarks" / "_wrong_sign.py", "train", "--data", "digits", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "mode: vae-gan" in done.stdout, done.stdout
