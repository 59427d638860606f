"""The training of GANs, VAEs and VAE-GANs: the loop over :func:`sdgan_ext.training.steps.train_step`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function
from torch.utils.data import Dataset

from sdgan_ext._errors import CheckpointError, DataError, shown
from sdgan_ext.data import batches
from sdgan_ext.models.labels import as_labels
from sdgan_ext.nn.sync_batch_norm import synchronise
from sdgan_ext.pictures import save_gif
from sdgan_ext.training.compatible import check_synchronisable
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.distributed import Processes
from sdgan_ext.training.gradients import train_mode
from sdgan_ext.training.graph import GraphedStep, graphs_of
from sdgan_ext.training.health import Health
from sdgan_ext.training.loop import TrainingLoop
from sdgan_ext.training.monitor import Monitor
from sdgan_ext.training.networks import SavedModel
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.perceptual import perceptual_of
from sdgan_ext.training.previews import Previews
from sdgan_ext.training.resuming import model_of_run
from sdgan_ext.training.runs import Run
from sdgan_ext.training.step import train_step

__all__ = ["Trainer"]


class Trainer(TrainingLoop):
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

    config_class = TrainConfig
    _previews: Previews
    _health: Health
    _batches: Iterator[tuple[Tensor, Tensor]]

    def __init__(
        self,
        model: SavedModel,
        config: TrainConfig | None = None,
        *,
        out: str | Path | None = "runs",
        progress: bool = True,
        processes: Processes | None = None,
    ):
        self.perceptual = perceptual_of(config or TrainConfig(), model.traits.image_shape)
        super().__init__(model, config or TrainConfig(), out=out, progress=progress, processes=processes)
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
        changes = {"steps": steps, "cuda_graph": cuda_graph, "workers": workers, "cache": cache, "max_bad": max_bad}
        changes |= {"checkpointing": checkpointing, "tracker": tracker, "perceptual_net": perceptual_net}
        return cls._resume(folder, model, device, changes, progress, processes)

    # ------------------------------------------------------------------------------------------- for the loop
    @classmethod
    def _model_of_run(cls, run: Run, path: Path, state: Mapping, given: SavedModel | None) -> SavedModel:
        return model_of_run(state, path, given)

    def _share(self, processes: Processes) -> None:
        if self.config.sync_batch_norm:
            check_synchronisable(self.model)
            synchronise(self.model)
        super()._share(processes)
        if self.perceptual is not None:
            processes.share_from_first(self.perceptual)

    def _make_optimizers(self) -> dict[str, torch.optim.Adam]:
        return make_optimizers(self.model, self.config)

    def _describe_run(self) -> str:
        return self.config.mode.replace("-", "")

    def _data_options(self) -> dict[str, Any]:
        return {"need_labels": bool(self.model.traits.classes)}

    def _check_data(self, dataset: Dataset) -> None:
        classes = self.model.traits.classes
        labelled = getattr(dataset, "num_classes", classes)  # of another dataset each batch is checked
        if classes and (labelled is None or labelled > classes):
            has = "no labels" if labelled is None else f"{labelled} classes"
            raise DataError(f"{self.data['name']} has {has}, the model is conditioned on {classes} classes")

    def _prepare(self, dataset: Dataset) -> None:
        config = self.config
        order = {"seed": config.seed, "start": self.run.step, "rows": self.rows}
        looks = {"augment": config.augment, "random_crop": config.crop == "random"}
        self._batches = batches(dataset, config.batch_size, **order, **looks, workers=config.workers)
        self._previews = Previews(self.ema.module, dataset, config.seed)

    def _stream(self, dataset: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
        return self._batches

    def _start(self, monitor: Monitor) -> Callable[[tuple[Tensor, Tensor]], Mapping[str, Tensor]]:
        train_mode(self.model)
        previews, stepper = self._previews, self._stepper(monitor)
        labels_shown = {"labels": previews.real_labels, "latent_labels": previews.labels}
        self._health = Health(self.model, self.config, previews.real, previews.eps, monitor.say, **labels_shown)

        def take(batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
            images, labels = batch
            return stepper(images, step=self.run.step, labels=self._labels(labels), generator=self.generator)

        return take

    def _examine(self) -> dict[str, float]:
        return self._health.examine(self.run.step)

    def _refresh(self) -> None:
        self._previews.fit_prior(self.model)

    def _show(self, monitor: Monitor) -> None:
        self._previews.show(monitor)

    def _finish(self, monitor: Monitor) -> None:
        self.ema.module.save_pretrained(self.run.model)
        save_gif(self.run.samples / "interpolation.gif", self._previews.walks())

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

    def _labels(self, labels: Tensor) -> Tensor | None:
        """The labels of a batch as the networks take them; -1 stands for an image without one."""
        if not self.model.traits.classes:
            return None
        try:
            return as_labels(labels, len(labels), self.model.config)
        except ValueError as error:
            raise DataError(f"{self.data['name']}: {error}") from None

    def _description(self) -> dict:
        described = super()._description()
        return described if self.perceptual is None else {**described, "perceptual_sha256": self.perceptual.sha256}

    def _load(self, state: Mapping, path: Path) -> None:
        sha256 = None if self.perceptual is None else self.perceptual.sha256
        if (was := state["config"].get("perceptual_sha256")) != sha256:
            raise CheckpointError(
                f"perceptual_net is {self.config.perceptual_net}, whose SHA-256 is {sha256}; {path} was trained with "
                f"that of SHA-256 {shown(was)}"
            )
        super()._load(state, path)
