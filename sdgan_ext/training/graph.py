"""The whole step as one CUDA graph: phase D (all of them), phase E+G, Adam, the average.

A small step is hundreds of kernels of a few microseconds, and launching them one by one from Python takes longer than
they do. A graph launches them all at once. It replays kernels, not Python: whatever changes from step to step has to
reach it through memory. :class:`_Inputs` is that memory, and :func:`~sdgan_ext.training.steps.kind_of` is all that a
tensor cannot say: there is a graph for each of its values.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.swa_utils import AveragedModel

from sdgan_ext._torch_internals import end_allocation_to_pool
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.ema import average_in, next_share
from sdgan_ext.training.gradients import train_mode
from sdgan_ext.training.networks import Model
from sdgan_ext.training.noise import Noise
from sdgan_ext.training.optimizers import tensor_learning_rates
from sdgan_ext.training.perceptual import PerceptualLoss
from sdgan_ext.training.schedule import Kind, kind_of, kl_weight_at
from sdgan_ext.training.step import prepare_step, take_step

__all__ = ["CudaGraphs", "GraphedStep", "Graphs", "graphs_of"]

WARM_UP = 3
"""Steps of a kind before it is captured, as many as torch's own ``make_graphed_callables`` takes."""


class Graphs(Protocol):
    """How work is captured and replayed. The tests have one without a GPU, python_tests/training/graph_on_host.py."""

    def warm_up(self, work: Callable):
        """Does ``work`` once, where :meth:`capture` would, and returns its result."""

    def capture(self, work: Callable) -> tuple[Callable[[], None], object]:
        """Records ``work`` without doing it: what does it, and its result, which holds only after that was called.

        Raises:
            RuntimeError: ``work`` does what cannot be recorded, such as waiting for the device.
        """


def graphs_of(device: torch.device) -> Graphs | None:
    """CUDA graphs for a CUDA device, None for any other."""
    return CudaGraphs(device) if device.type == "cuda" else None


class CudaGraphs:
    """``torch.cuda.graph``, with one stream for warm-up and capture and one memory pool for all graphs.

    The stream: autograd comes back to the stream that a parameter was first used on, and one that is not being captured
    would break the capture. The pool: every graph of a step writes all that it reads there, so that they may be
    replayed in any order, as long as it is one after the other.
    """

    def __init__(self, device: torch.device | str):
        self._device = torch.device(device)
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable):
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def capture(self, work: Callable) -> tuple[Callable[[], None], object]:
        graph = torch.cuda.CUDAGraph()
        # The outer one restores the current stream also where torch.cuda.graph does not: after a capture that failed.
        with torch.cuda.stream(torch.cuda.current_stream(self._device)):
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                    result = work()
            except BaseException:
                # torch before 2.12 goes on allocating from the pool, and keeps a pointer to the graph, when one fails.
                self._failed = graph
                with contextlib.suppress(RuntimeError):
                    end_allocation_to_pool(self._stream.device_index, self._pool)
                raise
        return graph.replay, result


class _Captured(NamedTuple):
    replay: Callable[[], None]
    names: tuple[str, ...]
    losses: Tensor  # [len(names)]


class GraphedStep:
    """:func:`~sdgan_ext.training.steps.train_step` and the update of the average, replayed where it can be.

    The first ``WARM_UP`` steps of each kind are taken kernel by kernel. They are steps of the run like all others, so
    warming up leaves nothing to undo; Adam makes its state in them, which must not happen in a graph. Then one is
    captured, and replayed for that step and all later ones.

    A checkpoint holds what it would without graphs. The networks, the optimizers and the average are changed in place
    and must not be replaced: make a new one after loading a checkpoint. Gradients are the graph's own: ``.grad`` is
    None after a capture.

    Args:
        model: where to train.
        optimizers: of :func:`~sdgan_ext.training.optimizers.make_optimizers`.
        ema: of :func:`~sdgan_ext.training.ema.make_ema`.
        config: of both.
        graphs: how to capture.
        say: takes a line that says why steps are not replayed.
        perceptual: as in :func:`~sdgan_ext.training.steps.train_step`.
    """

    def __init__(
        self,
        model: Model,
        optimizers: dict[str, Adam],
        ema: AveragedModel,
        config: TrainConfig,
        graphs: Graphs,
        say: Callable[[str], None] = lambda line: None,
        perceptual: PerceptualLoss | None = None,
    ):
        self._model, self._optimizers, self._ema, self._config = model, optimizers, ema, config
        self._graphs, self._say, self._perceptual = graphs, say, perceptual
        self._inputs: _Inputs | None = None
        self._captured: dict[Kind, _Captured] = {}
        self._taken: Counter[Kind] = Counter()
        self._refused = False
        self._said: set[str] = set()

    def __call__(
        self, x: Tensor, *, step: int, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Takes step ``step``; everything is as in :func:`~sdgan_ext.training.steps.train_step`."""
        train_mode(self._model)
        drawn = prepare_step(self._model, self._optimizers, len(x), self._config, step=step, generator=generator)
        given = x, labels, drawn, self._scalars(step)
        if self._inputs is None:
            self._inputs = self._make_inputs(*given)
        inputs = self._inputs
        if x.shape != inputs.x.shape:
            self._say_once(f"a batch is {list(x.shape)}, the captured ones are {list(inputs.x.shape)}")
            inputs = self._make_inputs(*given)
        inputs.set(*given)
        names, losses = self._take(step, inputs)
        self._ema.n_averaged += 1  # on the CPU, which no graph can do
        return dict(zip(names, losses.clone().unbind(), strict=True))  # the next replay overwrites them

    def _make_inputs(self, *given) -> _Inputs:
        return _Inputs.like(next(self._model.parameters()).device, self._model.traits.memory_format, *given)

    def _scalars(self, step: int) -> list[float]:
        """In the order of ``_Inputs.scalars``."""
        rates = [optimizer.param_groups[0]["lr"] for optimizer in self._optimizers.values()]
        return [kl_weight_at(self._config, step), next_share(self._ema, self._config), *rates]

    def _take(self, step: int, inputs: _Inputs) -> tuple[tuple[str, ...], Tensor]:
        kind = kind_of(self._config, step)
        if inputs is self._inputs:
            if kind not in self._captured and self._taken[kind] >= WARM_UP and not self._refused:
                self._capture(kind, step)
            if kind in self._captured:
                replay, names, losses = self._captured[kind]
                replay()
                return names, losses
            self._taken[kind] += 1
        return self._graphs.warm_up(lambda: self._work(step, inputs))

    def _capture(self, kind: Kind, step: int) -> None:
        try:
            replay, (names, losses) = self._graphs.capture(lambda: self._work(step, self._inputs, capturable=True))
        except RuntimeError as error:  # nothing has been done yet, so the step can still be taken the other way
            self._refused = True
            self._say_once(f"it cannot be captured ({_first_line(error)})")
        else:
            self._captured[kind] = _Captured(replay, names, losses)
        for optimizer in self._optimizers.values():
            optimizer.zero_grad()

    def _work(self, step: int, inputs: _Inputs, *, capturable: bool = False) -> tuple[tuple[str, ...], Tensor]:
        """The step, all that changes in it read from ``inputs``. Returns the names of the losses, and the losses."""
        kl_weight, share, *rates = inputs.scalars
        rates = dict(zip(self._optimizers, rates, strict=True))
        with tensor_learning_rates(self._optimizers, rates, capturable=capturable):
            terms = take_step(
                self._model,
                self._optimizers,
                inputs.x,
                inputs.noise,
                self._config,
                step=step,
                labels=inputs.labels,
                kl_weight=kl_weight,
                perceptual=self._perceptual,
            )
        average_in(self._ema, self._model, share)
        return tuple(terms), torch.stack(list(terms.values()))

    def _say_once(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            self._say(f"a step is not replayed as a CUDA graph, but taken kernel by kernel: {reason}")


@dataclass(frozen=True)
class _Inputs:
    """All that a step reads and that is not the same in the next one, at addresses that stay.

    Attributes:
        memory_format: of ``x``.
        x: [N, C, H, W], in the model's memory format.
        labels: [N], or None.
        drawn: the fields of :class:`Noise` that there are, each [forwards, ...].
        values: of ``scalars``.
        noise: of every forward pass; views of ``drawn``.
        scalars: the weight of the KL divergence, the share in the average, a learning rate of each optimizer.
    """

    memory_format: torch.memory_format
    x: Tensor
    labels: Tensor | None
    drawn: dict[str, Tensor]
    values: Tensor
    noise: tuple[Noise, ...]
    scalars: tuple[Tensor, ...]

    @classmethod
    def like(
        cls,
        device: torch.device,
        memory_format: torch.memory_format,
        x: Tensor,
        labels: Tensor | None,
        noise: list[Noise],
        scalars: list[float],
    ) -> _Inputs:
        # CUDA's fused Adam reads a learning rate as float32 and nothing else; the CPU's computes with a double.
        number = torch.float32 if device.type == "cuda" else torch.float64
        drawn = {name: torch.empty_like(value, device=device) for name, value in _stacked(noise).items()}
        values = torch.empty(len(scalars), dtype=number, device=device)
        return cls(
            memory_format,
            torch.empty_like(x, device=device, memory_format=memory_format),
            None if labels is None else torch.empty_like(labels, device=device),
            drawn,
            values,
            tuple(Noise(**{name: value[i] for name, value in drawn.items()}) for i in range(len(noise))),
            values.unbind(),
        )

    def set(self, x: Tensor, labels: Tensor | None, noise: list[Noise], scalars: list[float]) -> None:
        _send(x.contiguous(memory_format=self.memory_format), self.x)
        if labels is not None:
            _send(labels, self.labels)
        for name, value in _stacked(noise).items():
            _send(value, self.drawn[name])
        _send(torch.tensor(scalars, dtype=self.values.dtype), self.values)


def _stacked(noise: list[Noise]) -> dict[str, Tensor]:
    """By name the fields that there are, [forwards, ...]."""
    of = {field.name: [getattr(drawn, field.name) for drawn in noise] for field in fields(Noise)}
    return {name: torch.stack(values) for name, values in of.items() if values[0] is not None}


def _send(value: Tensor, to: Tensor) -> None:
    """Copies without waiting. torch keeps pinned memory that was let go until the copies from it are through."""
    if to.is_cuda and not value.is_cuda:
        value = value.pin_memory()
    to.copy_(value, non_blocking=True)


def _first_line(error: BaseException) -> str:
    """Of the first error: a failed capture raises once more when it ends, and that one says less."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]
