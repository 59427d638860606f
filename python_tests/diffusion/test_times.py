"""Times of training: their distribution, the shift, the strata."""

import math

import pytest
import torch

from sdgan_ext._errors import ConfigError
from sdgan_ext.diffusion import DISTRIBUTIONS, draw_times, shift_times


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_shift():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(shift_times(t, 3.0), 3 * t / (1 + 2 * t))
    assert torch.equal(shift_times(t, 1.0), t)
    torch.testing.assert_close(shift_times(shift_times(t, 3.0), 1 / 3), t)


def test_a_shift_keeps_the_signal_of_a_larger_map():
    """At the shifted t the mean of m^2 noisy pixels has the SNR that one pixel has at t (Esser et al. 2024, 5.3.2)."""
    t, m = torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64), 3
    shifted = shift_times(t, float(m))
    torch.testing.assert_close((1 - shifted) / shifted * m, (1 - t) / t)


@pytest.mark.parametrize("shift", [1.0, 2.5])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_distribution(distribution, shift):
    """By its quantiles, which 20,000 strata hit within one stratum."""
    t = draw_times(20_000, distribution, mean=-0.4, std=1.3, shift=shift, generator=generator()).double()
    p = torch.tensor([0.01, 0.1, 0.25, 0.5, 0.9, 0.99], dtype=torch.float64)
    z = torch.tensor([-2.3263, -1.2816, -0.6745, 0.0, 1.2816, 2.3263], dtype=torch.float64)  # of N(0, 1)
    expected = p if distribution == "uniform" else 1 / (1 + torch.exp(0.4 - 1.3 * z))
    expected = shift * expected / (1 + (shift - 1) * expected)
    torch.testing.assert_close(t.quantile(p), expected, rtol=0, atol=5e-4)
    assert t.min() >= 0 and t.max() <= 1


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_each_time_has_the_whole_distribution(distribution):
    """The first row's is not the lowest: over many batches its mean and spread are those of all."""
    draws = torch.stack([draw_times(4, distribution, generator=generator(seed)) for seed in range(2000)])
    for row in draws.T:
        assert row.mean() == pytest.approx(0.5, abs=0.02)
        assert row.std() == pytest.approx(draws.std().item(), rel=0.05)


def test_strata():
    """One in each sixteenth, so that the mean of a batch hardly varies; of 16 independent times it varies by 0.072."""
    draws = torch.stack([draw_times(16, "uniform", generator=generator(seed)) for seed in range(500)])
    assert torch.equal((16 * draws).floor().sort(1).values, torch.arange(16.0).expand(500, 16))
    assert draws.mean(1).std() == pytest.approx(math.sqrt(1 / 12 / 16) / 16, rel=0.1)


def test_the_generator_decides():
    first = draw_times(5, generator=generator(3))
    assert torch.equal(first, draw_times(5, generator=generator(3)))
    assert not torch.equal(first, draw_times(5, generator=generator(4)))
    assert first.shape == (5,) and first.dtype == torch.float32
    torch.manual_seed(0)
    state = torch.get_rng_state()
    draw_times(5, generator=generator())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            dict(distribution="cosine"),
            "distribution of the times is 'cosine'; allowed are 'uniform' and 'logit_normal'",
        ),
        (dict(std=0.0), "std of the times is 0.0; it must be a number above 0"),
        (dict(shift=-1.0), "shift is -1.0; it must be a number above 0, and 1 changes nothing"),
        (dict(shift=math.nan), "shift is nan"),
    ],
)
def test_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        draw_times(4, **arguments)
