"""Are generated images near real ones, and all real ones near some generated? Precision, recall, density, coverage.

The manifold of a cloud is the union of balls, each around a point and up to its k-th nearest neighbour in the cloud.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import EvaluationError
from ._images import check_whole
from .distances import check_clouds

__all__ = ["manifold_metrics", "neighbour_radii"]


def manifold_metrics(
    real: Tensor, generated: Tensor, *, k: int = 3, k_density: int = 5, chunk: int = 1000
) -> dict[str, float]:
    """Precision and recall (Kynkaanniemi et al. 2019, k = 3), density and coverage (Naeem et al. 2020, k = 5).

    With B_k(x) the ball around x up to its k-th neighbour among its own kind:

    - ``precision``: share of generated points in some real ball B_k
    - ``recall``: share of real points in some generated ball B_k
    - ``density = 1/(k M) sum_j sum_i [g_j in B_k(r_i)]``: real balls that hold a generated point, by k; may exceed 1
    - ``coverage``: share of the real balls B_k with a generated point in them

    Args:
        real, generated: [N, D] and [M, D] features. All four depend on N and M: compare at equal numbers alone.
        k, k_density: below N and M.
        chunk: rows of the distance matrix at a time.

    Raises:
        EvaluationError: k too large, too few images, NaN, two lengths of features, real images that are all alike.
    """
    real, generated = check_clouds(real, generated, 2)
    most = min(len(real), len(generated)) - 1
    check_whole(k, "k", 1, most, ", fewer than the images")
    check_whole(k_density, "k_density", 1, most, ", fewer than the images")
    check_whole(chunk, "chunk", 1)
    centre = real.mean(0)  # distances by the product of matrices lose least around 0
    real, generated = real - centre, generated - centre
    real_radii = neighbour_radii(real, (k, k_density), chunk)
    (generated_radii,) = neighbour_radii(generated, (k,), chunk)
    in_real = torch.zeros(len(generated), dtype=torch.bool)
    inside = torch.zeros(len(generated), dtype=torch.int64)
    in_generated, covered = (torch.zeros(len(real), dtype=torch.bool) for _ in range(2))
    for start in range(0, len(real), chunk):
        rows = slice(start, start + chunk)
        distance = torch.cdist(real[rows], generated)
        in_real |= (distance <= real_radii[0][rows, None]).any(0)
        in_generated[rows] = (distance <= generated_radii).any(1)
        near = distance <= real_radii[1][rows, None]
        inside += near.sum(0)
        covered[rows] = near.any(1)
    return {
        "precision": in_real.double().mean().item(),
        "recall": in_generated.double().mean().item(),
        "density": inside.double().mean().item() / k_density,
        "coverage": covered.double().mean().item(),
    }


def neighbour_radii(points: Tensor, ks: tuple[int, ...], chunk: int = 1000) -> list[Tensor]:
    """The distance of each point to its k-th nearest other point, for each k of ``ks``. [N, D] -> [N] each"""
    if max(ks) >= len(points):
        raise EvaluationError(f"k is {max(ks)}, but there are {len(points)} points; it must be below that")
    parts = []
    for start in range(0, len(points), chunk):
        distance = torch.cdist(points[start : start + chunk], points)
        itself = torch.arange(len(distance)), torch.arange(start, start + len(distance))
        distance[itself] = 0  # without rounding
        parts.append(distance.topk(max(ks) + 1, largest=False).values)
    radii = torch.cat(parts)
    return [radii[:, k] for k in ks]
