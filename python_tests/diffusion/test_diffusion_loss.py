"""The loss of a batch, and its random numbers."""

import pytest
import torch
from exact import Gaussian

from sdgan_ext import diffusion
from sdgan_ext._errors import ConfigError

NULL = torch.tensor(9)


class Linear(torch.nn.Module):
    """A prediction from all that a network is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5, -0.25, 0.1], dtype=torch.float64))

    def forward(self, x_t, timesteps, condition):
        rest = self.weight[1] * timesteps / 1000 + (0 if condition is None else self.weight[2] * condition)
        return self.weight[0] * x_t + rest.reshape(-1, 1, 1, 1)


def batch(n=6):
    x_0 = torch.randn(n, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x_0, torch.arange(n)


def drawn(x_0, **settings):
    return diffusion.draw(x_0.shape, generator=torch.Generator().manual_seed(1), **settings)


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("name", diffusion.PARAMETRIZATIONS)
def test_written_out(name, gamma):
    path, network, (x_0, labels) = diffusion.parametrization(name), Linear(), batch()
    draws = drawn(x_0, condition_dropout=0.5)
    assert 0 < draws.dropped.sum() < len(x_0)
    found = diffusion.diffusion_loss(network, path, x_0, labels, draws=draws, null=NULL, min_snr_gamma=gamma)
    total = 0
    for i, t in enumerate(draws.t.double()):
        alpha, sigma = path.coefficients(draws.t[i])
        eps = draws.eps[i].double()
        target = eps - x_0[i] if name == "flow" else alpha * eps - sigma * x_0[i]
        label = 9 if draws.dropped[i] else i
        timestep = 1000 * t - (1 if name == "v" else 0)
        w = network.weight
        prediction = w[0] * (alpha * x_0[i] + sigma * eps) + w[1] * timestep / 1000 + w[2] * label
        error = (prediction - target).square().mean()
        torch.testing.assert_close(found.per_sample[i], error.detach(), rtol=1e-6, atol=1e-6)
        weight = 1 if gamma is None else min((alpha / sigma) ** 2, gamma) * sigma**2
        total = total + weight * error / len(x_0)
    torch.testing.assert_close(found.loss, total, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, network.weight)[0] for loss in (found.loss, total)), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(found.t, draws.t) and not found.per_sample.requires_grad


@pytest.mark.parametrize("name", diffusion.PARAMETRIZATIONS)
def test_the_best_prediction_has_the_least_loss(name):
    """What is left of it for data from N(-1, 0.8^2): the variance of the target given x_t."""
    path = diffusion.parametrization(name)
    x_0 = -1 + 0.8 * torch.randn(4000, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    draws = drawn(x_0, distribution="uniform")
    alpha, sigma = path.coefficients(draws.t)
    least = 0.8**2 / (alpha**2 * 0.8**2 + sigma**2)  # a determinant of 1 in (x_0, eps) -> (x_t, v)
    if name == "v":
        least = least * (alpha**2 + sigma**2) ** 2
    losses = {
        mean: diffusion.diffusion_loss(Gaussian(path, mean), path, x_0, draws=draws) for mean in (-1.0, -0.8, -1.2)
    }
    right = losses.pop(-1.0)
    assert right.per_sample.sub(least).mean() == pytest.approx(0, abs=0.01)
    assert all(right.loss < wrong.loss for wrong in losses.values())


def test_a_part_of_the_batch():
    """The mean over parts of equal size is that of the whole."""
    path, network, (x_0, labels) = diffusion.Flow(), Linear(), batch()
    draws = drawn(x_0, condition_dropout=0.5)
    whole = diffusion.diffusion_loss(network, path, x_0, labels, draws=draws, null=NULL).loss
    parts = [
        diffusion.diffusion_loss(network, path, x_0[rows], labels[rows], draws=draws.of_rows(rows), null=NULL).loss
        for rows in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)
    assert drawn(x_0).of_rows(slice(0, 2)).dropped is None


def test_the_dropout_changes_no_other_number():
    x_0 = batch()[0]
    first, second = drawn(x_0), drawn(x_0, condition_dropout=0.9)
    assert torch.equal(first.t, second.t) and torch.equal(first.eps, second.eps)
    assert first.dropped is None and second.dropped.any()
    torch.testing.assert_close(
        first.t, diffusion.draw_times(6, generator=torch.Generator().manual_seed(1)), rtol=0, atol=0
    )


def test_bfloat16_keeps_the_errors_in_float32():
    path, x_0 = diffusion.Flow(), batch()[0]
    found = diffusion.diffusion_loss(lambda x, t, c: x, path, x_0.bfloat16(), draws=drawn(x_0))
    assert found.loss.dtype == found.per_sample.dtype == torch.float32


def test_refused():
    path, network, (x_0, labels) = diffusion.Flow(), Linear(), batch()
    draws = drawn(x_0, condition_dropout=0.5)
    with pytest.raises(ConfigError, match="condition_dropout is above 0, and the model has no null condition"):
        diffusion.diffusion_loss(network, path, x_0, labels, draws=draws)
    with pytest.raises(ValueError, match=r"draws are for a batch of shape \[6, 2, 3, 3\], and x_0 has \[5, 2, 3, 3\]"):
        diffusion.diffusion_loss(network, path, x_0[:5], labels[:5], draws=draws, null=NULL)
    with pytest.raises(ValueError, match="condition has 5 rows, and x_0 has 6; each image needs one"):
        diffusion.diffusion_loss(network, path, x_0, labels[:5], draws=draws, null=NULL)
    with pytest.raises(ValueError, match=r"the network answers with shape \[6, 1, 3, 3\] to \[6, 2, 3, 3\]"):
        diffusion.diffusion_loss(lambda x, t, c: x[:, :1], path, x_0, draws=draws)
