"""Distances between two clouds of features: Frechet and kernel, the mathematics of FID and KID by torchmetrics.

With features of the shipped nets they are called ``lenet-fd`` or ``photos-fd``, never FID: FID is the same formula on
Inception's features, and the numbers have nothing to do with each other.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .._errors import EvaluationError
from ._images import check_features, check_whole

__all__ = ["frechet_distance", "kernel_distance"]


class _Given(nn.Module):
    """A feature extractor for images that are features already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` of the means and covariances (Heusel et al. 2017), in float64.

    Args:
        real, generated: [N, D] features, N > D: with fewer images a covariance has directions without any variance.

    Returns:
        0 for the same Gaussian. Biased upwards, by about 1 / N: compare at equal N alone (Chong & Forsyth 2020).

    Raises:
        EvaluationError: too few images, NaN, two lengths of features, real images that are all alike.
    """
    real, generated = check_clouds(real, generated, None)
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(real.shape[1])).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    distance: float = metric.compute().item()
    return max(distance, 0.0)


def kernel_distance(
    real: Tensor, generated: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> dict[str, float]:
    """The squared MMD with kernel ``(x . y / D + 1)^3``, unbiased in its real and its generated term (KID).

    Binkowski et al. 2018: the mean over ``subsets`` random subsets of ``subset_size`` images of each kind.

    Args:
        real, generated: [N, D] features.
        subset_size: what there are fewer of, takes all of them.

    Returns:
        ``kid`` and ``kid_std``, the standard deviation over the subsets, 0 where one takes all. Equal clouds have a
        ``kid`` around 0, also below it.

    Raises:
        EvaluationError: fewer than 2 images, NaN, two lengths of features, real images that are all alike.
    """
    real, generated = check_clouds(real, generated, 2)
    check_whole(subsets, "subsets", 1)
    check_whole(subset_size, "subset_size", 2)
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(subset_size, len(real), len(generated))
    if size == len(real) == len(generated):
        subsets = 1  # all would be the same images
    with warnings.catch_warnings(), _seeded(seed):
        warnings.filterwarnings("ignore", ".*will save all extracted features.*")
        metric = KernelInceptionDistance(feature=_Given(real.shape[1]), subsets=subsets, subset_size=size)
        metric.set_dtype(torch.float64)
        metric.update(real, real=True)
        metric.update(generated, real=False)
        mean, deviation = metric.compute()
    return {"kid": mean.item(), "kid_std": deviation.item()}


def check_clouds(real: Tensor, generated: Tensor, least: int | None) -> tuple[Tensor, Tensor]:
    """Both in float64, of one length; ``least`` rows, None: more than there are features."""
    bound = least or 1
    real, generated = check_features(real, "real", bound), check_features(generated, "generated", bound)
    if real.shape[1] != generated.shape[1]:
        raise EvaluationError(
            f"real has {real.shape[1]} features and generated {generated.shape[1]}; both must come from one net"
        )
    for name, cloud in (("real", real), ("generated", generated)):
        if least is None and len(cloud) <= cloud.shape[1]:
            raise EvaluationError(
                f"{name} holds {len(cloud)} images; a covariance of {cloud.shape[1]} features needs at least "
                f"{cloud.shape[1] + 1}, and ten times as many for a number to trust"
            )
        if len(cloud) > 1 and (cloud == cloud[0]).all():
            alike = f"{name}: all {len(cloud)} images have the same features, they are constant or copies of one"
            if cloud is real:
                raise EvaluationError(f"{alike}; nothing can be compared with them")
            warnings.warn(f"{alike}: the model has collapsed", stacklevel=3)
    return real, generated


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's own CPU generator at ``seed``, and afterwards where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
