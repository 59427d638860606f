"""A prior that is fitted to the latents of a trained encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["FittedPrior"]


class FittedPrior(torch.nn.Module):
    """``N(mean, factor^T factor)``: the normal distribution of the latents' largest principal components.

    Where the KL weight is small (1e-6 in latent diffusion), the posteriors are nowhere near N(0, I), whose z decode to
    nothing. This is the simplest prior after the fact in which latents vary together (ex-post density estimation,
    Ghosh et al. 2020, with one component); diffusion is the better one.

    Buffers:
        mean: [Z].
        factor: [rank, Z]; until :meth:`fit` the first rows of the identity, so that with rank Z it is N(0, I).
        scaling_factor: 1 / the standard deviation of all latents, what diffusion multiplies them by (Rombach et al.
            2022, appendix G); 1 until :meth:`fit`.
    """

    mean: Tensor
    factor: Tensor
    scaling_factor: Tensor

    def __init__(self, rank: int, latent_dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("factor", torch.eye(rank, latent_dim))
        self.register_buffer("scaling_factor", torch.ones(()))

    def forward(self, eps: Tensor) -> Tensor:
        """Numbers from N(0, I) [N, Z], of which the first ``rank`` of each row are used, to latents [N, Z]."""
        return self.mean + eps[:, : len(self.factor)] @ self.factor

    @torch.no_grad()
    def fit(self, latents: Tensor) -> None:
        """To samples of the posteriors, [N, Z].

        Raises:
            ValueError: fewer than two latents, or another Z.
        """
        rank, dim = self.factor.shape
        if latents.dim() != 2 or latents.shape[1] != dim or len(latents) < 2:
            raise ValueError(f"latents has shape {tuple(latents.shape)}; it must be [N, {dim}] of two or more")
        mean = latents.mean(0)
        _, deviations, directions = torch.linalg.svd(latents - mean, full_matrices=False)
        factor = (deviations[:, None] * directions)[:rank] / math.sqrt(len(latents) - 1)
        self.mean.copy_(mean)
        self.factor.zero_()[: len(factor)] = factor.to(self.factor)
        self.scaling_factor.copy_(1 / latents.std())
