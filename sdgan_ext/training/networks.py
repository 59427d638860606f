"""Networks that the steps can train: what they must offer, and a model made of a user's own.

**What a step uses.** The steps know a model as :class:`Model` and its networks as :class:`EncoderNetwork`,
:class:`GeneratorNetwork` and :class:`DiscriminatorNetwork`. These are structural types;
:class:`~sdgan_ext.models.VAEGAN` meets them as it is. What a call does not show (shapes, batch norm) is in
``model.traits``, see :class:`~sdgan_ext.models.traits.Traits`.

**Your own.** :class:`Networks` makes a model of three plain ``torch.nn.Module``. It translates the encoder's answer to
a posterior, finds the shapes by a dry call (``answers.py``), checks what the networks answer, and is sampled from and
saved like a VAEGAN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .._config import Config, option
from .._errors import CheckpointError, ConfigError
from .._modes import evaluation_mode
from ..models.discriminator import MinibatchStdDev
from ..models.folder import read_config, read_weights, save_folder
from ..models.labels import as_labels
from ..models.traits import Traits
from ..models.vae_gan import slerp
from ..models.weights import load_into
from ..ops._enums import Reduction
from . import answers
from .parts import in_parts

__all__ = [
    "BATCH_NORMS",
    "DiscriminatorNetwork",
    "EncoderNetwork",
    "GeneratorNetwork",
    "Model",
    "Network",
    "Networks",
    "NetworksConfig",
    "NetworksModel",
    "PosteriorLike",
    "SavedModel",
    "check_same_shapes",
    "last_weight_of",
]


BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm)
"""Layers that normalise by the batch; ours are among them."""


# ------------------------------------------------------------------------------------------------ what a step uses
class PosteriorLike(Protocol):
    """q(z|x) of a batch, a diagonal normal distribution; see :class:`~sdgan_ext.models.Posterior`."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def logvar(self) -> Tensor: ...

    def mode(self) -> Tensor: ...

    def kl(self, reduction: Reduction = "batchmean") -> Tensor: ...

    def sample_with_kl(
        self, *, seed: Tensor | None = None, eps: Tensor | None = None, reduction: Reduction = "batchmean"
    ) -> tuple[Tensor, Tensor]: ...


class Network(Protocol):
    """The part of ``torch.nn.Module`` that the steps use of every network."""

    training: bool

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def modules(self) -> Iterator[torch.nn.Module]: ...

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...


class EncoderNetwork(Network, Protocol):
    """Images [N, C, H, W] to their posterior; called as ``encoder(x)``, with classes as ``encoder(x, labels)``."""

    def __call__(self, x: Tensor, labels: Tensor = ..., /) -> PosteriorLike | tuple[Tensor, Tensor]: ...


class GeneratorNetwork(Network, Protocol):
    """Latents [N, *latent_shape] to images; called as ``generator(z)``, with classes as ``generator(z, labels)``.

    For ``adaptive_weight`` it has ``last_weight``, the weight of the layer that makes the image; where
    ``traits.learned_variance`` says so, a trained scalar ``log_scale``.
    """

    def __call__(self, z: Tensor, labels: Tensor = ..., /) -> Tensor: ...


class DiscriminatorNetwork(Network, Protocol):
    """Images to logits [N], [N, 1] or [N, 1, h, w]; with classes it is called with ``labels=labels``.

    For ``feature_weight`` above 0 it takes ``return_features=True`` and returns ``(logits, features)``, features being
    a tuple of tensors [N, ...].
    """

    def __call__(self, x: Tensor, *, labels: Tensor = ..., return_features: bool = ...) -> Any: ...


class Model(Protocol):
    """What the steps use of a model: a ``torch.nn.Module`` over the three networks."""

    @property
    def encoder(self) -> EncoderNetwork | None: ...

    @property
    def generator(self) -> GeneratorNetwork: ...

    @property
    def discriminator(self) -> DiscriminatorNetwork | None: ...

    @property
    def traits(self) -> Traits: ...

    def encode(self, x: Tensor, labels: Tensor | None = None) -> PosteriorLike: ...

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def latents(self, eps: Tensor) -> Tensor: ...

    def train(self, mode: bool = True) -> Any: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def modules(self) -> Iterator[torch.nn.Module]: ...

    def named_children(self) -> Iterator[tuple[str, torch.nn.Module]]: ...


class SavedModel(Model, Protocol):
    """What the Trainer uses of a model besides: it is shown, saved and, with a prior to fit, given one."""

    @property
    def config(self) -> Config: ...

    @property
    def prior(self) -> torch.nn.Module | None: ...

    def fit_prior(self, x: Tensor, labels: Tensor | None = None) -> None: ...

    def reconstruct(self, x: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def interpolate(self, a: Tensor, b: Tensor, steps: int, labels: Tensor | None = None) -> Tensor: ...

    def save_pretrained(self, folder: str | Path) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...

    def to(self, device: torch.device | str) -> Any: ...


def last_weight_of(model: Model) -> Tensor | None:
    """The weight of the layer that makes the image; None where neither model nor generator names it."""
    named = getattr(model, "last_weight", None)
    return getattr(model.generator, "last_weight", None) if named is None else named


# ------------------------------------------------------------------------------------------------- a user's own
@dataclass(frozen=True)
class NetworksConfig(Config):
    """What is saved of :class:`Networks` beside their weights; the networks themselves only a program can make.

    Raises:
        ConfigError: one sentence that names the field, what came and what is allowed.
    """

    encoder: str | None = option(None, "name of the encoder's class; none: there is no encoder")
    generator: str = option("", "name of the generator's class")
    discriminator: str | None = option(None, "name of the discriminator's class; none: there is no discriminator")
    image_shape: tuple[int, int, int] = option((1, 1, 1), "channels, height and width of an image", minimum=1)
    latent_shape: tuple[int, ...] = option((1,), "shape of the z of one image", minimum=1)
    classes: int = option(0, "classes that the networks are conditioned on; 0: none", minimum=0)
    last_weight: str | None = option(None, "name of the generator's last weight among its parameters")

    def to_dict(self) -> dict:
        return {"model": "Networks", **super().to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping):
        return super().from_dict({name: value for name, value in values.items() if name != "model"})


class NetworksModel(torch.nn.Module):
    """What a model of three plain modules does with them, checking what they answer: it encodes, decodes, samples.

    Attributes:
        encoder, generator, discriminator: the networks; None where one is left out.
        config: with ``image_shape``, ``latent_shape`` and ``classes``.
    """

    encoder: torch.nn.Module | None
    generator: torch.nn.Module
    discriminator: torch.nn.Module | None
    config: Any

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """``decode(encode(x).mode())``, differentiable."""
        return self.decode(self.encode(x, labels).mode(), labels)

    def encode(self, x: Tensor, labels: Tensor | None = None) -> PosteriorLike:
        """The posterior q(z|x), differentiable.

        Raises:
            ValueError: there is no encoder.
            ConfigError: the encoder's answer is no posterior of z.
        """
        if self.encoder is None:
            raise ValueError("these networks have no encoder (encoder is None), so they cannot encode an image")
        answer = self.encoder(x) if labels is None else self.encoder(x, labels)
        posterior = answers.as_posterior(answer)
        answers.check_shape("the encoder's mean", posterior.mean, (len(x), *self.config.latent_shape))
        return posterior

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """The generator's images, differentiable. [N, *latent_shape] -> [N, *image_shape]

        Raises:
            ConfigError: the generator's answer is something else.
        """
        images = self.generator(z) if labels is None else self.generator(z, labels)
        answers.check_shape("the generator's answer", images, (len(z), *self.config.image_shape))
        return images

    def latents(self, eps: Tensor) -> Tensor:
        """z of the prior, N(0, I): ``eps`` itself."""
        return eps

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        labels: int | Sequence[int] | Tensor | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n images of z of the prior, in evaluation mode. [n, *image_shape]

        N(0, I) is drawn on the CPU: from a generator seeded by ``seed``, from ``generator``, or from torch's own
        state. ``labels`` is a class for each image, or one for all.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ValueError(f"n is {n!r}; it must be an integer of at least 0")
        if seed is not None and generator is not None:
            raise ValueError("seed and generator are both given; one of them decides")
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
        labels = self._labels(labels, n)
        z = torch.randn(n, *self.config.latent_shape, generator=generator).to(**answers.placement(self.generator))
        with evaluation_mode(self):
            return self.decode(self.latents(z), labels)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, labels: int | Sequence[int] | Tensor | None = None) -> Tensor:
        """The images of the posterior's mode, in evaluation mode. Same shape as x."""
        labels = self._labels(labels, len(x))
        with evaluation_mode(self):
            return self(x, labels)

    @torch.no_grad()
    def interpolate(
        self, a: Tensor, b: Tensor, steps: int, labels: int | Sequence[int] | Tensor | None = None
    ) -> Tensor:
        """Images on the way from latent a to b, both included, in evaluation mode.

        The way is that of :meth:`sdgan_ext.models.VAEGAN.interpolate`; a map is taken as one vector.

        Args:
            a, b: [*latent_shape].
            steps: images in all, at least 2.
            labels: with classes, as in :meth:`sample`.

        Returns:
            [steps, *image_shape].
        """
        shape = self.config.latent_shape
        for name, z in (("a", a), ("b", b)):
            if z.shape != shape:
                raise ValueError(f"{name} has shape {tuple(z.shape)}; it must be {shape}")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
            raise ValueError(f"steps is {steps!r}; it must be an integer of at least 2")
        labels = self._labels(labels, steps)
        t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)
        with evaluation_mode(self):
            return in_parts(self, self.decode, slerp(a.flatten(), b.flatten(), t).unflatten(1, shape), labels)

    def _labels(self, labels: int | Sequence[int] | Tensor | None, n: int) -> Tensor | None:
        labels = as_labels(labels, n, self.config)
        return None if labels is None else labels.to(answers.placement(self.generator)["device"])


class Networks(NetworksModel):
    """A model of your own networks, for :class:`~sdgan_ext.training.trainer.Trainer` and the steps.

    ::

        model = sd.Networks(encoder=E, generator=G, discriminator=D, image_shape=(1, 28, 28))
        run = sd.Trainer(model, sd.TrainConfig(steps=1000)).fit("mnist")
        sd.Trainer.resume(run.folder, model=sd.Networks(...), steps=2000).fit("mnist")
        model = sd.Networks(...).load_weights(run.model)

    Images are [N, C, H, W] in [-1, 1], so a generator commonly ends in a tanh. What is not given of ``image_shape`` and
    ``latent_shape`` is found by a dry call of two images in evaluation mode, which leaves weights, buffers and torch's
    random state as they are.

    Args:
        encoder: ``encoder(x)`` gives ``(mean, logvar)``, a :class:`~sdgan_ext.models.Posterior`, or an object with
            ``mean`` and ``logvar``, or with a ``latent_dist`` that has them (as diffusers' autoencoders). None: a GAN.
        generator: ``generator(z)`` gives images.
        discriminator: ``discriminator(x)`` gives logits, [N], [N, 1] or, of patches, [N, 1, h, w]. None: a VAE.
        image_shape: (channels, height, width).
        latent_shape: of the z of one image, as the encoder's mean: Z or (Z,), or (channels, height, width) of a map.
        classes: that the networks are conditioned on. With any they are called as ``encoder(x, labels)``,
            ``generator(z, labels)`` and ``discriminator(x, labels=labels)``, labels int64 [N].
        last_weight: the weight of the generator's last layer, or its name among the generator's parameters, for
            ``adaptive_weight``; a generator with an attribute ``last_weight`` needs none.
        discriminator_mixes_images: whether a logit depends on other images of its batch. Batch norm and our
            ``MinibatchStdDev`` are found; say so of layers of your own.

    Attributes:
        encoder, generator, discriminator: as given.
        config: a :class:`NetworksConfig`.
        traits: what the steps must know of them.
        prior: None: z comes from N(0, I).

    Raises:
        ConfigError: what is given is no module, does not answer as described, or a shape could not be found.
    """

    prior = None

    def __init__(
        self,
        *,
        generator: torch.nn.Module,
        encoder: torch.nn.Module | None = None,
        discriminator: torch.nn.Module | None = None,
        image_shape: Sequence[int] | None = None,
        latent_shape: int | Sequence[int] | None = None,
        classes: int = 0,
        last_weight: str | Tensor | None = None,
        discriminator_mixes_images: bool = False,
    ):
        super().__init__()
        self._mixes = discriminator_mixes_images
        given = {"encoder": encoder, "generator": generator, "discriminator": discriminator}
        answers.check_modules(given)
        self.encoder, self.generator, self.discriminator = encoder, generator, discriminator
        names = {name: None if network is None else type(network).__qualname__ for name, network in given.items()}
        self.config = NetworksConfig(
            **names,
            classes=classes,
            last_weight=_parameter_name(generator, last_weight),
            image_shape=(1, 1, 1) if image_shape is None else image_shape,
            latent_shape=(1,) if latent_shape is None else _as_shape(latent_shape),
        )
        known = answers.Shapes(
            None if image_shape is None else self.config.image_shape,
            None if latent_shape is None else self.config.latent_shape,
        )
        shapes = answers.find_shapes(self, known)
        self.config = self.config.replace(image_shape=shapes.image, latent_shape=shapes.latent)
        if discriminator is not None:
            answers.check_logits(self)

    @property
    def traits(self) -> Traits:
        norms = {name: _has(network, BATCH_NORMS) for name, network in self.named_children()}
        groups = [part.group for part in _parts(self.discriminator) if isinstance(part, MinibatchStdDev)]
        batch_norm = norms.get("discriminator", False)
        return Traits(
            image_shape=self.config.image_shape,
            latent_shape=self.config.latent_shape,
            classes=self.config.classes,
            memory_format=_memory_format(self),
            generator_mixes_images=norms["generator"],
            discriminator_mixes_images=self._mixes or batch_norm or bool(groups),
            discriminator_batch_norm=batch_norm,
            discriminator_group=math.lcm(*groups) if groups else 0,
        )

    @property
    def last_weight(self) -> Tensor | None:
        """The generator's parameter that was named; None where it was not."""
        return None if self.config.last_weight is None else self.generator.get_parameter(self.config.last_weight)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json (classes and shapes) and model.safetensors into ``folder``.

        Raises:
            DivergedError: a weight is NaN or infinite; nothing is written.
            CheckpointError: the folder cannot be written.
        """
        save_folder(folder, self.state_dict(), self.config.to_dict())

    def load_weights(self, folder: str | Path) -> Networks:
        """Takes the weights that :meth:`save_pretrained` wrote; returns these networks, in evaluation mode.

        Raises:
            CheckpointError: a file is missing, damaged, of other shapes, or of other networks (the first weight that
                differs is named).
        """
        values, path = read_config(folder)
        if values.get("model") != "Networks":
            raise CheckpointError(f"{path} is not the configuration of Networks; VAEGAN.from_pretrained may read it")
        try:
            saved = NetworksConfig.from_dict(values)
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from error
        check_same_shapes(self.config, saved, path)
        load_into(self, *read_weights(folder))
        return self.eval()


def check_same_shapes(own: NetworksConfig, saved: NetworksConfig, path: Path) -> None:
    """Raises CheckpointError where networks that were saved to ``path`` work on other shapes."""
    for name in ("image_shape", "latent_shape", "classes"):
        here, there = getattr(own, name), getattr(saved, name)
        if here != there:
            raise CheckpointError(f"{path} is of other networks: {name} is {there} there and {here} in these")


def _as_shape(value: int | Sequence[int]) -> Sequence[int]:
    return (value,) if isinstance(value, int) else value


def _parameter_name(generator: torch.nn.Module, weight: str | Tensor | None) -> str | None:
    """The name of ``weight`` among the generator's parameters."""
    if weight is None:
        return None
    names = dict(generator.named_parameters())
    if isinstance(weight, Tensor):
        found = [name for name, parameter in names.items() if parameter is weight]
        if not found:
            raise ConfigError(f"last_weight, a tensor of shape {tuple(weight.shape)}, is no parameter of the generator")
        return found[0]
    if weight not in names:
        raise ConfigError(f"last_weight is {weight!r}; the generator's parameters are {', '.join(names)}")
    return weight


def _parts(network: torch.nn.Module | None) -> Iterable[torch.nn.Module]:
    return () if network is None else network.modules()


def _has(network: torch.nn.Module, kinds: tuple[type, ...]) -> bool:
    return any(isinstance(part, kinds) for part in network.modules())


def _memory_format(model: torch.nn.Module) -> torch.memory_format:
    """channels_last where convolutions' weights are; plain modules commonly flatten by ``view``, which it breaks."""
    weights = [parameter for parameter in model.parameters() if parameter.dim() == 4]
    last = [w for w in weights if w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous()]
    return torch.channels_last if last else torch.contiguous_format
