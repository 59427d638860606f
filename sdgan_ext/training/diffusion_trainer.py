"""The training of latent diffusion models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.profiler import record_function
from torch.utils.data import Dataset

from .._errors import ConfigError, DataError
from .._files import user_path
from .._modes import evaluation_mode
from ..data import batches, captions_of
from ..data.loader import orders
from ..diffusion import Draws, LatentScaling, diffusion_loss, draw, sample_posterior
from ..diffusion.model import LatentDiffusion, check_autoencoder, scaling_of
from ..diffusion.model_config import DERIVED, LatentDiffusionConfig
from ..diffusion.pipeline import pipeline_obstacle, save_pipeline
from ..diffusion.tokenizer import CaptionTokenizer
from ..evaluation import evaluate
from ..evaluation.evaluate import refusals
from ..pictures import columns_of, image_grid
from .diffusion_config import DiffusionTrainConfig
from .diffusion_health import DiffusionHealth
from .distributed import Processes
from .latents import Latents, latents_of
from .loop import TrainingLoop
from .monitor import Monitor
from .optimizers import set_learning_rates
from .resuming import check_same_model
from .runs import Run, latent_diffusion_of
from .selection import Selection
from .step import precision
from .terms import named_terms

__all__ = ["DiffusionTrainer", "latent_diffusion"]

_SAMPLES = 64  # images in a grid
_MOST_CLASSES = 1000  # whose captions a model keeps
_MEASURED = 2048  # images by which latents are scaled that have no scale
_CACHE = "latents.safetensors"


def latent_diffusion(
    config: LatentDiffusionConfig,
    autoencoder: Any,
    dataset: Any,
    train: DiffusionTrainConfig | None = None,
    *,
    source: str | None = None,
) -> LatentDiffusion:
    """A model with random weights for an autoencoder's latents and a dataset's captions, whose tokenizer it learns.

    ::

        data = sd.data.open_dataset("mnist", captions="a {class}", image_size=32, pad=2)
        model = sd.latent_diffusion(sd.LatentDiffusionConfig(), sd.autoencoder("runs/00000-vae-mnist"), data)
        sd.DiffusionTrainer(model).fit(data)

    Args:
        config: what is not of the autoencoder or the captions; those fields are set.
        autoencoder: a VAEGAN with a latent map, or an :func:`sdgan_ext.autoencoder`.
        dataset: with captions, of the autoencoder's image size.
        train: how it will be trained: whether captions are dropped, and how images are padded.
        source: what to call the autoencoder in the configuration.

    Raises:
        ConfigError: the autoencoder's latents are no maps, or the configuration does not fit them.
        DataError: the dataset has no captions.
    """
    check_autoencoder(autoencoder)
    train = train or DiffusionTrainConfig()
    captions = captions_of(dataset)
    tokenizer = CaptionTokenizer.learn(captions)
    known = getattr(dataset, "num_classes", None) is not None and len(captions) <= _MOST_CLASSES
    channels, *size = autoencoder.traits.image_shape
    latent_channels, *latent_size = autoencoder.config.latent_shape
    scaling = scaling_of(autoencoder) or LatentScaling()
    derived = {
        "image_size": tuple(size),
        "channels": channels,
        "latent_channels": latent_channels,
        "latent_size": tuple(latent_size),
        "scaling_factor": scaling.scale,
        "shift_factor": scaling.shift,
        "autoencoder": source,
        "vocab_size": tokenizer.vocab_size,
        "text_length": tokenizer.length,
        "captions": train.captions,
        "class_captions": tuple(captions) if known else None,
        "null_condition": train.condition_dropout > 0,
        "pad": train.pad,
    }
    assert derived.keys() == set(DERIVED)
    # In one go: a latent size is checked together with the levels that halve it.
    model = LatentDiffusion(config.replace(**derived), autoencoder, tokenizer)
    if scaling_of(autoencoder) is None:
        images, _ = next(batches(dataset, min(_MEASURED, len(dataset)), seed=0))
        device = next(model.autoencoder.parameters()).device
        with evaluation_mode(model):
            parts = [model.encode(part.to(device)) for part in images.split(64)]
        scaling = LatentScaling.measured(*(torch.cat(of_parts) for of_parts in zip(*parts, strict=True)))
        model.scaling, model.config = scaling, model.config.replace(scaling_factor=scaling.scale)
    return model


class DiffusionTrainer(TrainingLoop):
    """Trains a :class:`~sdgan_ext.diffusion.model.LatentDiffusion` and keeps a run folder.

    Images are encoded once, before the first step (:mod:`sdgan_ext.training.latents`); each step draws z ~ q(z|x) anew,
    and times, noise and dropped captions, all from one generator whose state is in the checkpoints. So a run that was
    interrupted and resumed ends with the same bits as one that was not, on the CPU.

    Args:
        model: of :func:`latent_diffusion`, on the device to train on; changed in place.
        config: how to train.
        out, progress, processes: as of :class:`~sdgan_ext.training.trainer.Trainer`.

    Raises:
        ConfigError: the batch cannot be shared out, a weight is no float32, a tracker is not installed, or the
            configuration trains another null condition than the model has.
    """

    config_class = DiffusionTrainConfig
    model: LatentDiffusion
    _latents: Latents
    _ids: Tensor  # of the captions, by their numbers
    _null: Tensor
    _health: DiffusionHealth

    def __init__(
        self,
        model: LatentDiffusion,
        config: DiffusionTrainConfig | None = None,
        *,
        out: str | Path | None = "runs",
        progress: bool = True,
        processes: Processes | None = None,
    ):
        config = config or DiffusionTrainConfig()
        if (config.condition_dropout > 0) != model.config.null_condition:
            says = "an" if model.config.null_condition else "no"
            raise ConfigError(
                f"condition_dropout is {config.condition_dropout}, but the model was made with {says} empty caption to "
                "be trained: give latent_diffusion the configuration of the training too"
            )
        super().__init__(model, config, out=out, progress=progress, processes=processes)

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        *,
        model: LatentDiffusion | None = None,
        steps: int | None = None,
        device: torch.device | str | None = None,
        workers: int | None = None,
        cache: str | None = None,
        max_bad: int | None = None,
        tracker: Sequence[str] | None = None,
        latents: str | None = None,
        progress: bool = True,
        processes: Processes | None = None,
    ) -> DiffusionTrainer:
        """A trainer that goes on from the newest complete checkpoint of a run; as ``Trainer.resume``.

        Raises:
            CheckpointError: no run, no complete checkpoint, one of a newer version, or ``model`` is another one.
            ConfigError: more than ``steps`` steps have been taken.
        """
        changes = {"steps": steps, "workers": workers, "cache": cache, "max_bad": max_bad, "tracker": tracker}
        return cls._resume(folder, model, device, changes | {"latents": latents}, progress, processes)

    # ------------------------------------------------------------------------------------------- for the loop
    @classmethod
    def _model_of_run(cls, run: Run, path: Path, state: Mapping, given: LatentDiffusion | None) -> LatentDiffusion:
        if given is None:
            return latent_diffusion_of(state["config"]["model"], run.folder, state["model"], path)
        check_same_model(state["config"]["model"], given, path)
        return given

    def _make_optimizers(self) -> dict[str, AdamW]:
        config = self.config
        optimizers = {}
        for name, network in self.model.named_children():
            options = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
            optimizers[name] = AdamW(network.parameters(), fused=True, **options)
            optimizers[name].param_groups[0]["initial_lr"] = config.lr
        return optimizers

    def _make_selection(self, held_out: Dataset, monitor: Monitor) -> Selection:
        return _DiffusionSelection(self.config, held_out, self.run, monitor.say)

    def _describe_run(self) -> str:
        return "ldm"

    def _data_options(self) -> dict[str, Any]:
        return {"captions": self.config.captions}

    def _check_data(self, dataset: Dataset) -> None:
        captions = captions_of(dataset)
        known = self.model.config.class_captions
        if known is not None and (getattr(dataset, "num_classes", None) is None or tuple(captions) != known):
            raise DataError(
                f"{self.data['name']} has {len(captions):,} captions, as {next(iter(captions))!r}, which are not those "
                f"of the {len(known)} classes that the model was made for, as {known[0]!r}"
            )

    def _prepare(self, dataset: Dataset) -> None:
        next(batches(dataset, self.config.batch_size, seed=self.config.seed))  # what is wrong with them is said now
        texts = captions_of(dataset)
        labels = self.model.config.class_captions
        if labels is not None:
            self._shown = [labels[k % len(labels)] for k in range(_SAMPLES)]
        else:
            _, numbers = next(batches(dataset, min(_SAMPLES, len(dataset)), seed=self.config.seed))
            self._shown = [texts[number] for number in numbers.tolist() if number >= 0] or [texts[0]]

    def _save(self) -> None:
        folder = self.run.folder
        if folder is not None and not (folder / "tokenizer").is_dir():
            self.model.save_parts(folder)  # before the first checkpoint, which is of no use without them
        super()._save()

    def _stream(self, dataset: Dataset) -> Iterator[Tensor]:
        """Places in the latents, of the whole batch."""
        config, folder = self.config, self.run.folder
        file = None if folder is None else folder / _CACHE
        if config.latents is not None and self.first:
            file = user_path(config.latents)
        self._latents = latents_of(
            self.model,
            dataset,
            flip="flip" in (config.augment or ()),
            workers=config.workers,
            file=file,
            say=self._say,
            processes=self.processes,
        )
        self._ids = self.model.tokenizer.encode(list(captions_of(dataset)))
        self._null = self.model.null
        wanted = orders(len(self._latents.mean), config.batch_size, config.seed, self.run.step, True)
        return (places for _, places in wanted)

    def _say(self, line: str) -> None:
        if self.progress:
            print(line, flush=True)

    def _start(self, monitor: Monitor) -> Callable[[Tensor], Mapping[str, Tensor]]:
        self.model.train()
        self._health = DiffusionHealth(self.model, monitor.say)

        def take(places: Tensor) -> Mapping[str, Tensor]:
            return self._step(places, step=self.run.step, generator=self.generator)

        return take

    def _examine(self) -> dict[str, float]:
        return self._health.examine(self.run.step)

    def _show(self, monitor: Monitor) -> None:
        seeds = range(len(self._shown))
        grids = {"samples": 1.0}
        if self.model.config.null_condition and self.config.preview_guidance != 1:
            grids["guided"] = self.config.preview_guidance
        for name, guidance in grids.items():
            images = self.ema.module.sample(captions=self._shown, seeds=seeds, guidance=guidance)
            monitor.picture(name, image_grid(images, columns_of(len(images))))

    def _finish(self, monitor: Monitor) -> None:
        self.ema.module.save_pretrained(self.run.model)
        if reason := pipeline_obstacle(self.model):
            monitor.say(f"no pipeline for diffusers is written: {reason}")
        else:
            save_pipeline(self.ema.module, self.run.folder / "pipeline")

    # ------------------------------------------------------------------------------------------------- the step
    def _step(self, places: Tensor, *, step: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        config = self.config
        set_learning_rates(self.optimizers, config, step)
        drawn = _draw(len(places), self.model, config, generator)
        rows = range(len(places))[self.rows]
        parts = torch.tensor_split(torch.arange(rows.start, rows.stop), min(config.accumulate, len(rows)))
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in parts:
            loss = self._backward(places, drawn, slice(int(part[0]), int(part[-1]) + 1), len(rows))
            losses.append(loss)
        if self.processes is not None:
            with record_function("sdgan/average_gradients"):
                self.processes.average_gradients(network for _, network in self.model.named_children())
        with record_function("sdgan/optimizer"):
            for optimizer in self.optimizers.values():
                optimizer.step()
        with record_function("sdgan/average"):
            self.ema.update_parameters(self.model)
        return named_terms("denoiser", {"loss": torch.stack(losses).sum()})

    def _backward(self, places: Tensor, drawn: _Drawn, rows: slice, count: int) -> Tensor:
        """Adds the gradient of some rows of the batch, as a part of ``count``; returns their part of the loss."""
        at = places[rows]
        z = sample_posterior(self._latents.mean[at], self._latents.logvar[at], drawn.posterior[rows])
        x_0 = self.model.scaling.normalize(z).to(self.device, non_blocking=True)
        ids = self._ids[self._latents.numbers[at]].to(self.device, non_blocking=True)
        share = len(at) / count
        with precision(self.config, self.device), record_function("sdgan/denoiser"):
            loss = diffusion_loss(
                self.model,
                self.model.path,
                x_0,
                ids,
                draws=drawn.draws.of_rows(rows),
                null=self._null,
                min_snr_gamma=self.config.min_snr_gamma,
            )
            (loss.loss * share).backward()
        self._health.observe(loss, x_0)
        return loss.loss.detach() * share


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """All random numbers of a step, of the whole batch.

    Attributes:
        posterior: of z ~ q(z|x), [N, C, h, w].
        draws: of the loss.
    """

    posterior: Tensor
    draws: Draws


def _draw(n: int, model: LatentDiffusion, config: DiffusionTrainConfig, generator: torch.Generator) -> _Drawn:
    shape = (n, *model.config.latent_shape)
    posterior = torch.randn(shape, generator=generator)
    draws = draw(
        shape,
        distribution=config.time_distribution,  # type: ignore[arg-type]
        mean=config.time_mean,
        std=config.time_std,
        shift=model.config.shift,
        condition_dropout=config.condition_dropout,
        generator=generator,
    )
    return _Drawn(posterior, draws)


class _DiffusionSelection(Selection):
    """Judges by samples of the held-out captions; where classes are known, also by whether these are the asked ones."""

    def _judge(self, model: LatentDiffusion) -> dict[str, float]:
        pad, n = self._config.pad, self._images
        metrics = ["fd"]
        if "asked" not in refusals(model, self._held_out, n=n, pad=pad):
            metrics.append("asked")
        return evaluate(model, self._held_out, metrics=metrics, n=n, seed=0, pad=pad)
