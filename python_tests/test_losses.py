"""Losses and regularisers against their formulas, with second derivatives where training needs them."""

import pytest
import torch

from sdgan_ext import losses
from sdgan_ext.models import Discriminator, VAEGANConfig
from sdgan_ext.ops import reference

pytestmark = pytest.mark.usefixtures("one_thread")


def discriminator(**changes):
    torch.manual_seed(0)
    settings = dict(image_size=(6, 7), discriminator_channels=(4, 5), discriminator_activation="tanh", init="torch")
    return Discriminator(
        VAEGANConfig(**{**settings, "generator_channels": (4,), "encoder_channels": (4,), **changes})
    ).double()


def batch(n=4, seed=0):
    return torch.rand(n, 1, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_objectives_are_the_ops():
    real, fake = torch.randn(5, 1), torch.randn(5, 1)
    for objective in ("non_saturating", "minimax", "hinge", "least_squares", "wasserstein", "relativistic"):
        torch.testing.assert_close(
            losses.discriminator_loss(real, fake, objective), reference.discriminator_loss(real, fake, objective)
        )
        torch.testing.assert_close(
            losses.generator_loss(fake, real, objective), reference.generator_loss(fake, real, objective)
        )


def test_kl():
    mean, logvar = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(losses.kl(mean, logvar), 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / 4)
    assert losses.kl(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


def test_pixel_and_feature_loss():
    x_hat, x = batch().requires_grad_(), batch(seed=1).requires_grad_()
    expected = 0.5 * (x_hat - x).square().sum() / 4
    torch.testing.assert_close(losses.pixel_loss(x_hat, x), expected)
    loss = losses.feature_loss(x_hat, x)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    torch.testing.assert_close(x_hat.grad, (x_hat - x).detach() / 4)
    assert x.grad is None  # the target is a constant


def test_r1_of_a_linear_discriminator():
    weight = torch.randn(42, 1, dtype=torch.float64, requires_grad=True)
    x = batch().requires_grad_()
    penalty = losses.r1_penalty(x.flatten(1) @ weight, x, gamma=3.0)
    torch.testing.assert_close(penalty, 1.5 * weight.square().sum())
    (grad,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(grad, 3.0 * weight)


@pytest.mark.parametrize("norm", ["none", "spectral"])
@pytest.mark.parametrize("kind", ["r1", "gradient_penalty"])
def test_penalties_have_a_gradient_in_every_weight(kind, norm):
    d = discriminator(discriminator_norm=norm).eval()  # evaluation: spectral norm stands still
    x, x_hat = batch(), batch(seed=1)

    def penalty():
        if kind == "r1":
            real = x.clone().requires_grad_()
            return losses.r1_penalty(d(real), real, 10.0)
        return losses.gradient_penalty(d, x, x_hat, 10.0, generator=torch.Generator().manual_seed(2))

    weights = [parameter for parameter in d.parameters() if parameter.dim() > 1]
    grads = torch.autograd.grad(penalty(), weights)
    for weight, grad in zip(weights, grads, strict=True):
        direction = torch.randn_like(weight)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * 1e-5 * direction
            values.append(penalty().detach())
            with torch.no_grad():
                weight -= sign * 1e-5 * direction
        numeric = (values[0] - values[1]) / 2e-5
        assert numeric.abs() > 1e-6
        torch.testing.assert_close((grad * direction).sum(), numeric, rtol=1e-4, atol=1e-7)


def test_gradient_penalty_is_zero_at_slope_one():
    weight = torch.randn(42, 1, dtype=torch.float64)
    weight = weight / weight.norm()
    penalty = losses.gradient_penalty(lambda u: u.flatten(1) @ weight, batch(), batch(seed=1), 10.0)
    torch.testing.assert_close(penalty, torch.zeros((), dtype=torch.float64))
    penalty = losses.gradient_penalty(lambda u: u.flatten(1) @ (3 * weight), batch(), batch(seed=1), 10.0)
    torch.testing.assert_close(penalty, torch.full((), 40.0, dtype=torch.float64))
