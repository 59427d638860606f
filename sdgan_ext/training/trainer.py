"""The loop over :func:`sdgan_ext.training.steps.train_step`, and all that it does besides stepping."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import sdgan_ext
from sdgan_ext._errors import CheckpointError, ConfigError, DataError, DivergedError
from sdgan_ext.data import NAMES, batches, open_dataset
from sdgan_ext.models import VAEGAN
from sdgan_ext.models.labels import as_labels
from sdgan_ext.models.weights import load_into
from sdgan_ext.nn.sync_batch_norm import synchronise
from sdgan_ext.pictures import columns_of, image_grid, pairs_grid, save_gif, seeded_latents
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.distributed import Processes
from sdgan_ext.training.ema import make_ema
from sdgan_ext.training.graph import GraphedStep, graphs_of
from sdgan_ext.training.health import Health
from sdgan_ext.training.monitor import Monitor
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.runs import Run, create_run, open_run, read_configs, resolve_source, to_yaml
from sdgan_ext.training.selection import Selection, held_out_images, split
from sdgan_ext.training.state import list_checkpoints, load_newest, save_checkpoint
from sdgan_ext.training.steps import train_step

__all__ = ["Trainer"]

_KEEP = 2  # checkpoints
_SAMPLES = 64  # images in a grid
_PRIOR_IMAGES = 4096  # at most, whose latents the prior is fitted to
_WALKS, _STOPS, _STRIDE = 16, 3, 12  # interpolation.gif: walks side by side, latent vectors of each, frames between two


class Trainer:
    """Trains a model and keeps a run folder (:mod:`sdgan_ext.training.runs`).

    The order of the data follows from (seed, step); all other randomness comes from a generator seeded by
    ``config.seed``. Its state, and that of torch's own, are in every checkpoint: on the CPU a run that was interrupted
    and resumed ends with the same bits as one that was not. On CUDA the step is replayed as a CUDA graph
    (:mod:`sdgan_ext.training.graph`) unless ``config.cuda_graph`` is False.

    Args:
        model: on the device to train on; changed in place.
        config: how to train.
        out: the folder that holds run folders; None writes no file at all.
        progress: show a bar on a terminal, a line per log interval elsewhere.
        processes: that train this model together, ``config.batch_size`` images a step in all. Rank 0's weights are
            everyone's at the start; rank 0 alone writes, shows and draws.

    Raises:
        ConfigError: the model lacks what ``config`` trains, or the batch cannot be shared out.
    """

    def __init__(
        self,
        model: VAEGAN,
        config: TrainConfig | None = None,
        *,
        out: str | Path | None = "runs",
        progress: bool = True,
        processes: Processes | None = None,
    ):
        self.model = model
        self.config = config or TrainConfig()
        self.processes = processes
        self.first = processes is None or processes.rank == 0
        self.out = out if self.first else None
        self.progress = progress and self.first
        self.run: Run | None = Run() if self.out is None else None
        self.data: dict = {}
        self.rows = slice(None)
        if processes is not None:
            self.rows = processes.rows(self.config.batch_size)
            if self.config.sync_batch_norm:
                synchronise(model)
            processes.share_from_first(model)
        self.optimizers = make_optimizers(model, self.config)
        self.ema = make_ema(model, self.config).eval()
        self.generator = torch.Generator().manual_seed(self.config.seed)
        self.device = next(model.parameters()).device

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        *,
        steps: int | None = None,
        device: torch.device | str = "cpu",
        cuda_graph: bool | None = None,
        workers: int | None = None,
        progress: bool = True,
        processes: Processes | None = None,
    ) -> Trainer:
        """A trainer that goes on from the newest complete checkpoint of a run; damaged ones are warned about.

        Args:
            folder: the run folder.
            steps: how many steps the run shall have in all; None leaves what it was started with.
            device: where to train.
            cuda_graph, workers: as in the configuration; None leaves what the run was started with.
            progress, processes: as for a new trainer.

        Raises:
            CheckpointError: no run, no complete checkpoint, or one of a newer version.
            ConfigError: more than ``steps`` steps have been taken.
        """
        run = open_run(folder)
        path, state = load_newest(run.checkpoints, warnings.warn)
        model_config, config = read_configs(state["config"], path)
        own, _ = read_configs(run.read_config(), run.config_file)
        for name, value in own.to_dict().items():
            if model_config.to_dict()[name] != value:
                raise CheckpointError(
                    f"{path} is of another architecture than its run: {name} is {model_config.to_dict()[name]} there "
                    f"and {value} in {run.config_file}"
                )
        changes = {"steps": steps, "cuda_graph": cuda_graph, "workers": workers}
        config = config.replace(**{name: value for name, value in changes.items() if value is not None})
        if state["step"] > config.steps:
            raise ConfigError(f"steps is {config.steps}, but {state['step']} have been taken in the run {folder}")
        model = VAEGAN(model_config).to(device)
        trainer = cls(model, config, out=run.folder.parent, progress=progress, processes=processes)
        trainer.run = run if trainer.first else Run()
        trainer._load(state, path)
        return trainer

    def fit(
        self,
        dataset: Dataset | str | Path,
        *,
        source: str | Path | None = None,
        held_out: Dataset | None = None,
    ) -> Run:
        """Takes the steps that are left of ``config.steps``.

        Ctrl-C (SIGINT) and SIGTERM let the step end, save and return; a second one ends the process at once.

        Args:
            dataset: what :func:`sdgan_ext.data.batches` takes, or what :func:`sdgan_ext.data.open_dataset` opens, then
                fitted to the model's image size and channels.
            source: what to call an opened ``dataset`` in config.yaml, so that the command line can open it again.
            held_out: images for ``config.evaluate_every``; unless given, ``config.validation_images`` of the dataset,
                or, without them, the test split of what ``source`` names.

        Returns:
            The run; ``run.stopped_by`` names the signal that ended it early.

        Raises:
            DataError: the images do not fit the model, or are not those the run was started with.
            DivergedError: a loss or a weight is NaN or infinite; the last good checkpoint stays and is named.
            CheckpointError: the run folder cannot be written, or another process trains this run.
        """
        dataset, validation = split(self._open(dataset, source), self.config)
        if self.config.evaluate_every and self.first:
            held_out = held_out_images(self.config, self.model, self.data["source"], held_out, validation)
        if self.run is None:
            self.run = create_run(self.out, f"{self.config.mode.replace('-', '')}-{self.data['name']}")
        with self.run.locked():
            try:
                return self._fit(dataset, held_out)
            except DivergedError as error:
                saved = self.run.folder and list_checkpoints(self.run.checkpoints)
                raise DivergedError(f"{error}; the last good checkpoint is {saved[-1]}" if saved else error) from None

    def describe(self, dataset: Dataset | str | Path, *, source: str | Path | None = None) -> str:
        """What :meth:`fit` would do, as YAML; what it would say of the data and the model, it says here."""
        dataset, _ = split(self._open(dataset, source), self.config)
        next(batches(dataset, self.config.batch_size, seed=self.config.seed))
        counts = {
            name: sum(parameter.numel() for parameter in network.parameters())
            for name, network in self.model.named_children()
            if name != "prior"
        }
        return to_yaml({**self._description(), "parameters": counts | {"total": sum(counts.values())}})

    # ------------------------------------------------------------------------------------------------ the loop
    def _fit(self, dataset: Dataset, held_out: Dataset | None) -> Run:
        run, config = self.run, self.config
        order = {"seed": config.seed, "start": run.step, "rows": self.rows}
        stream = batches(dataset, config.batch_size, **order, augment=config.augment, workers=config.workers)
        pictures = _Pictures(self.ema.module, dataset, config.seed)
        if run.folder is not None:
            run.sweep()
            run.write_config({**self._description(), "versions": _versions()})
            if not list_checkpoints(run.checkpoints):
                self._save()
        self.model.train()
        monitor = Monitor(run, steps=config.steps, batch_size=config.batch_size, progress=self.progress)
        with _StopSignals(self.progress) as signals, contextlib.closing(stream), monitor:
            take = self._stepper(monitor)
            looks = {"labels": pictures.real_labels, "latent_labels": pictures.labels}
            health = Health(self.model, config, pictures.real, pictures.eps, monitor.say, **looks)
            selection = None
            if config.evaluate_every and self.first:
                selection = Selection(config, held_out, run, monitor.say)
            exhausted = False
            while run.step < config.steps:
                images, labels = next(stream)
                losses = take(images, step=run.step, labels=self._labels(labels), generator=self.generator)
                run.step += 1
                stopping = signals.caught is not None or exhausted
                if self.processes is not None:
                    losses, stopping = self.processes.average(losses, stopping)
                monitor.step(losses)
                if selection is not None and selection.due(run.step):
                    with monitor.paused():
                        monitor.evaluation(selection.take(self.ema.module, run.step))
                    exhausted = selection.exhausted
                # With several processes all hear of it in the next step.
                last = run.step == config.steps or stopping or (exhausted and self.processes is None)
                draw = last or run.step % config.sample_every == 0
                save = last or run.step % config.checkpoint_every == 0
                if last or run.step % config.log_every == 0:
                    monitor.log(health.examine(run.step) if self.first else {})
                if draw or save:
                    monitor.check()
                    self._check_weights()
                with monitor.paused():
                    if draw and self.first:
                        pictures.fit_prior(self.model)
                        pictures.show(monitor)
                    if save:
                        self._save()
                if last:
                    break
            asked = signals.caught or (None if exhausted or self.processes is None else "SIGTERM")
            run.stopped_by = asked if run.step < config.steps else None
            if run.folder is not None:
                self.ema.module.save_pretrained(run.model)
                save_gif(run.samples / "interpolation.gif", pictures.walks())
        return run

    def _stepper(self, monitor: Monitor) -> Callable[..., Mapping[str, Tensor]]:
        """What takes a step with a batch and returns its losses."""
        graphs = graphs_of(self.device) if self.config.cuda_graph and self.processes is None else None
        if graphs is not None:
            return GraphedStep(self.model, self.optimizers, self.ema, self.config, graphs, monitor.say)
        return self._step

    def _step(
        self, images: Tensor, *, step: int, labels: Tensor | None, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        labels = None if labels is None else labels.to(self.device, non_blocking=True)
        losses = train_step(
            self.model,
            self.optimizers,
            images,
            self.config,
            step=step,
            labels=labels,
            generator=generator,
            processes=self.processes,
        )
        self.ema.update_parameters(self.model)
        return losses

    def _labels(self, labels: Tensor) -> Tensor | None:
        """What a step is told of a batch's labels; -1 stands for an image without one."""
        if not self.model.config.classes:
            return None
        try:
            return as_labels(labels, len(labels), self.model.config)
        except ValueError as error:
            raise DataError(f"{self.data['name']}: {error}") from None

    def _check_weights(self) -> None:
        """Nothing that is not finite is drawn or saved: a loss can be finite while its gradient is not."""
        for name, weight in self.model.state_dict().items():
            if weight.is_floating_point() and not weight.isfinite().all():
                raise DivergedError(f"training diverged by step {self.run.step}: {name} holds NaN or infinity")

    def _description(self) -> dict:
        return {"model": self.model.config.to_dict(), "train": self.config.to_dict(), "data": self.data}

    # ------------------------------------------------------------------------------------------------ the state
    def _save(self) -> None:
        if self.run.folder is None:
            return
        state = {
            "step": self.run.step,
            "seconds": self.run.seconds,
            "best": self.run.best,
            "config": self._description(),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
        }
        save_checkpoint(self.run.checkpoints, state, keep=_KEEP)

    def _load(self, state: Mapping, path: Path) -> None:
        load_into(self.model, state["model"], path)
        load_into(self.ema, state["ema"], path)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_generator"])
        self.data = state["config"]["data"]
        self.run.step, self.run.seconds = state["step"], state["seconds"]
        self.run.best = state.get("best", {})

    def _open(self, dataset: Dataset | str | Path, source: str | Path | None) -> Dataset:
        """The dataset, checked against the model and against the one that a resumed run was started with."""
        if not isinstance(dataset, Dataset):
            source = dataset
        model = self.model.config
        dataset = open_dataset(dataset, image_size=model.image_size, channels=model.channels, seed=self.config.seed)
        images, _ = next(batches(dataset, 1, seed=0))
        data = {
            "source": None if source is None else resolve_source(source),
            "name": getattr(dataset, "name", type(dataset).__name__),
            "images": len(dataset),
            "image_size": list(images.shape[2:]),
            "channels": images.shape[1],
        }
        for key, value in (("image_size", list(model.image_size)), ("channels", model.channels)):
            if data[key] != value:
                raise DataError(f"{data['name']} has {key} {data[key]}, the model takes {value}")
        for key in ("name", "images"):
            if self.data and data[key] != self.data[key]:
                raise DataError(
                    f"the run {self.run.folder} was started on data with {key} {self.data[key]!r}, "
                    f"now it is {data[key]!r}"
                )
        self.data = self.data or data
        turned = {"flip", "rotate90"}.intersection(self.config.augment or ())
        if turned and data["name"] in NAMES and self.first:  # both names are those of digits
            warnings.warn(
                f"augment has {min(turned)!r}, but {data['name']} is digits: mirrored or turned, most are none, and "
                "the model learns to draw them so",
                stacklevel=3,
            )
        labelled = getattr(dataset, "num_classes", model.classes)  # of another dataset each batch is looked at
        if model.classes and (labelled is None or labelled > model.classes):
            has = "no labels" if labelled is None else f"{labelled} classes"
            raise DataError(f"{data['name']} has {has}, the model is told of {model.classes} classes")
        return dataset


class _Pictures:
    """What a run shows of its model: the same latent vectors and the same inputs every time."""

    def __init__(self, model: VAEGAN, dataset: Dataset, seed: int):
        self.model = model
        self.device = next(model.parameters()).device
        self.eps = seeded_latents(range(_SAMPLES), model.config.latent_dim).to(self.device)
        classes = model.config.classes
        self.labels = (torch.arange(_SAMPLES) % classes).to(self.device) if classes else None
        self.real, labels = next(batches(dataset, min(_SAMPLES // 2, len(dataset)), seed=seed))
        self.real, self.real_labels = self.real.to(self.device), labels.to(self.device) if classes else None
        self.inputs = None if model.encoder is None else self.real

        self.prior_data = None
        if model.prior is not None:
            count = min(_PRIOR_IMAGES, len(dataset))
            self.prior_data = next(batches(dataset, count, seed=seed))

    @property
    def latents(self) -> Tensor:
        return self.model.latents(self.eps)

    def fit_prior(self, trained: VAEGAN) -> None:
        """Of the shown model, and so of the ``trained`` one, whose buffers it takes."""
        if self.prior_data is None:
            return
        x, labels = (part.to(self.device) for part in self.prior_data)
        self.model.fit_prior(x, labels if self.model.config.classes else None)
        trained.prior.load_state_dict(self.model.prior.state_dict())

    @torch.no_grad()
    def show(self, monitor: Monitor) -> None:
        monitor.picture("samples", image_grid(self.model.decode(self.latents, self.labels), columns_of(_SAMPLES)))
        if self.inputs is not None:
            outputs = self.model.reconstruct(self.inputs, self.real_labels)
            monitor.picture("reconstructions", pairs_grid(self.inputs, outputs, columns_of(_SAMPLES)))

    def walks(self) -> Iterable[Tensor]:
        """Frames of closed walks through the latent space, side by side."""
        labels = [None] * _WALKS if self.labels is None else self.labels[:_WALKS]
        walks = [
            torch.cat([self.model.interpolate(stops[i - 1], stops[i], _STRIDE + 1, label)[:-1] for i in range(_STOPS)])
            for stops, label in zip(self.latents[: _WALKS * _STOPS].split(_STOPS), labels, strict=True)
        ]
        return [image_grid(frame, columns_of(_WALKS)) for frame in torch.stack(walks, 1)]


class _StopSignals:
    """Notes SIGINT and SIGTERM instead of ending the process; a second one does end it."""

    def __init__(self, speak: bool):
        self.caught: str | None = None
        self._speak = speak
        self._before: dict = {}

    def __enter__(self) -> _StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if self.caught is not None:
            self.__exit__()
            signal.raise_signal(number)
        self.caught = signal.Signals(number).name
        if self._speak:  # not print: that may be what was interrupted
            os.write(2, b"\nfinishing this step and saving; once more leaves at once\n")


def _versions() -> dict[str, str]:
    return {
        "sdgan_ext": sdgan_ext.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
