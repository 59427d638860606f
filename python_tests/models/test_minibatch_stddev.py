"""The channel that gives the discriminator how much the images of a group differ."""

import pytest
import torch

from sdgan_ext.models import Discriminator, VAEGANConfig
from sdgan_ext.models.discriminator import MinibatchStdDev

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("n", "group", "size"), [(8, 4, 4), (4, 4, 4), (6, 4, 3), (2, 4, 2), (5, 4, 1), (9, 3, 3)])
def test_against_the_formula(n, group, size):
    x = torch.randn(n, 3, 4, 5, dtype=torch.float64)
    y = MinibatchStdDev(group)(x)
    assert y.shape == (n, 4, 4, 5) and torch.equal(y[:, :3], x)
    for i in range(n):
        members = x[i // size * size : (i // size + 1) * size]
        deviation = (members - members.mean(0)).square().mean(0).add(1e-8).sqrt().mean()
        torch.testing.assert_close(y[i, 3], deviation.expand(4, 5))


def test_derivatives_and_an_empty_batch():
    layer = MinibatchStdDev(2)
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x) and torch.autograd.gradgradcheck(layer, x)
    assert layer(torch.empty(0, 3, 4, 5)).shape == (0, 4, 4, 5)
    same = torch.ones(4, 2, 2, 2, requires_grad=True)
    assert torch.autograd.grad(layer(same).sum(), same)[0].isfinite().all()


def test_discriminator_sees_that_images_are_alike():
    torch.manual_seed(0)
    config = VAEGANConfig(image_size=8, discriminator_channels=(4,), generator_channels=(4,), encoder_channels=None)
    plain, grouped = Discriminator(config), Discriminator(config.replace(minibatch_stddev=4))
    assert grouped.logit.in_features == plain.logit.in_features + 4 * 4
    x = torch.rand(8, 1, 8, 8) * 2 - 1
    alike = x[:1].expand(8, 1, 8, 8)
    assert not torch.allclose(grouped(x)[0], grouped(alike)[0])
    grouped.minibatch_stddev.group = 1  # a group of its own: nothing but the image decides
    torch.testing.assert_close(grouped(x)[0], grouped(alike)[0])
    assert config.discriminator_mixes_images is False and grouped.config.discriminator_mixes_images
