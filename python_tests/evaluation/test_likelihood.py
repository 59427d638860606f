"""-ELBO and IWAE against a linear Gaussian model, whose log p(x) is known, and a model of two pixels summed by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from sdgan_ext._errors import EvaluationError
from sdgan_ext.evaluation import binarise, elbo, iwae
from sdgan_ext.evaluation.likelihood import log_weights

pytestmark = pytest.mark.usefixtures("one_thread")
SIGMA = 0.5


class Linear:
    """x = W z + b + N(0, SIGMA^2), z ~ N(0, I), with its posterior (W's columns are orthogonal) or one beside it."""

    def __init__(self, off=0.0):
        generator = torch.Generator().manual_seed(0)
        q = torch.linalg.qr(torch.randn(16, 3, generator=generator, dtype=torch.float64))[0]
        self.gains = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64)
        self.w, self.b, self.off = q * self.gains, torch.full((16,), 0.1, dtype=torch.float64), off

    def encode(self, x):
        precision = 1 + self.gains**2 / SIGMA**2
        mean = (x.double().flatten(1) - self.b) @ self.w / SIGMA**2 / precision
        return SimpleNamespace(mean=mean + self.off, logvar=-precision.log().expand_as(mean))

    def decode(self, z):
        return (z @ self.w.T + self.b).reshape(-1, 1, 4, 4)

    def log_p(self, x):
        covariance = self.w @ self.w.T + SIGMA**2 * torch.eye(16)
        normal = torch.distributions.MultivariateNormal(self.b, covariance)
        return normal.log_prob(x.double().flatten(1))


class Conditional(Linear):
    """The same around another b for each class: 0.1 a class."""

    def encode(self, x, labels):
        return super().encode(x - 0.1 * labels[:, None, None, None])

    def decode(self, z, labels):
        return super().decode(z) + 0.1 * labels[:, None, None, None]


@pytest.fixture(scope="module")
def images():
    return (0.1 + 0.2 * torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)


def gaussian(**options):
    return {"likelihood": "gaussian", "scale": SIGMA} | options


def test_with_the_exact_posterior_one_draw_gives_log_p(images):
    """p(x, z) / q(z|x) is p(x) for every z then."""
    exact = -Linear().log_p(images).mean().item()
    assert iwae(Linear(), images, k=1, **gaussian())["nll"] == pytest.approx(exact, abs=1e-4)
    assert iwae(Linear(), images, k=7, chunk=3, batch_size=11, **gaussian())["nll"] == pytest.approx(exact, abs=1e-4)


def test_every_weight_is_log_p(images):
    weights = log_weights(Linear(), images, 5, chunk=2, **gaussian())
    assert weights.dtype == torch.float64 and weights.shape == (40, 5)
    torch.testing.assert_close(weights, Linear().log_p(images)[:, None].expand(40, 5), rtol=0, atol=1e-4)


def test_each_image_is_judged_by_its_own_label(images):
    """log p(x | y) is that of x - 0.1 y."""
    labels = torch.arange(40) % 3
    exact = -Linear().log_p(images - 0.1 * labels[:, None, None, None]).mean().item()
    got = iwae(Conditional(), images, labels=labels, k=7, chunk=3, batch_size=11, **gaussian())
    assert got["nll"] == pytest.approx(exact, abs=1e-4)
    got = elbo(Conditional(), images, labels=labels, samples=4000, batch_size=11, **gaussian())
    assert got["neg_elbo"] == pytest.approx(exact, abs=0.02)
    with pytest.raises(EvaluationError, match="labels has 39 for 40 images"):
        elbo(Conditional(), images, labels=labels[1:])


def test_neg_elbo_is_nll_plus_the_posteriors_error(images):
    exact = -Linear().log_p(images).mean().item()
    assert elbo(Linear(), images, samples=4000, **gaussian())["neg_elbo"] == pytest.approx(exact, abs=0.02)
    precision = 1 + Linear().gains ** 2 / SIGMA**2
    gap = 0.5 * (0.4**2 * precision).sum().item()  # KL(N(m + 0.4, v) || N(m, v))
    assert elbo(Linear(0.4), images, samples=4000, **gaussian())["neg_elbo"] == pytest.approx(exact + gap, abs=0.02)


def test_more_draws_tighten_the_bound_towards_log_p(images):
    exact = -Linear().log_p(images).mean().item()
    one, many = (iwae(Linear(0.4), images, k=k, **gaussian())["nll"] for k in (1, 2000))
    assert exact - 0.01 < many < exact + 0.02 < one


def test_neg_elbo_adds_up(images):
    got = elbo(Linear(0.4), images, **gaussian())
    assert got["neg_elbo"] == pytest.approx(got["reconstruction"] + got["kl"])
    mean = Linear(0.4).encode(images).mean
    variance = 1 / (1 + Linear().gains ** 2 / SIGMA**2)
    kl = 0.5 * (mean**2 + variance - 1 - variance.log()).sum(1).mean().item()
    assert got["kl"] == pytest.approx(kl)


class Fixed:
    """A posterior equal to the prior and a decoder that answers the same image whatever z is."""

    def __init__(self, *pixels):
        self.pixels = torch.tensor(pixels)

    def encode(self, x):
        return SimpleNamespace(mean=torch.zeros(len(x), 2), logvar=torch.zeros(len(x), 2))

    def decode(self, z):
        return self.pixels.expand(len(z), -1).reshape(len(z), 1, 1, -1)


def test_bernoulli_by_hand():
    """p = (0.75, 0.5); t = (1, 0) and the soft (0.6, 0.2)."""
    model = Fixed(0.5, 0.0)
    hard, soft = torch.tensor([1.0, -1.0]).reshape(1, 1, 1, 2), torch.tensor([0.2, -0.6]).reshape(1, 1, 1, 2)
    assert elbo(model, hard)["neg_elbo"] == pytest.approx(-math.log(0.75) - math.log(0.5))
    expected = -0.6 * math.log(0.75) - 0.4 * math.log(0.25) - math.log(0.5)
    assert elbo(model, soft)["neg_elbo"] == pytest.approx(expected)
    assert iwae(model, soft, k=3)["nll"] == pytest.approx(expected)


def test_a_certain_pixel_costs_a_finite_number():
    black = torch.full((1, 1, 1, 2), -1.0)
    assert elbo(Fixed(1.0, -1.0), black)["neg_elbo"] == pytest.approx(-math.log(1e-6), rel=1e-3)


def test_bytes_are_floats(images):
    bytes_ = ((images + 1) * 127.5).round().to(torch.uint8)
    same = bytes_.float() / 127.5 - 1
    assert elbo(Linear(), bytes_, **gaussian()) == pytest.approx(elbo(Linear(), same, **gaussian()))


def test_a_seed_means_the_same_number(images):
    a, b, c = (iwae(Linear(0.4), images, k=5, seed=seed, **gaussian())["nll"] for seed in (3, 3, 4))
    assert a == b != c


def test_binarise_draws_each_pixel_with_its_grey_as_probability():
    grey = torch.full((2000, 1, 2, 2), 0.5)
    drawn = binarise(grey, seed=0)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert ((drawn + 1) / 2).mean().item() == pytest.approx(0.75, abs=0.02)
    assert torch.equal(drawn, binarise(grey, seed=0)) and not torch.equal(drawn, binarise(grey, seed=1))
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2).expand(500, 1, 1, 2)
    assert torch.equal(binarise(ends)[:, 0, 0], torch.tensor([-1.0, 1.0]).expand(500, 2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 0}, "k is 0; it must be an integer from 1 to 100000"),
        ({"k": 10**6}, "k is 1000000"),
        ({"k": 2.5}, "k is 2.5"),
        ({"chunk": 0}, "chunk is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"likelihood": "poisson"}, "likelihood is 'poisson'; it must be one of 'bernoulli', 'gaussian'"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"scale": math.nan}, "scale is nan"),
    ],
)
def test_bad_arguments_are_named(images, change, words):
    with pytest.raises(EvaluationError, match=words):
        iwae(Linear(), images, **gaussian(**change))


def test_bad_images_and_models_are_named(images):
    with pytest.raises(EvaluationError, match="images holds NaN or infinity in 1 of 40 images"):
        elbo(Linear(), images.clone().index_fill_(0, torch.tensor(3), math.nan))
    with pytest.raises(EvaluationError, match="images holds 0 images, at least 1"):
        elbo(Linear(), images[:0])
    with pytest.raises(EvaluationError, match=r"images has values from .* to 2; floats must lie in \[-1, 1\]"):
        elbo(Linear(), images.clone().index_fill_(0, torch.tensor(3), 2.0))
    with pytest.raises(EvaluationError, match=r"images must be a tensor of images \[N, C, H, W\], shape \(4, 4\)"):
        elbo(Linear(), images[0, 0])
    with pytest.raises(EvaluationError, match="images have 3 channels; binarised images are grey"):
        binarise(images.expand(-1, 3, -1, -1))
    with pytest.raises(EvaluationError, match="the encoder's mean holds NaN"):
        elbo(Linear(math.nan), images)
    with pytest.raises(EvaluationError, match="the decoder's images hold NaN"):
        elbo(Fixed(math.nan, 0.0), torch.zeros(1, 1, 1, 2))
    with pytest.raises(EvaluationError, match="the decoder's images lie in 0 to 3; likelihood 'bernoulli' needs"):
        elbo(Fixed(3.0, 0.0), torch.zeros(1, 1, 1, 2))
    with pytest.raises(EvaluationError, match="the model has no encoder"):
        elbo(SimpleNamespace(encoder=None, encode=print), images)
