"""Losses and regularisers against their formulas, with second derivatives where training needs them."""

import math

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


def test_gradient_penalty_is_zero_at_gradients_of_norm_one():
    weight = torch.randn(42, 1, dtype=torch.float64)
    weight = weight / weight.norm()
    penalty = losses.gradient_penalty(lambda u: u.flatten(1) @ weight, batch(), batch(seed=1), 10.0)
    torch.testing.assert_close(penalty, torch.zeros((), dtype=torch.float64))
    penalty = losses.gradient_penalty(lambda u: u.flatten(1) @ (3 * weight), batch(), batch(seed=1), 10.0)
    torch.testing.assert_close(penalty, torch.full((), 40.0, dtype=torch.float64))


def test_gradient_penalty_is_differentiable_where_the_gradient_is_zero():
    weight = torch.zeros(42, 1, dtype=torch.float64, requires_grad=True)
    penalty = losses.gradient_penalty(lambda u: u.flatten(1) @ weight, batch(), batch(seed=1), 10.0)
    (grad,) = torch.autograd.grad(penalty, weight)
    assert penalty == 10 and grad.isfinite().all()


def test_gradient_penalty_is_taken_at_the_given_points():
    seen = []
    x, x_hat, t = batch(), batch(seed=1), torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    losses.gradient_penalty(lambda u: seen.append(u.detach()) or u.flatten(1), x, x_hat, 10.0, t=t)
    torch.testing.assert_close(seen[0], (1 - t.reshape(-1, 1, 1, 1)) * x + t.reshape(-1, 1, 1, 1) * x_hat)


def test_r2_is_r1_at_generated_images():
    d, x_hat = discriminator(), batch(seed=1).requires_grad_()
    logits = d(x_hat)
    gradient = torch.autograd.grad(logits.sum(), x_hat, retain_graph=True)[0]
    torch.testing.assert_close(losses.r2_penalty(logits, x_hat, 0.3), 0.15 * gradient.square().sum() / 4)


def test_free_bits():
    kl = torch.tensor([[0.1, 2.0, 0.0], [0.3, 1.0, 0.6]], dtype=torch.float64, requires_grad=True)
    loss = losses.free_bits(kl, 0.25)  # means 0.2, 1.5, 0.3
    torch.testing.assert_close(loss, torch.tensor(0.25 + 1.5 + 0.3, dtype=torch.float64))
    (grad,) = torch.autograd.grad(loss, kl)
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0.5, 0.5]] * 2, dtype=torch.float64))
    assert losses.free_bits(kl, 0.0) == kl.sum() / 2


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_pixel_nll_is_a_likelihood(kind):
    """With the constant that it leaves out, -log p of torch's own distributions."""
    x_hat, x = batch(), batch(seed=1)
    s = torch.tensor(-0.7, dtype=torch.float64)
    law = torch.distributions.Normal if kind == "mse" else torch.distributions.Laplace
    expected = -law(x_hat, s.exp()).log_prob(x).sum() / 4
    constant = 42 * math.log(math.sqrt(2 * math.pi) if kind == "mse" else 2)
    torch.testing.assert_close(losses.pixel_nll(x_hat, x, s, kind) + constant, expected)


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_the_best_scale_is_the_deviation_of_a_pixel(kind):
    x_hat, x = batch(), batch(seed=1)
    error = (x - x_hat).square().mean().sqrt() if kind == "mse" else (x - x_hat).abs().mean()
    s = error.log().requires_grad_()
    (grad,) = torch.autograd.grad(losses.pixel_nll(x_hat, x, s, kind), s)
    assert grad.abs() < 1e-9


def test_absolute_pixel_loss():
    torch.testing.assert_close(
        losses.pixel_loss(batch(), batch(seed=1), "l1"), (batch() - batch(seed=1)).abs().sum() / 4
    )


def test_bernoulli_pixel_loss():
    """Cross-entropy with soft targets; with targets of 0 and 1 the likelihood of a binary image."""
    x_hat, x = batch().tanh().requires_grad_(), batch(seed=1).tanh()
    p, t = (x_hat + 1) / 2, (x + 1) / 2
    expected = -(t * p.log() + (1 - t) * (1 - p).log()).sum() / 4
    loss = losses.pixel_loss(x_hat.float(), x.float(), "bernoulli")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        *(torch.autograd.grad(of.double(), x_hat)[0] for of in (loss, expected)), rtol=1e-4, atol=1e-5
    )
    assert losses.pixel_loss(torch.ones(2, 3), torch.ones(2, 3), "bernoulli") == 0  # saturated, and finite
    assert losses.pixel_loss(-torch.ones(2, 3), torch.ones(2, 3), "bernoulli").isfinite()
    assert losses.pixel_loss(torch.tensor([[0.0, torch.nan]]), torch.ones(1, 2), "bernoulli").isnan()


def test_weight_penalty_leaves_biases_out():
    layer = torch.nn.Conv2d(2, 3, 3)
    expected = 0.1 * layer.weight.abs().sum() + 0.5 * 0.2 * layer.weight.square().sum()
    penalty = losses.weight_penalty(layer.parameters(), 0.1, 0.2)
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(
        torch.autograd.grad(penalty, layer.weight)[0], 0.1 * layer.weight.detach().sign() + 0.2 * layer.weight.detach()
    )
    assert losses.weight_penalty(layer.parameters()) == 0


def test_adaptive_weight():
    weight = losses.adaptive_weight([torch.tensor([3.0, 4.0], requires_grad=True)], [torch.tensor([0.3, 0.4])])
    torch.testing.assert_close(weight, torch.tensor(5 / (0.5 + 1e-4)))
    assert not weight.requires_grad
    assert losses.adaptive_weight([torch.ones(1)], [torch.zeros(1)]) == 1e4  # clamped
    assert losses.adaptive_weight([torch.zeros(1)], [torch.ones(1)]) == 0
