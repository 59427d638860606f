"""Run folders: ``runs/00000-vaegan-mnist``, numbered, each made by one process and never overwritten.

::

    00000-vaegan-mnist/
        config.yaml               what was asked for, resolved, with the data and the versions
        log.jsonl                 one JSON object per log interval
        events.out.tfevents.*     the same for TensorBoard; wandb/, wandb.id, mlflow.id: of the other trackers
        data-index.npz            of images that are read lazily: where they lie, what their headers say
        console.log               what could not be printed, if anything
        samples/*.png, *.gif      grids on the way
        checkpoints/step-*.pt     what a resumed run goes on from
        model/                    what VAEGAN.from_pretrained reads (Networks.load_weights, of a user's own networks;
                                  AutoencoderKL.from_pretrained of diffusers): the averaged (EMA) weights
        profile/*.pt.trace.json   of fit(..., profile=True): ten steps, for Chrome or TensorBoard
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

from sdgan_ext._errors import CheckpointError, ConfigError, sentence
from sdgan_ext._files import NOFOLLOW, open_regular, replacing, user_path, write_errors_named
from sdgan_ext._yaml import read_yaml, to_yaml
from sdgan_ext.data import resolve_name
from sdgan_ext.data.index import INDEX_NAME
from sdgan_ext.data.sources import data_path
from sdgan_ext.diffusion.model import LatentDiffusion
from sdgan_ext.diffusion.model_config import LatentDiffusionConfig
from sdgan_ext.diffusion.tokenizer import CaptionTokenizer
from sdgan_ext.models import VAEGAN, VAEGANConfig, vae_gan
from sdgan_ext.models.folder import read_config, read_weights
from sdgan_ext.models.weights import check_weights, load_into
from sdgan_ext.training import autoencoder
from sdgan_ext.training.autoencoder import Autoencoder
from sdgan_ext.training.autoencoder_config import AutoencoderConfig
from sdgan_ext.training.config import LoopConfig, TrainConfig
from sdgan_ext.training.diffusers_files import is_diffusers_folder, is_single_file
from sdgan_ext.training.diffusion_config import DiffusionTrainConfig
from sdgan_ext.training.saved_state import check_state
from sdgan_ext.training.state import load_newest

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing guards a run from a second process there
    fcntl = None

ModelConfig = VAEGANConfig | AutoencoderConfig | LatentDiffusionConfig

__all__ = ["Run", "check_enough", "create_run", "load_model", "make_model", "open_run", "is_of_networks"]
__all__ += ["ModelConfig", "latent_diffusion_of", "load_autoencoder", "train_config_kind"]
__all__ += ["config_kind", "model_config", "read_configs", "resolve_source", "to_yaml"]

_NUMBER = re.compile(r"(\d{5,})-")
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # as replacing() calls what it has not finished
_locks: set[BinaryIO] = set()  # held by this process; a lock is that of an open file, which a fork would share


def _let_go() -> None:
    for file in _locks:
        file.close()
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@dataclass
class Run:
    """A training run, on the disk or (``folder`` None) in memory alone.

    Attributes:
        folder: the run folder.
        step: steps taken.
        seconds: time they took, without that for pictures and checkpoints.
        metrics: the last log interval: ``step``, ``images``, ``seconds``, ``s_per_kimg`` and every loss.
        stopped_by: the signal that ended it early, "SIGINT", "SIGTERM" or "SIGHUP", or None.
        best: of ``config.evaluate_every``: ``metric``, ``value``, ``step`` and evaluations ``since``; its model is in
            the folder "best".
    """

    folder: Path | None = None
    step: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    stopped_by: str | None = None
    best: dict = field(default_factory=dict)

    @property
    def config_file(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def log_file(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def data_index(self) -> Path:
        return self.folder / INDEX_NAME

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def write_config(self, config: dict) -> None:
        with replacing(self.config_file) as file:
            file.write(to_yaml(config).encode())

    def read_config(self) -> dict:
        try:
            config = read_yaml(self.config_file)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(f"cannot read {self.config_file}: {reason}") from error
        parts = [config.get(name) for name in ("model", "train", "data")] if isinstance(config, dict) else [None]
        if not all(isinstance(part, dict) for part in parts):
            raise CheckpointError(f"{self.config_file} is not of a run: it must hold model, train and data")
        return config

    def sweep(self) -> None:
        """Removes the half-written files of a process that was killed, also where a folder of the run is a link."""
        for folder in (self.folder, self.samples, self.checkpoints, self.model, self.folder / "best"):
            for leftover in folder.glob(".*.tmp"):
                if _TEMPORARY.fullmatch(leftover.name) and (leftover.is_symlink() or leftover.is_file()):
                    with write_errors_named(leftover):
                        leftover.unlink(missing_ok=True)

    def is_being_trained(self) -> bool:
        """Whether a process trains it now; False where the file system does not say."""
        if fcntl is None:
            return False
        try:
            with open_regular(self.folder / ".lock", NOFOLLOW) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time trains a run; the lock falls with the process, however it ends, and not with the last
        of the data workers that were forked off it.

        Raises:
            CheckpointError: another process holds it, or the lock's file cannot be opened or is a link.
        """
        if fcntl is None or self.folder is None:
            yield
            return
        path = self.folder / ".lock"
        with write_errors_named(path):
            opened = open_regular(path, os.O_RDWR | os.O_CREAT | NOFOLLOW)
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CheckpointError(f"the run {self.folder} is being trained by another process") from None
            except OSError as error:
                reason = error.strerror or error
                said = f"{path} cannot be locked ({reason}): nothing keeps another process from training this run too"
                warnings.warn(sentence(said), stacklevel=3)
            _locks.add(file)
            try:
                yield
            finally:
                _locks.discard(file)


def create_run(out: str | Path, name: str) -> Run:
    """Makes ``out/NNNNN-name`` under the next free number.

    Raises:
        CheckpointError: ``out`` cannot be written to.
    """
    out = user_path(out)
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    try:
        out.mkdir(parents=True, exist_ok=True)
        while True:
            taken = [int(match[1]) for path in out.iterdir() if (match := _NUMBER.match(path.name))]
            folder = out / f"{max(taken, default=-1) + 1:05d}-{name}"
            try:
                folder.mkdir()  # fails if another process was faster
            except FileExistsError:
                continue
            run = Run(folder)
            run.samples.mkdir()
            run.checkpoints.mkdir()
            return run
    except OSError as error:
        raise CheckpointError(f"cannot make a run folder in {out}: {error.strerror or error}") from error


def is_run(path: str | Path) -> bool:
    return (Path(path) / "config.yaml").is_file() and (Path(path) / "checkpoints").is_dir()


def open_run(path: str | Path) -> Run:
    """The run in the folder ``path``.

    Raises:
        CheckpointError: the path is missing or holds no run.
    """
    path = user_path(path)
    if not path.exists():
        raise CheckpointError(f"there is no run {path}")
    if not is_run(path):
        inside = [folder for folder in path.iterdir() if is_run(folder)] if path.is_dir() else []
        hint = f", did you mean {sorted(inside)[-1]}?" if inside else ""
        raise CheckpointError(f"{path} is no run folder, one holds config.yaml and checkpoints{hint}")
    return Run(path)


def read_configs(config: Mapping, path: Path) -> tuple[ModelConfig, LoopConfig]:
    """The configurations of model and training in what was read from ``path``.

    Raises:
        CheckpointError: they cannot be used, or the run is of a user's own networks.
    """
    if is_of_networks(config):
        raise CheckpointError(
            f"{path} is of your own networks, which only your program can make: Trainer.resume(run, model=...) trains "
            "them on, and load_weights(run / 'model') of Networks loads the averaged weights"
        )
    try:
        return model_config(config["model"]), train_config_kind(config["model"]).from_dict(config["train"])
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


def model_config(values: Mapping) -> ModelConfig:
    """Of a saved ``model`` entry, by the kind that it names.

    Raises:
        ConfigError: it is none of these, or of a newer version.
    """
    return config_kind(values).from_dict(values)


def config_kind(values: Mapping) -> type[ModelConfig]:
    """The class of a saved ``model`` entry's configuration."""
    kinds = {"AutoencoderKL": AutoencoderConfig, "LatentDiffusion": LatentDiffusionConfig}
    name = values.get("model")
    return kinds.get(name, VAEGANConfig) if isinstance(name, str) else VAEGANConfig


def train_config_kind(values: Mapping) -> type[LoopConfig]:
    """The class of the training's configuration, by a saved ``model`` entry."""
    return DiffusionTrainConfig if config_kind(values) is LatentDiffusionConfig else TrainConfig


def is_of_networks(config: Mapping) -> bool:
    """Whether a run's configuration is that of :class:`~sdgan_ext.training.networks.Networks`."""
    model = config.get("model")
    return isinstance(model, Mapping) and model.get("model") == "Networks"


def make_model(config: VAEGANConfig | AutoencoderConfig, vae: AutoencoderKL | None = None) -> VAEGAN | Autoencoder:
    """The model of a configuration, with random weights, or those of ``vae``."""
    return Autoencoder(config, vae) if isinstance(config, AutoencoderConfig) else VAEGAN(config)


def check_enough(config: VAEGANConfig | AutoencoderConfig, weights: Mapping[str, Tensor], path: Path) -> None:
    """That the ``weights`` of a file are enough for a model of ``config``, before any memory is taken for it.

    Raises:
        CheckpointError: they are not; the first one that is missing or smaller is named.
    """
    module = autoencoder if isinstance(config, AutoencoderConfig) else vae_gan
    module.check_enough(config, weights, path)


def latent_diffusion_of(values: Mapping, folder: Path, weights: Mapping[str, Tensor], path: Path) -> LatentDiffusion:
    """The model of a saved ``model`` entry with these weights, in evaluation mode.

    Args:
        folder: that holds its autoencoder and its tokenizer, in subfolders.
        path: the file of the weights.

    Raises:
        CheckpointError: one of these is missing, damaged, or of another model.
    """
    try:
        config = LatentDiffusionConfig.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    for part in ("autoencoder", "tokenizer"):
        if not (folder / part).is_dir():
            raise CheckpointError(f"{folder} lacks the folder {part}, without which the model cannot be used")
    beside = load_model(folder / "autoencoder"), CaptionTokenizer.load(folder / "tokenizer")
    try:
        with torch.device("meta"):  # before any memory is taken for it
            check_weights(LatentDiffusion(config.replace(accelerate=False), *beside), weights, path)
        model = LatentDiffusion(config, *beside)
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    load_into(model, weights, path)
    return model.eval()


def load_autoencoder(path: str | Path) -> VAEGAN | Autoencoder:
    """The autoencoder of a run, in a folder, or in that of a pipeline (``vae``).

    Raises:
        CheckpointError: the path is none of these, or what it holds is damaged.
        ConfigError: it is a diffusion model's.
    """
    model = load_model(path)
    if isinstance(model, LatentDiffusion):
        raise ConfigError(f"{path} is of a latent diffusion model; its autoencoder is in {Path(path) / 'autoencoder'}")
    return model


def load_model(
    path: str | Path, *, image_size: int | None = None, original_config: str | Path | None = None
) -> VAEGAN | Autoencoder | LatentDiffusion:
    """The averaged (EMA) model of a run's newest complete checkpoint, or the one in a ``save_pretrained`` folder.

    Args:
        path: a run, a model folder, or of an AutoencoderKL what :func:`sdgan_ext.autoencoder` takes.
        image_size: the side of the images, of an AutoencoderKL, whose layers take any that its factor divides; the
            model's own unless given.
        original_config: as of :func:`sdgan_ext.autoencoder`, of a single file.

    Raises:
        CheckpointError: the path is none of these, or what it holds is damaged.
        ConfigError: another ``image_size`` than the model can have.
    """
    path = user_path(path)
    resized = {} if image_size is None else {"image_size": image_size}
    if is_foreign(path):
        own = {"discriminator_channels": None, "learned_variance": False, "original_config": original_config}
        return autoencoder.autoencoder(path, **own, **resized).eval()
    if (path / "config.json").is_file():
        values = read_config(path)[0]
        if values.get("model") == "LatentDiffusion":
            model = latent_diffusion_of(values, path, *read_weights(path))
        else:
            model = VAEGAN.from_pretrained(path)
        _check_size(model.traits.image_shape[1:], image_size, path)
        return model
    run = open_run(path)
    checkpoint, state = load_newest(run.checkpoints, warnings.warn, check_state)
    config, _ = read_configs(state["config"], checkpoint)
    weights = {name.removeprefix("module."): value for name, value in state["ema"].items() if name != "n_averaged"}
    if isinstance(config, LatentDiffusionConfig):
        model = latent_diffusion_of(state["config"]["model"], run.folder, weights, checkpoint)
        _check_size(model.traits.image_shape[1:], image_size, path)
        return model
    check_enough(config, weights, checkpoint)
    if isinstance(config, AutoencoderConfig):
        config = config.replace(**resized)
    else:
        _check_size(config.size, image_size, path)
    model = make_model(config)
    load_into(model, weights, checkpoint)
    return model.eval()


def is_foreign(path: Path) -> bool:
    """Whether diffusers reads the model at ``path``: a single file, a folder of one of its models, or a pipeline's."""
    if (path / "config.json").is_file():
        return is_diffusers_folder(read_config(path)[0])
    return is_single_file(path) or (path / "vae" / "config.json").is_file()


def _check_size(own: tuple[int, int], image_size: int | None, path: Path) -> None:
    height, width = own
    if image_size is not None and (height, width) != (image_size, image_size):
        raise ConfigError(
            f"image_size is {image_size}, but {path} takes images of {height}x{width} alone; only an AutoencoderKL "
            "takes others"
        )


def resolve_source(source: str | Path) -> str:
    """What names data, such that it does so from another working folder too."""
    return resolve_name(source) or str(data_path(source).resolve())
