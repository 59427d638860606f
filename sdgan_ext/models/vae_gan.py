"""Encoder, generator and discriminator as one model that is saved, loaded and sampled from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .._errors import CheckpointError, ConfigError
from .._modes import evaluation_mode
from .config import VAEGANConfig
from .discriminator import Discriminator
from .encoder import Encoder
from .folder import read_config, read_weights, save_folder
from .generator import Generator
from .labels import as_labels
from .posterior import Posterior
from .prior import FittedPrior
from .traits import Traits
from .weights import check_weights, load_into

__all__ = ["VAEGAN", "check_enough", "slerp"]


class VAEGAN(torch.nn.Module):
    """The three networks of a VAE-GAN (Larsen et al. 2016); a VAE or a GAN where one of them is left out.

    Images are [N, channels, H, W] in [-1, 1]. Weights are kept in channels_last memory. With ``config.classes``
    everything takes ``labels``, int64 [N].

    Attributes:
        config: the :class:`VAEGANConfig` it was made from.
        encoder: images to :class:`Posterior`, or None.
        generator: latent vectors [N, latent_dim] to images.
        discriminator: images to logits [N, 1], or None.
        prior: a :class:`FittedPrior`, or None: N(0, I).
    """

    def __init__(self, config: VAEGANConfig | None = None):
        super().__init__()
        self.config = config = config or VAEGANConfig()
        self.encoder = Encoder(config) if config.encoder_channels else None
        self.generator = Generator(config)
        self.discriminator = Discriminator(config) if config.discriminator_channels else None
        self.prior = FittedPrior(config.prior_rank, config.latent_dim) if config.prior_rank else None
        for weight in self.parameters():
            # Not by Module.to: it leaves the strides of a single channel ambiguous, and the layers go by them.
            if weight.dim() == 4:
                weight.data = torch.empty_like(weight.data, memory_format=torch.channels_last).copy_(weight.data)

    @property
    def traits(self) -> Traits:
        """What a training step must know of the networks."""
        config = self.config
        return Traits(
            image_shape=(config.channels, *config.size),
            latent_shape=(config.latent_dim,),
            classes=config.classes,
            memory_format=torch.channels_last,
            learned_variance=config.learned_variance,
            generator_mixes_images=config.generator_norm == "batch",
            discriminator_mixes_images=config.discriminator_mixes_images,
            discriminator_batch_norm=config.discriminator_norm == "batch",
            discriminator_group=config.minibatch_stddev,
            discriminator_unbounded=config.discriminator_norm != "spectral",
        )

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """``decode(encode(x).mode())``, differentiable."""
        return self.decode(self.encode(x, labels).mode(), labels)

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Posterior:
        """The posterior q(z|x), differentiable. x is [N, channels, H, W]."""
        if self.encoder is None:
            raise ValueError("this model has no encoder (encoder_channels is None), so it cannot encode an image")
        posterior: Posterior = self.encoder(x) if labels is None else self.encoder(x, labels)
        return posterior

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """The generator's image, differentiable. [N, latent_dim] -> [N, channels, H, W]"""
        images: Tensor = self.generator(z) if labels is None else self.generator(z, labels)
        return images

    def latents(self, eps: Tensor) -> Tensor:
        """What :meth:`decode` takes, of the prior: ``eps`` itself, or the fitted prior's. N(0, I) [N, Z] -> [N, Z]"""
        return eps if self.prior is None else self.prior(eps)

    @torch.no_grad()
    def fit_prior(self, x: Tensor, labels: Tensor | None = None, *, batch_size: int = 64, seed: int = 0) -> None:
        """Fits ``prior`` to z ~ q(z|x) of the images x [N, C, H, W], in evaluation mode.

        Raises:
            ValueError: ``config.prior_rank`` is 0, or fewer than two images.
        """
        if self.prior is None:
            raise ValueError("prior_rank is 0: this model's prior is N(0, I), there is none to fit")
        generator = torch.Generator().manual_seed(seed)
        latents = []
        with self._evaluating():
            for start in range(0, len(x), batch_size):
                rows = slice(start, start + batch_size)
                posterior = self.encode(x[rows], None if labels is None else labels[rows])
                latents.append(posterior.sample(generator=generator))
        self.prior.fit(torch.cat(latents))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        labels: int | Sequence[int] | Tensor | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n images from z of the prior, in evaluation mode. [n, channels, H, W]

        A conditional model needs ``labels``: a class for each image, or one for all.

        z is drawn on the CPU, so that a seed means the same images on every device. Give ``seed`` or a CPU
        ``generator``, or neither for torch's own state.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ValueError(f"n is {n!r}; it must be an integer of at least 0")
        if seed is not None and generator is not None:
            raise ValueError("seed and generator are both given; one of them decides")
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
        weight = self.generator.last_weight
        classes = self._labels(labels, n)
        z = torch.randn(n, self.config.latent_dim, generator=generator).to(weight)
        with self._evaluating():
            return self.decode(self.latents(z), classes)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, labels: int | Sequence[int] | Tensor | None = None) -> Tensor:
        """The image of the posterior's mode, in evaluation mode. Same shape as x."""
        classes = self._labels(labels, len(x))
        with self._evaluating():
            x_hat: Tensor = self(x, classes)
        return x_hat

    @torch.no_grad()
    def interpolate(
        self, a: Tensor, b: Tensor, steps: int, labels: int | Sequence[int] | Tensor | None = None
    ) -> Tensor:
        """Images on the way from latent vector a to b, both included, in evaluation mode.

        The direction moves along the great circle and the length changes linearly: normal vectors of many dimensions
        all have nearly the same length, and a straight line between two of them leaves the shell that the generator
        was trained on (White 2016).

        Args:
            a, b: [latent_dim], as from ``encode(x).mode()[0]``.
            steps: images in all, at least 2.
            labels: of a conditional model, as in :meth:`sample`.

        Returns:
            [steps, channels, H, W].
        """
        for name, z in (("a", a), ("b", b)):
            if z.shape != (self.config.latent_dim,):
                raise ValueError(f"{name} has shape {tuple(z.shape)}; it must be ({self.config.latent_dim},)")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
            raise ValueError(f"steps is {steps!r}; it must be an integer of at least 2")
        classes = self._labels(labels, steps)
        t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)
        with self._evaluating():
            return self.decode(slerp(a, b, t), classes)

    def _labels(self, labels: int | Sequence[int] | Tensor | None, n: int) -> Tensor | None:
        classes = as_labels(labels, n, self.config)
        return None if classes is None else classes.to(self.generator.last_weight.device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors into ``folder``, each complete or not at all.

        Raises:
            DivergedError: a weight is NaN or infinite; nothing is written.
            CheckpointError: the folder cannot be written.
        """
        save_folder(folder, self.state_dict(), {"model": "VAEGAN", **self.config.to_dict()})

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> VAEGAN:
        """The model that :meth:`save_pretrained` wrote, in evaluation mode.

        Raises:
            CheckpointError: a file is missing, damaged, of a newer format, or of another architecture (the first
                weight that differs is named).
        """
        config = _config_of(folder)
        weights, path = read_weights(folder)
        check_enough(config, weights, path)
        model = cls(config).eval()
        load_into(model, weights, path)
        return model.to(device)

    def _evaluating(self) -> contextlib.AbstractContextManager[None]:
        return evaluation_mode(self)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """[Z], [Z], [T] -> [T, Z]: great circle in direction, linear in length; straight where there is no one circle."""
    t = t[:, None]
    lengths = a.norm(), b.norm()
    straight = torch.lerp(a[None], b[None], t)
    if min(lengths) == 0:
        return straight
    u, v = a / lengths[0], b / lengths[1]
    angle = torch.acos((u @ v).clamp(-1, 1))
    if angle < 1e-4 or angle > math.pi - 1e-4:
        return straight
    direction = (torch.sin((1 - t) * angle) * u + torch.sin(t * angle) * v) / torch.sin(angle)
    walk: Tensor = direction * torch.lerp(*lengths, t)
    return walk


def check_enough(config: VAEGANConfig, weights: Mapping[str, Tensor], path: Path) -> None:
    """That the ``weights`` of a file are enough for a model of ``config``, before any memory is taken for it.

    Raises:
        CheckpointError: they are not; the first one that is missing or smaller is named.
    """
    if sum(weight.numel() for weight in weights.values()) < config.parameters:
        with torch.device("meta"):
            check_weights(VAEGAN(config), weights, path)


def _config_of(folder: str | Path) -> VAEGANConfig:
    values, path = read_config(folder)
    kind = values.pop("model", None)
    if kind == "Networks":
        raise CheckpointError(
            f"{path} is not the configuration of a VAEGAN but of your own networks, which only your program can make: "
            "Networks(...).load_weights(folder) loads them"
        )
    if kind != "VAEGAN":
        raise CheckpointError(f'{path} is not the configuration of a VAEGAN: "model": "VAEGAN" is not in it')
    try:
        return VAEGANConfig.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
