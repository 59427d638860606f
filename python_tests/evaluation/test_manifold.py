"""Precision, recall, density and coverage on clouds small enough to count by hand."""

import math

import pytest
import torch

from sdgan_ext._errors import EvaluationError
from sdgan_ext.evaluation import manifold_metrics
from sdgan_ext.evaluation.manifold import neighbour_radii

pytestmark = pytest.mark.usefixtures("one_thread")


def line(*places):
    return torch.tensor(places, dtype=torch.float64)[:, None]


def test_radii_of_a_line():
    first, second = neighbour_radii(line(0, 1, 3, 7), (1, 2), chunk=3)
    assert first.tolist() == [1, 1, 2, 4] and second.tolist() == [3, 2, 3, 6]


def test_by_hand():
    """k = 1. Real balls: 0 +- 1, 1 +- 1, 10 +- 2, 12 +- 2; generated: 0.5 +- 5.5, 6 +- 1.5, 7.5 +- 1.5."""
    got = manifold_metrics(line(0, 1, 10, 12), line(0.5, 6, 7.5), k=1, k_density=1)
    assert got["precision"] == pytest.approx(1 / 3)  # 0.5 alone is in a real ball
    assert got["recall"] == pytest.approx(2 / 4)  # 0 and 1 are in the first generated ball
    assert got["density"] == pytest.approx(2 / 3)  # 0.5 in two balls; k M = 3
    assert got["coverage"] == pytest.approx(2 / 4)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_by_the_formula(chunk):
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randn(n, 6, dtype=torch.float64, generator=generator) for n in (60, 50))
    generated += 0.5

    def radius(points, k):
        return [sorted(math.dist(a, b) for b in points)[k] for a in points]

    r, g = real.tolist(), generated.tolist()
    r3, r5, g3 = radius(r, 3), radius(r, 5), radius(g, 3)
    inside = [[math.dist(a, b) <= r5[i] for b in g] for i, a in enumerate(r)]
    expected = {
        "precision": sum(any(math.dist(a, b) <= r3[i] for i, a in enumerate(r)) for b in g) / 50,
        "recall": sum(any(math.dist(a, b) <= g3[j] for j, b in enumerate(g)) for a in r) / 60,
        "density": sum(map(sum, inside)) / (5 * 50),
        "coverage": sum(map(any, inside)) / 60,
    }
    assert manifold_metrics(real, generated, chunk=chunk) == pytest.approx(expected)


def test_the_same_cloud_and_a_far_one():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    same = manifold_metrics(x, x)
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert set(manifold_metrics(x, x + 100).values()) == {0.0}


def test_a_collapsed_cloud_near_a_mode_is_precise_and_covers_little():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="collapsed"):
        got = manifold_metrics(x, x[:1].expand(50, 3))
    assert got["precision"] == 1 and got["recall"] <= 0.02 and got["coverage"] < 0.5


def test_bad_input_is_named():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(EvaluationError, match="k is 6; it must be an integer from 1 to 5, fewer than the images"):
        manifold_metrics(x, x, k=6)
    with pytest.raises(EvaluationError, match="k_density is 5; it must be an integer from 1 to 3"):
        manifold_metrics(x, x[:4], k_density=5)
    with pytest.raises(EvaluationError, match="real: all 6 images have the same features"):
        manifold_metrics(torch.ones(6, 3), x)
    with pytest.raises(EvaluationError, match="real holds NaN or infinity in 6 of 6 rows"):
        manifold_metrics(x * math.nan, x)
    with pytest.raises(EvaluationError, match="k is 3, but there are 3 points"):
        neighbour_radii(x[:3], (1, 3))
