"""FD and KID against their closed forms."""

import math

import pytest
import torch

from sdgan_ext._errors import EvaluationError
from sdgan_ext.evaluation import frechet_distance, kernel_distance

pytestmark = pytest.mark.usefixtures("one_thread")


def cloud(n, mean, covariance, seed):
    """n points whose mean and covariance are exactly these."""
    x = torch.randn(n, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x = x - x.mean(0)
    whiten = torch.linalg.inv(torch.linalg.cholesky(x.T.cov()))
    return x @ whiten.T @ torch.linalg.cholesky(covariance).T + mean


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def test_fd_of_two_gaussians():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    s1, s2 = a @ a.T + torch.eye(4), b @ b.T + torch.eye(4)
    m1, m2 = torch.randn(2, 4, dtype=torch.float64, generator=generator)
    expected = (m1 - m2).square().sum() + (s1 + s2 - 2 * root(root(s1) @ s2 @ root(s1))).trace()
    assert frechet_distance(cloud(50, m1, s1, 1), cloud(70, m2, s2, 2)) == pytest.approx(expected.item(), rel=1e-9)


def test_fd_of_isotropic_gaussians_and_of_itself():
    """|m1 - m2|^2 + D (s1 - s2)^2"""
    zero, eye = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    a, b = cloud(30, zero, 4 * eye, 0), cloud(40, zero + 2, 9 * eye, 1)
    assert frechet_distance(a, b) == pytest.approx(3 * 4 + 3 * 1)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_fd_keeps_its_digits_far_from_the_origin():
    zero, eye = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    assert frechet_distance(cloud(99, zero + 1e3, eye, 0), cloud(99, zero + 1e3, eye, 1)) == pytest.approx(0, abs=1e-4)


def kid_by_hand(x, y):
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    n = len(x)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    off = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (n * (n - 1))
    return (off - 2 * xy.mean()).item()


def test_kid_of_all_images_is_the_unbiased_mmd():
    x, y = (torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) + s for s in (0, 1))
    got = kernel_distance(x, y, subsets=3)
    assert got == pytest.approx({"kid": kid_by_hand(x, y), "kid_std": 0.0})


def test_kid_of_subsets_is_near_it_and_leaves_torchs_generator():
    x, y = (torch.randn(200, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) + s for s in (0, 1))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    got = kernel_distance(x, y, subset_size=100, seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert got["kid"] == pytest.approx(kid_by_hand(x, y), rel=0.1) and got["kid_std"] > 0
    assert got == kernel_distance(x, y, subset_size=100, seed=1) != kernel_distance(x, y, subset_size=100, seed=2)


@pytest.fixture(scope="module")
def features():
    return torch.randn(30, 4, generator=torch.Generator().manual_seed(0))


def test_too_few_images(features):
    with pytest.raises(EvaluationError, match="generated holds 4 images; a covariance of 4 features needs at least 5"):
        frechet_distance(features, features[:4])
    with pytest.raises(EvaluationError, match="real holds the features of 0 images"):
        frechet_distance(features[:0], features)
    with pytest.raises(EvaluationError, match="generated holds the features of 1 images, at least 2"):
        kernel_distance(features, features[:1])


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_bad_features(features, distance):
    with pytest.raises(EvaluationError, match="real: all 30 images have the same features"):
        distance(torch.ones(30, 4), features)
    with pytest.warns(UserWarning, match="generated: all 30 images have the same features.*collapsed"):
        distance(features, torch.ones(30, 4))
    spoilt = features.clone()
    spoilt[2, 1] = math.nan
    with pytest.raises(EvaluationError, match="generated holds NaN or infinity in 1 of 30 rows"):
        distance(features, spoilt)
    with pytest.raises(EvaluationError, match="real has 4 features and generated 3"):
        distance(features, features[:, :3])
    with pytest.raises(EvaluationError, match=r"real must be a float tensor of features \[N, D\]"):
        distance(features[0], features)


def test_bad_arguments(features):
    with pytest.raises(EvaluationError, match="subset_size is 1"):
        kernel_distance(features, features, subset_size=1)
    with pytest.raises(EvaluationError, match="subsets is 0"):
        kernel_distance(features, features, subsets=0)
