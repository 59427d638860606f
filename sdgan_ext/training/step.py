"""One step: phase D, ``n_critic`` times, then phase E+G, each followed by its optimizers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.profiler import record_function

from .._torch_internals import foreach_add_, foreach_div_
from .autoencoder_phase import AdversarialGradients, encoder_generator_phase
from .config import TrainConfig
from .discriminator_phase import discriminator_phase
from .forward import forward
from .gradients import clip_gradients, frozen, train_mode
from .networks import Model
from .noise import Noise, draw_noise, noise_of_rows
from .optimizers import set_learning_rates
from .schedule import forwards_of, kind_of
from .terms import named_terms

if TYPE_CHECKING:
    from .distributed import Processes
    from .perceptual import PerceptualLoss

__all__ = ["precision", "prepare_step", "take_step", "train_step"]


def train_step(
    model: Model,
    optimizers: Mapping[str, Optimizer],
    x: Tensor,
    config: TrainConfig,
    *,
    step: int,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    processes: Processes | None = None,
    perceptual: PerceptualLoss | None = None,
) -> dict[str, Tensor]:
    """One step: ``n_critic`` times phase D, then phase E+G, each followed by its optimizers.

    Before ``disc_start`` there is no phase D, and then for ``disc_warmup`` steps no phase E+G. Nor is there a phase
    whose networks are all frozen, see :func:`~sdgan_ext.training.optimizers.make_optimizers`.

    Args:
        optimizers: of :func:`~sdgan_ext.training.optimizers.make_optimizers`; their learning rates are set to those of
            ``step``.
        x: real images [N, C, H, W] in [-1, 1].
        step: steps taken so far.
        labels: of ``x``, int64 [N], where ``x`` is; for a conditional model.
        generator: source of all noise, on the CPU; torch's own state by default.
        processes: that take the step together, each with its rows ``x`` of the batch and a ``generator`` in one state.
        perceptual: as in :func:`encoder_generator_phase`; needed with ``config.perceptual_weight``.

    Returns:
        The losses of both phases, scalars without a graph; give them to :func:`check_finite` now and then.
    """
    noise = prepare_step(model, optimizers, len(x), config, step=step, generator=generator, processes=processes)
    given = {"labels": labels, "processes": processes, "perceptual": perceptual}
    return take_step(model, optimizers, x, noise, config, step=step, **given)


def prepare_step(
    model: Model,
    optimizers: Mapping[str, Optimizer],
    n: int,
    config: TrainConfig,
    *,
    step: int,
    generator: torch.Generator | None = None,
    processes: Processes | None = None,
) -> list[Noise]:
    """Everything of a step that comes before its tensors are computed with: learning rates and noise.

    Args:
        n: images of this process.

    Returns:
        The noise of every forward pass, :func:`forwards_of` in all; with several processes the rows of this one.
    """
    set_learning_rates(optimizers, config, step)
    size = n * (1 if processes is None else processes.size)
    noise = [draw_noise(model, size, config, generator=generator) for _ in range(forwards_of(config))]
    if processes is None:
        return noise
    return [noise_of_rows(drawn, processes.rows(size), size, model.traits.latent_shape) for drawn in noise]


def take_step(
    model: Model,
    optimizers: Mapping[str, Optimizer],
    x: Tensor,
    noise: Sequence[Noise],
    config: TrainConfig,
    *,
    step: int,
    labels: Tensor | None = None,
    kl_weight: Tensor | None = None,
    processes: Processes | None = None,
    perceptual: PerceptualLoss | None = None,
) -> dict[str, Tensor]:
    """:func:`train_step` with all that changes from step to step given; the learning rates are those of the optimizers.

    Given ``kl_weight``, ``step`` decides :func:`kind_of` and nothing else: with tensors for learning rates, a CUDA
    graph of it is a step like any other of the same kind.

    Args:
        noise: of :func:`prepare_step`.
        kl_weight, perceptual: as in :func:`encoder_generator_phase`.
        processes: as in :func:`train_step`; their gradients are averaged before they are clipped.
    """
    train_mode(model)
    kind = kind_of(config, step)
    phases = len(kind.penalised) if "discriminator" in optimizers else 0
    autoencoder = [name for name in ("encoder", "generator") if name in optimizers] if kind.encoder_generator else []
    parts = _parts(x, labels, noise, config, model.traits.latent_shape)
    terms: dict[str, Tensor] = {}
    images = None
    with precision(config, x.device):
        for phase in range(phases):
            # Phase E+G goes on with the images of the last phase D, unless those of several parts would have to wait.
            shared = phase == phases - 1 and bool(autoencoder) and len(parts) == 1
            mean = _MeanOfParts([model.discriminator])
            for part in parts:
                graph = contextlib.nullcontext() if shared else _without_trace(model)
                with record_function("sdgan/forward"), graph:
                    images = forward(model, part.x, config, labels=part.labels, noise=part.noise[phase])
                with record_function("sdgan/discriminator"):
                    mean.add(discriminator_phase(model, images, config, step=step * phases + phase))
                images = images if shared else None
            terms = mean.terms()
            terms |= _update(model, optimizers, ["discriminator"], config, processes, "discriminator")
        if autoencoder:
            mean = _MeanOfParts([getattr(model, name) for name in autoencoder])
            apart = AdversarialGradients(model, config) if len(parts) > 1 else None
            for part in parts:
                if images is None:
                    with record_function("sdgan/forward"):
                        images = forward(model, part.x, config, labels=part.labels, noise=part.noise[-1])
                with record_function("sdgan/encoder_generator"):
                    options = {"step": step, "kl_weight": kl_weight, "processes": processes}
                    options |= {"apart": apart, "perceptual": perceptual}
                    mean.add(encoder_generator_phase(model, images, config, **options))
                images = None  # its graph is spent
            terms |= mean.terms()
            terms |= {} if apart is None else apart.weigh(processes)
            terms |= _update(model, optimizers, autoencoder, config, processes, "encoder_generator")
    return terms


class _Part(NamedTuple):
    """Of the batch: images, labels, and of every forward pass its rows of the noise."""

    x: Tensor
    labels: Tensor | None
    noise: Sequence[Noise]


def _parts(
    x: Tensor, labels: Tensor | None, noise: Sequence[Noise], config: TrainConfig, latent_shape: Sequence[int]
) -> list[_Part]:
    """The batch in ``config.accumulate`` parts."""
    if config.accumulate == 1:
        return [_Part(x, labels, noise)]
    parts = []
    size = len(x) // config.accumulate
    for start in range(0, config.accumulate * size, size):
        rows = slice(start, start + size)
        of_rows = [noise_of_rows(drawn, rows, len(x), latent_shape) for drawn in noise]
        parts.append(_Part(x[rows], None if labels is None else labels[rows], of_rows))
    return parts


class _MeanOfParts:
    """The mean over the parts of a batch: of their losses, and of the gradients that each part sets."""

    def __init__(self, networks: Sequence[torch.nn.Module]):
        self._networks = networks
        self._parameters: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._terms: dict[str, Tensor] = {}
        self._count = 0

    def add(self, terms: dict[str, Tensor]) -> None:
        """Takes the losses of a part, and its gradients from the parameters."""
        self._count += 1
        if self._count == 1:
            every = itertools.chain.from_iterable(network.parameters() for network in self._networks)
            self._terms = terms
            self._parameters = [parameter for parameter in every if parameter.grad is not None]
            self._sums = [parameter.grad for parameter in self._parameters]  # each part makes its own
        else:
            self._terms = {name: total + terms[name] for name, total in self._terms.items()}
            if self._sums:
                foreach_add_(self._sums, [parameter.grad for parameter in self._parameters])

    def terms(self) -> dict[str, Tensor]:
        """The mean of the losses; that of the gradients is in the parameters from now on."""
        if self._count == 1:
            return self._terms
        if self._sums:
            foreach_div_(self._sums, self._count)
        for parameter, gradient in zip(self._parameters, self._sums, strict=True):
            parameter.grad = gradient
        return {name: total / self._count for name, total in self._terms.items()}


def _update(
    model: Model,
    optimizers: Mapping[str, Optimizer],
    names: Iterable[str],
    config: TrainConfig,
    processes: Processes | None,
    phase: str,
) -> dict[str, Tensor]:
    """The optimizers' steps, once the gradients are those of all processes and within their bounds."""
    if processes is not None:
        with record_function("sdgan/average_gradients"):
            processes.average_gradients([getattr(model, name) for name in names])
    norms = clip_gradients(model, names, config)
    with record_function("sdgan/optimizer"):
        for name in names:
            optimizers[name].step()
    return named_terms(phase, norms)


@contextlib.contextmanager
def _without_trace(model: Model):
    """Images for D alone: no graph, and E and G stay as they are."""
    with torch.no_grad(), frozen(model):
        yield


def precision(config: TrainConfig, device: torch.device) -> contextlib.AbstractContextManager:
    """Autocast to ``config.precision``; the weights, their gradients and the losses stay float32."""
    if config.precision == "float32":
        return contextlib.nullcontext()
    graphs = device.type == "cuda"  # a cast that was kept would not be made anew in a replay
    return torch.autocast(device.type, getattr(torch, config.precision), cache_enabled=not graphs)
