"""The pictures of a training run: samples, reconstructions, walks through the latent space."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data import LazyImages, batches
from ..data.loader import orders
from ..data.part import Part, lazy_images
from ..pictures import columns_of, image_grid, pairs_grid, seeded_latents
from .monitor import Monitor
from .networks import SavedModel
from .parts import in_parts

__all__ = ["Previews"]

_SAMPLES = 64  # images in a grid
_SHOWN_NUMBERS = 2**30  # of the largest activations of a grid, and four times as many of a film: they take their time
_PRIOR_IMAGES = 4096  # at most, whose latents the prior is fitted to
_PRIOR_NUMBERS = 2**26  # of their pixels, at most: they stay in memory
_WALKS, _STOPS, _STRIDE = 16, 3, 12  # interpolation.gif: walks side by side, latents of each, frames between two


class Previews:
    """The pictures of a run: of the same latents and the same inputs every time.

    Args:
        model: the averaged model, which is shown.
        dataset: where the inputs come from, and the images that a prior is fitted to.
        seed: of the run.
    """

    def __init__(self, model: SavedModel, dataset: Dataset, seed: int):
        self.model = model
        self.device = next(model.parameters()).device
        shape, classes = model.traits.latent_shape, model.traits.classes
        most = _SHOWN_NUMBERS // max(1, model.traits.largest_activation)
        samples = min(_SAMPLES, max(8, most))
        self.walking = min(_WALKS, max(1, 4 * most // (_STOPS * _STRIDE)))
        self.eps = seeded_latents(range(samples), shape).to(self.device)
        self.labels = (torch.arange(samples) % classes).to(self.device) if classes else None
        self.real, labels = next(batches(dataset, min(samples // 2, len(dataset)), seed=seed))
        self.real, self.real_labels = self.real.to(self.device), labels.to(self.device) if classes else None
        self.inputs = None if model.encoder is None else self.real

        self.prior_data = None
        if model.prior is not None:
            most = max(2, _PRIOR_NUMBERS // math.prod(model.traits.image_shape))
            count = min(_PRIOR_IMAGES, most, len(dataset))
            self.prior_data = _lazily(dataset, count, seed) or next(batches(dataset, count, seed=seed))

    @property
    def latents(self) -> Tensor:
        return self.model.latents(self.eps)

    def fit_prior(self, trained: SavedModel) -> None:
        """Fits the prior of the shown model, and gives it to the ``trained`` one, whose buffers the average copies."""
        if self.prior_data is None:
            return
        x, labels = (part.to(self.device) for part in self.prior_data)
        self.model.fit_prior(x, labels if self.model.traits.classes else None)
        trained.prior.load_state_dict(self.model.prior.state_dict())

    @torch.no_grad()
    def show(self, monitor: Monitor) -> None:
        """Samples and, where there is an encoder, reconstructions, in evaluation mode."""
        columns = columns_of(len(self.eps))
        made = in_parts(self.model, self.model.decode, self.latents, self.labels)
        monitor.picture("samples", image_grid(made, columns))
        if self.inputs is not None:
            outputs = in_parts(self.model, self.model.reconstruct, self.inputs, self.real_labels)
            monitor.picture("reconstructions", pairs_grid(self.inputs, outputs, columns))

    def walks(self) -> Iterable[Tensor]:
        """Frames of closed walks through the latent space, side by side."""
        count = self.walking
        labels = [None] * count if self.labels is None else self.labels[:count]
        walks = [
            torch.cat([self.model.interpolate(stops[i - 1], stops[i], _STRIDE + 1, label)[:-1] for i in range(_STOPS)])
            for stops, label in zip(self.latents[: count * _STOPS].split(_STOPS), labels, strict=True)
        ]
        return [image_grid(frame, columns_of(count)) for frame in torch.stack(walks, 1)]


class _Unread:
    """Images that are read lazily as one tensor of which parts are taken: thousands would take gigabytes as floats."""

    def __init__(self, images: LazyImages, indices: Tensor, device: torch.device | None = None):
        self.images, self.indices, self.device = images, indices, device

    def to(self, device: torch.device) -> _Unread:
        return _Unread(self.images, self.indices, device)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: slice) -> Tensor:
        return self.images.batch(self.indices[rows])[0].to(self.device)


def _lazily(dataset: Dataset, count: int, seed: int) -> tuple[_Unread, Tensor] | None:
    """The first batch of ``count``, of a dataset that is read lazily."""
    images = lazy_images(dataset)
    if images is None:
        return None
    _, indices = next(orders(len(dataset), count, seed, 0, True))
    if isinstance(dataset, Part):
        indices = dataset.indices[indices]
    labels = torch.full((count,), -1) if images.labels is None else images.labels[indices]
    return _Unread(images, indices), labels
