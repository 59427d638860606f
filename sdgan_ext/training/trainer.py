"""The loop over :func:`sdgan_ext.training.steps.train_step`, and everything around a step."""

from __future__ import annotations

import contextlib
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function
from torch.utils.data import Dataset

import sdgan_ext
from sdgan_ext._console import guarded_console
from sdgan_ext._errors import CheckpointError, ConfigError, DataError, DivergedError, shown
from sdgan_ext._modes import undisturbed
from sdgan_ext.data import OF_DIGITS, ImageDataset, LazyImages, RenderedDigits, batches, open_dataset
from sdgan_ext.data.hugging import is_hugging
from sdgan_ext.data.part import lazy_images
from sdgan_ext.models.labels import as_labels
from sdgan_ext.models.weights import check_weights
from sdgan_ext.nn.sync_batch_norm import synchronise
from sdgan_ext.pictures import save_gif
from sdgan_ext.training.compatible import check_float32, check_synchronisable
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.distributed import Processes
from sdgan_ext.training.ema import make_ema
from sdgan_ext.training.gradients import train_mode
from sdgan_ext.training.graph import GraphedStep, graphs_of
from sdgan_ext.training.health import Health
from sdgan_ext.training.monitor import Monitor
from sdgan_ext.training.networks import SavedModel
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.perceptual import perceptual_of
from sdgan_ext.training.previews import Previews
from sdgan_ext.training.profiling import StepProfiler
from sdgan_ext.training.resuming import freeze_as, model_of_run, read_run
from sdgan_ext.training.runs import Run, create_run, open_run, resolve_source, to_yaml
from sdgan_ext.training.saved_state import check_optimizers
from sdgan_ext.training.selection import Selection, held_out_images, split
from sdgan_ext.training.signals import StopSignals
from sdgan_ext.training.state import list_checkpoints, save_checkpoint
from sdgan_ext.training.step import train_step
from sdgan_ext.training.trackers import check_installed

__all__ = ["Trainer"]

_KEEP = 2  # checkpoints


class Trainer:
    """Trains a model and keeps a run folder (:mod:`sdgan_ext.training.runs`).

    The order of the data follows from (seed, step); all other randomness comes from a generator seeded by
    ``config.seed``. Its state, and that of torch's own, are in every checkpoint: on the CPU a run that was interrupted
    and resumed ends with the same bits as one that was not. On CUDA the step is replayed as a CUDA graph
    (:mod:`sdgan_ext.training.graph`) unless ``config.cuda_graph`` is False.

    Args:
        model: a :class:`~sdgan_ext.models.VAEGAN`, an :func:`~sdgan_ext.training.autoencoder.autoencoder` of diffusers,
            or :class:`~sdgan_ext.training.networks.Networks` of your own, on the device to train on; changed in place.
            Parameters with ``requires_grad=False`` stay as they are, and a network that has no others is neither
            trained nor put into training mode.
        config: how to train.
        out: the folder that holds run folders; None writes no file at all.
        progress: show a bar on a terminal, a line per log interval elsewhere.
        processes: that train this model together, ``config.batch_size`` images a step in all. Rank 0's weights are
            everyone's at the start; rank 0 alone writes, shows and draws.

    Raises:
        ConfigError: the model lacks what ``config`` trains, the batch cannot be shared out, torch's default dtype or a
            trained weight is no float32, a tracker is not installed, or the perceptual net does not take the images.
        CheckpointError: the file of the perceptual net cannot be read.
    """

    def __init__(
        self,
        model: SavedModel,
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
        self._index_file: Path | None = None  # of the run's images
        self.rows = slice(None)
        check_float32(model)
        check_installed(self.config.tracker)
        self.perceptual = perceptual_of(self.config, model.traits.image_shape)
        if processes is not None:
            self.rows = processes.rows(self.config.batch_size)
            if self.config.sync_batch_norm:
                check_synchronisable(model)
                synchronise(model)
            processes.share_from_first(model)
            if self.perceptual is not None:
                processes.share_from_first(self.perceptual)
        self.optimizers = make_optimizers(model, self.config)
        self.ema = make_ema(model, self.config).eval()
        self.generator = torch.Generator().manual_seed(self.config.seed)
        self.device = next(model.parameters()).device
        if self.perceptual is not None:
            self.perceptual.to(self.device)
            self.config = self.config.replace(perceptual_net=self.perceptual.source)

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        *,
        model: SavedModel | None = None,
        steps: int | None = None,
        device: torch.device | str | None = None,
        cuda_graph: bool | None = None,
        checkpointing: bool | None = None,
        workers: int | None = None,
        cache: str | None = None,
        max_bad: int | None = None,
        tracker: Sequence[str] | None = None,
        perceptual_net: str | None = None,
        progress: bool = True,
        processes: Processes | None = None,
    ) -> Trainer:
        """A trainer that goes on from the newest complete checkpoint of a run; damaged ones are warned about.

        Args:
            folder: the run folder.
            model: of a run of your own networks: made as it was for the run, its weights are replaced. A VAEGAN or an
                Autoencoder is made from the run's configuration.
            steps: how many steps the run shall have in all; None leaves what it was started with.
            device: where to train; None: the CPU, or where ``model`` is.
            cuda_graph, checkpointing, workers, cache, max_bad, tracker: as in the configuration; None leaves what the
                run was started with.
            perceptual_net: where the run's file is now; one of other bytes is refused.
            progress, processes: as for a new trainer.

        Raises:
            CheckpointError: no run, no complete checkpoint, one of a newer version, or ``model`` or the perceptual net
                is missing or another one.
            ConfigError: more than ``steps`` steps have been taken.
        """
        run = open_run(folder)
        path, state, config = read_run(run)
        changes = {"steps": steps, "cuda_graph": cuda_graph, "workers": workers, "cache": cache, "max_bad": max_bad}
        changes |= {"checkpointing": checkpointing, "tracker": tracker, "perceptual_net": perceptual_net}
        config = config.replace(**{name: value for name, value in changes.items() if value is not None})
        if state["step"] > config.steps:
            raise ConfigError(f"steps is {config.steps}, but {state['step']} have been taken in the run {folder}")
        given = model is not None
        model = model_of_run(state, path, model)
        check_weights(model, state["model"], path)
        freeze_as(model, state.get("frozen", []), path, given=given)
        if device is not None or not given:
            model = model.to(device or "cpu")
        trainer = cls(model, config, out=run.folder.parent, progress=progress, processes=processes)
        trainer.run = run if trainer.first else Run()
        trainer._index_file = run.data_index
        trainer._load(state, path)
        return trainer

    def fit(
        self,
        dataset: Dataset | str | Path,
        *,
        source: str | Path | None = None,
        held_out: Dataset | None = None,
        profile: bool = False,
    ) -> Run:
        """Takes the steps that are left of ``config.steps``.

        Ctrl-C (SIGINT), SIGTERM and SIGHUP, unless that is ignored as under nohup, let the step end, save and return; a
        second SIGINT or SIGTERM ends the process at once. Output does not: what stdout and stderr do not take, closed,
        full or broken, goes to ``RUN/console.log``.

        Args:
            dataset: what :func:`sdgan_ext.data.batches` takes, or what :func:`sdgan_ext.data.open_dataset` opens, then
                fitted to the model's image size and channels.
            source: what to call an opened ``dataset`` in config.yaml, so that the command line can open it again. Data
                of a resumed run may have moved: they must have the name, number and shape of the run's.
            held_out: images for ``config.evaluate_every``; unless given, ``config.validation_images`` of the dataset,
                or, without them, the test split of what ``source`` names.
            profile: write a trace of ten steps, after some to warm up, to ``RUN/profile/*.pt.trace.json``, which
                Chrome's ``chrome://tracing``, Perfetto and TensorBoard's profiler open.

        Returns:
            The run; ``run.stopped_by`` names the signal that ended it early.

        Raises:
            DataError: the images do not fit the model, or are not those the run was started with.
            DivergedError: a loss or a weight is NaN or infinite; the last good checkpoint stays and is named.
            CheckpointError: the run folder cannot be written, or another process trains this run.
            ConfigError: ``profile`` is True, but the trainer writes no files.
        """
        if profile and self.first and self.run is not None and self.run.folder is None:
            raise ConfigError("profile is True, but out is None: a trace is written into the run folder")
        with guarded_console() as console:
            dataset, validation = split(self._open(dataset, source), self.config)
            if self.config.evaluate_every and self.first:
                held_out = held_out_images(self.config, self.model, self.data["source"], held_out, validation)
            if self.run is None:
                self.run = create_run(self.out, f"{self.config.mode.replace('-', '')}-{self.data['name']}")
            with self.run.locked():
                console.keep_in(self.run.folder and self.run.folder / "console.log")
                try:
                    return self._fit(dataset, held_out, profile)
                except DivergedError as error:
                    saved = self.run.folder and list_checkpoints(self.run.checkpoints)
                    more = f"; the last good checkpoint is {saved[-1]}" if saved else ""
                    raise DivergedError(f"{error}{more}") from None

    def describe(self, dataset: Dataset | str | Path, *, source: str | Path | None = None) -> str:
        """What :meth:`fit` would do, as YAML; what it would say of the data and the model, it says here."""
        dataset, _ = split(self._open(dataset, source), self.config)
        next(batches(dataset, self.config.batch_size, seed=self.config.seed))
        return to_yaml({**self._description(), "parameters": self._parameters()})

    # ------------------------------------------------------------------------------------------------ the loop
    def _fit(self, dataset: Dataset, held_out: Dataset | None, profile: bool) -> Run:
        run, config = self.run, self.config
        order = {"seed": config.seed, "start": run.step, "rows": self.rows}
        looks = {"augment": config.augment, "random_crop": config.crop == "random"}
        stream = batches(dataset, config.batch_size, **order, **looks, workers=config.workers)
        lazy = lazy_images(dataset)
        previews = Previews(self.ema.module, dataset, config.seed)
        described = {**self._description(), "parameters": self._parameters(), "versions": _versions()}
        if run.folder is not None:
            run.sweep()
            run.write_config(described)
            if lazy is not None and lazy.index is not None:
                lazy.index.save(run.data_index)
            if not list_checkpoints(run.checkpoints):
                self._save()
            if self.processes is not None:
                self.processes.note_run(run.folder)
        train_mode(self.model)
        monitor = Monitor(
            run,
            steps=config.steps,
            batch_size=config.batch_size,
            progress=self.progress,
            trackers=config.tracker,
            config=described,
        )
        profiler = StepProfiler(run, self.device, monitor.say) if profile and self.first else contextlib.nullcontext()
        with StopSignals(self.progress) as signals, contextlib.closing(stream), monitor, profiler:
            take = self._stepper(monitor)
            labels_shown = {"labels": previews.real_labels, "latent_labels": previews.labels}
            health = Health(self.model, config, previews.real, previews.eps, monitor.say, **labels_shown)
            selection = None
            if config.evaluate_every and self.first:
                selection = Selection(config, held_out, run, monitor.say)
            exhausted = False
            while run.step < config.steps:
                with record_function("sdgan/data"):
                    images, labels = self._next(stream, monitor)
                if lazy is not None:
                    monitor.unreadable(lazy.bad)
                losses = take(images, step=run.step, labels=self._labels(labels), generator=self.generator)
                run.step += 1
                stopping = signals.caught is not None or exhausted
                if self.processes is not None:
                    losses, stopping = self.processes.average(losses, stopping)
                monitor.step(losses)
                if profile and self.first:
                    profiler.step()
                if selection is not None and selection.due(run.step):
                    with monitor.paused(), undisturbed(self.model):
                        previews.fit_prior(self.model)  # it is sampled from, and saved with the best model
                        monitor.evaluation(selection.take(self.ema.module, run.step))
                    exhausted = selection.exhausted
                # With several processes all hear of it in the next step.
                last = run.step == config.steps or stopping or (exhausted and self.processes is None)
                draw = last or run.step % config.sample_every == 0
                save = last or run.step % config.checkpoint_every == 0
                if last or run.step % config.log_every == 0:
                    with undisturbed(self.model):
                        monitor.log(health.examine(run.step) if self.first else {})
                if draw or save:
                    monitor.check()
                    self._check_weights()
                with monitor.paused():
                    if (draw or save) and self.first:
                        with undisturbed(self.model):
                            previews.fit_prior(self.model)
                            if draw:
                                previews.show(monitor)
                    if save:
                        self._save()
                if last:
                    break
            asked = signals.caught or (None if exhausted or self.processes is None else "SIGTERM")
            run.stopped_by = asked if run.step < config.steps else None
            if run.folder is not None:
                self.ema.module.save_pretrained(run.model)
                save_gif(run.samples / "interpolation.gif", previews.walks())
        return run

    def _stepper(self, monitor: Monitor) -> Callable[..., Mapping[str, Tensor]]:
        """What takes a step with a batch and returns its losses."""
        graphs = graphs_of(self.device) if self.config.cuda_graph and self.processes is None else None
        if graphs is not None:
            made = self.model, self.optimizers, self.ema, self.config
            return GraphedStep(*made, graphs, monitor.say, self.perceptual)
        return self._step

    def _step(
        self, images: Tensor, *, step: int, labels: Tensor | None, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        images = images.to(self.device, memory_format=self.model.traits.memory_format, non_blocking=True)
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
            perceptual=self.perceptual,
        )
        with record_function("sdgan/average"):
            self.ema.update_parameters(self.model)
        return losses

    def _next(self, stream: Iterator[tuple[Tensor, Tensor]], monitor: Monitor) -> tuple[Tensor, Tensor]:
        """A batch. Where the data break, the steps that have been taken are saved first."""
        try:
            return next(stream)
        except DataError:
            with contextlib.suppress(DivergedError):  # then the last good checkpoint stays
                monitor.check()
                self._check_weights()
                self._save()
            raise

    def _labels(self, labels: Tensor) -> Tensor | None:
        """The labels of a batch as the networks take them; -1 stands for an image without one."""
        if not self.model.traits.classes:
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

    def _parameters(self) -> dict[str, int]:
        """How many each network has, and all."""
        counts = {
            name: sum(parameter.numel() for parameter in network.parameters())
            for name, network in self.model.named_children()
            if name != "prior"
        }
        return counts | {"total": sum(counts.values())}

    def _description(self) -> dict:
        described = {"model": self.model.config.to_dict(), "train": self.config.to_dict(), "data": self.data}
        return described if self.perceptual is None else {**described, "perceptual_sha256": self.perceptual.sha256}

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
            "frozen": [name for name, weight in self.model.named_parameters() if not weight.requires_grad],
            "ema": self.ema.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
        }
        save_checkpoint(self.run.checkpoints, state, keep=_KEEP)

    def _load(self, state: Mapping, path: Path) -> None:
        """All of a checkpoint, of :func:`check_state`; nothing is changed where a part of it does not fit."""
        sha256 = None if self.perceptual is None else self.perceptual.sha256
        if (was := state["config"].get("perceptual_sha256")) != sha256:
            raise CheckpointError(
                f"perceptual_net is {self.config.perceptual_net}, whose SHA-256 is {sha256}; {path} was trained with "
                f"that of SHA-256 {shown(was)}"
            )
        model = check_weights(self.model, state["model"], path)
        average = check_weights(self.ema, state["ema"], path)
        optimizers = check_optimizers(self.optimizers, state["optimizers"], path)
        self.model.load_state_dict(model)
        if self.processes is not None:
            self.processes.share_from_first(self.model)
        self.ema.load_state_dict(average)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(optimizers[name])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_generator"])
        self.data = state["config"]["data"]
        self.run.step, self.run.seconds = state["step"], state["seconds"]
        self.run.best = state.get("best", {})

    def _open(self, dataset: Dataset | str | Path, source: str | Path | None) -> Dataset:
        """The dataset, checked against the model and against the one that a resumed run was started with."""
        config = self.config
        if isinstance(dataset, (str, Path)):
            source = dataset
        elif not isinstance(dataset, (ImageDataset, LazyImages, RenderedDigits)) and not is_hugging(dataset):
            for name, plain in (("resize", None), ("crop", "centre")):
                if (value := getattr(config, name)) != plain:
                    raise ConfigError(
                        f"{name} is {value!r}, but the data are a {type(dataset).__name__}, which hands out images as "
                        "it has made them: resize and crop them there"
                    )
        channels, *size = self.model.traits.image_shape
        dataset = open_dataset(
            dataset,
            image_size=tuple(size),
            channels=channels,
            seed=config.seed,
            background=config.background,
            need_labels=bool(self.model.traits.classes),
            resize=config.resize,
            crop=config.crop,
            cache=config.cache,
            max_bad=config.max_bad,
            index_file=self._index_file,
        )
        images, _ = next(batches(dataset, 1, seed=0))
        data = {
            "source": None if source is None else resolve_source(source),
            "name": getattr(dataset, "name", type(dataset).__name__),
            "images": len(dataset),
            "image_size": list(images.shape[2:]),
            "channels": images.shape[1],
        }
        for key, value in (("image_size", size), ("channels", channels)):
            if data[key] != value:
                raise DataError(f"{data['name']} has {key} {data[key]}, the model takes {value}")
        for key in ("name", "images"):
            if self.data and data[key] != self.data[key]:
                raise DataError(
                    f"the run {self.run.folder} was started on data with {key} {self.data[key]!r}, "
                    f"now it is {data[key]!r}"
                )
        if self.data and source is None:
            data["source"] = self.data["source"]
        self.data = data
        turned = {"flip", "rotate90"}.intersection(self.config.augment or ())
        if turned and data["name"].partition(" ")[0] in OF_DIGITS and self.first:
            warnings.warn(
                f"augment has {min(turned)!r}, but {data['name']} is digits: mirrored or turned, most are none, and "
                "the model learns to draw them so",
                stacklevel=3,
            )
        classes = self.model.traits.classes
        labelled = getattr(dataset, "num_classes", classes)  # of another dataset each batch is checked
        if classes and (labelled is None or labelled > classes):
            has = "no labels" if labelled is None else f"{labelled} classes"
            raise DataError(f"{data['name']} has {has}, the model is conditioned on {classes} classes")
        return dataset


def _versions() -> dict[str, str]:
    return {
        "sdgan_ext": sdgan_ext.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
