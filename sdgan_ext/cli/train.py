"""``sdgan-ext train``: flags from the fields of the configurations, a run from the flags."""

from __future__ import annotations

import argparse
import os
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import build_info
from .._config import Config
from .._errors import ConfigError, shown
from ..data import resolve_name
from ..data.archives import expand_braces
from ..diffusion.model_config import LatentDiffusionConfig
from ..models import VAEGANConfig
from ..presets import DIFFUSION_PRESETS, OWN_SIZE, PRESETS, preset
from ..training.autoencoder import check_trained
from ..training.autoencoder_config import AutoencoderConfig
from ..training.config import TrainConfig
from ..training.denormals import flushed_denormals
from ..training.diffusers_files import config_of, read_autoencoder
from ..training.diffusion_config import DiffusionTrainConfig
from ..training.diffusion_trainer import DiffusionTrainer
from ..training.distributed import Processes
from ..training.runs import Run, make_model, open_run, train_config_kind
from ..training.trainer import Trainer
from ._common import SIGNAL_CODES, add_threads, say, set_threads
from ._config_file import read_config_file
from ._diffusion import flow_of, train_diffusion
from ._training import MODELS, TRAININGS, fields_of, fit, given, metavar, open_data, reader, strays

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_DATA = (
    "mnist, digits, auto (mnist, or digits where it cannot be had), digits-scenes, emoji, each with options as in "
    "emoji:size=64, a folder of IDX files, images or .tar shards, a Hugging Face dataset's folder, a .zip, .tar, IDX, "
    ".npz or .npy file"
)


_OWN, _DIFFUSERS, _DECODER, _FLOW = "mnist-small", "kl-f4-64", "decoder-finetune", "ldm-digits"  # unless one is given
_INITS = typing.get_args(typing.get_type_hints(VAEGANConfig)["init"])
#: Fields of the training's configuration that a resumed run may be given others of.
_FREE = ("steps", "cuda_graph", "checkpointing", "workers", "cache", "max_bad", "tracker", "perceptual_net", "latents")
_OF_FILES = "diffusers"  # the field of AutoencoderConfig that only a file can give


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "sdgan-ext train --data DATA | --resume RUN [flag ...]"
    parser.add_argument("--data", help=f"{_DATA}; beside --resume, where the run's data have moved to")
    parser.add_argument("--config", metavar="FILE", help="YAML that says what flags say; a flag beside it decides")
    parser.add_argument(
        "--preset",
        help=f"{', '.join((*PRESETS, *DIFFUSION_PRESETS))}; {_OWN} unless given, {_DIFFUSERS} with --init or a flag of "
        f"an autoencoder's, {_DECODER} with --train decoder, {_FLOW} with --autoencoder or a flag of a diffusion "
        "model's",
    )
    parser.add_argument(
        "--autoencoder",
        metavar="RUN",
        help="of a latent diffusion model: the run or the folder of the autoencoder; unless given, the preset's own is "
        "trained first",
    )
    parser.add_argument(
        "--init",
        metavar="FOLDER",
        default=argparse.SUPPRESS,
        help="begin with the weights of this AutoencoderKL: a folder of diffusers, a run, or a file of the original "
        f"layout; of other models {', '.join(_INITS)}: how random weights are drawn",
    )
    parser.add_argument("--out", help="the folder that holds run folders; runs unless given")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run, to --steps steps in all")
    parser.add_argument("--dry-run", action="store_true", help="check all, print what would be done, write nothing")
    parser.add_argument("--profile", action="store_true", help="write a trace of ten steps to RUN/profile, for Chrome")
    parser.add_argument("--flip", action="store_true", help="adds flip to --augment")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; cpu unless given")
    known = {"init", _OF_FILES}
    titles = ("training", "model", "autoencoder", "training of a diffusion model", "diffusion model")
    kinds = (TrainConfig, VAEGANConfig, AutoencoderConfig, DiffusionTrainConfig, LatentDiffusionConfig)
    for number, (title, config) in enumerate(zip(titles, kinds, strict=True)):
        words = "" if number < 2 else "; beside flags above that have the same meaning"
        group = parser.add_argument_group(title, f"what is not given is the preset's{words}")
        hints = typing.get_type_hints(config)
        for field in fields_of(config):
            if field.name in known:
                continue
            known.add(field.name)
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                dest=field.name,
                metavar=metavar(field, hints[field.name]),
                type=reader(hints[field.name]),
                default=argparse.SUPPRESS,
                help=field.metadata["help"].replace("%", "%%"),
            )
    add_threads(parser)


def run(arguments: argparse.Namespace) -> int:
    with flushed_denormals():
        read_config(arguments)
        if arguments.flip:
            arguments.augment = tuple(dict.fromkeys(("flip", *(getattr(arguments, "augment", None) or ()))))
        set_threads(arguments)
        return SIGNAL_CODES[train(arguments)]


def train(arguments: argparse.Namespace) -> str | None:
    """Trains as asked; the name of the signal that ended it early, or None."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        run = _train(arguments, _device(arguments.device))
        return None if run is None else run.stopped_by
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        if not os.environ.get(name, "0").isdecimal():
            raise ConfigError(f"{name} is {shown(os.environ[name])}; it must be a number, which torchrun sets")
    device = _device(arguments.device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    with Processes(device) as processes:
        run = _train(arguments, device, processes)
        return None if run is None else run.stopped_by


def _device(text: str | None, local_rank: int | None = None) -> torch.device:
    """What ``--device`` names; of several processes each has a GPU of its own."""
    try:
        device = torch.device(text or "cpu")
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device is {text}; it must be cpu, cuda or cuda:N")
    if device.type == "cpu":
        return torch.device("cpu")
    if not build_info()["cuda"]:
        raise ConfigError(f"--device is {text}, but sdgan_ext was built without CUDA: {build_info()['cuda_reason']}")
    if local_rank is not None:
        device = torch.device("cuda", local_rank)
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device is {text}, but torch sees {torch.cuda.device_count()} GPUs; --device cpu trains here"
        )
    torch.cuda.set_device(device)
    return device


def _train(arguments: argparse.Namespace, device: torch.device, processes: Processes | None = None) -> Run | None:
    if arguments.resume is not None:
        return _resume(arguments, device, processes)
    if arguments.data is None:
        raise ConfigError(f"--data is missing: {_DATA}")
    if processes is not None and (noted := processes.noted_run(arguments.out or "runs")) is not None:
        trainer = _trainer_of(noted).resume(noted, device=device, processes=processes)
        assert trainer.run is not None
        if trainer.first:
            say(f"start {processes.start} by torchrun: {noted} goes on from step {trainer.run.step}")
        return fit(trainer, trainer.data["source"], trainer.data["source"], arguments)
    name = arguments.preset or _preset_of_flags(arguments)
    if name in DIFFUSION_PRESETS:
        return train_diffusion(arguments, name, device, processes, _train_images)
    if arguments.autoencoder is not None:
        raise ConfigError(
            f"--autoencoder does not go with preset {name!r}; it is of {' and '.join(DIFFUSION_PRESETS)}, and --init "
            "begins with the weights of an autoencoder"
        )
    return _train_images(arguments, name, device, processes)


def _train_images(
    arguments: argparse.Namespace,
    name: str,
    device: torch.device,
    processes: Processes | None,
    then: dict[str, Any] | None = None,
) -> Run | None:
    """Trains a preset that is no diffusion model's.

    Args:
        then: what :func:`~sdgan_ext.cli._diffusion.flow_of` goes on with, which is noted with the run.
    """
    model_config, config = preset(name)
    config = config.replace(**given(arguments, TrainConfig))
    flags = given(arguments, type(model_config))
    wanted, vae = _wanted(arguments, name, model_config, flags)
    cropped = "image_size" in flags or config.resize is not None or config.crop != "centre"
    source, dataset = open_data(
        arguments.data,
        image_size=wanted.image_size if cropped else None,
        channels=wanted.channels if "channels" in flags or vae is not None else None,
        seed=config.seed,
        background=config.background,
        need_labels=bool(wanted.classes),
        resize=config.resize,
        crop=config.crop,
        cache=config.cache,
        max_bad=config.max_bad,
        pad=config.pad,
    )
    size, own = dataset.image_size, model_config.size
    if name in OWN_SIZE and vae is None and size != own and "image_size" not in flags:
        raise ConfigError(
            f"preset {name!r} is for images of {_size(own)}, {source} has {_size(size)}; add "
            f"--image-size {own[0]} to resize them, or --image-size {_size(size)} to change the model"
        )
    model_config = wanted.replace(image_size=size, channels=dataset.channels).for_mode(config.mode)
    torch.manual_seed(config.seed)
    model: Any = make_model(model_config, vae)
    trainer = Trainer(model.to(device), config, out=arguments.out or "runs", processes=processes)
    trainer.then = then or {}
    return fit(trainer, dataset, source, arguments)


def _preset_of_flags(arguments: argparse.Namespace) -> str:
    """The preset that is taken where none is named: by the kind of model that the flags are of."""

    def strange_to(kind: type[Config]) -> bool:
        return bool(strays(arguments, kind, MODELS))

    if arguments.autoencoder is not None:
        return _FLOW
    if getattr(arguments, "init", _INITS[0]) in _INITS and not strange_to(VAEGANConfig):
        return _OWN
    if not strange_to(AutoencoderConfig):
        return _DECODER if getattr(arguments, "train", None) == "decoder" else _DIFFUSERS
    return _OWN if strange_to(LatentDiffusionConfig) else _FLOW


def _wanted(
    arguments: argparse.Namespace, name: str, model: VAEGANConfig | AutoencoderConfig, flags: dict[str, Any]
) -> tuple[VAEGANConfig | AutoencoderConfig, AutoencoderKL | None]:
    """The model that flags make of a preset's, and with ``--init`` the autoencoder that it is to begin with."""
    init = getattr(arguments, "init", None)
    for flag in strays(arguments, type(model), MODELS):
        raise ConfigError(f"{flag} does not go with preset {name!r}, whose networks lack it")
    for flag in strays(arguments, TrainConfig, TRAININGS):
        raise ConfigError(f"{flag} does not go with preset {name!r}, which is no diffusion model's")
    if not isinstance(model, AutoencoderConfig):
        if init is not None and init not in _INITS:
            raise ConfigError(
                f"--init is {shown(init)}; preset {name!r} takes {', '.join(_INITS)}, and preset {_DIFFUSERS!r} the "
                "folder of an AutoencoderKL"
            )
        return model.replace(**flags), None
    if init is None:
        wanted = model.replace(**flags)
        check_trained(wanted)
        return wanted, None
    vae, source = read_autoencoder(init)
    return AutoencoderConfig.of_diffusers(config_of(vae), source, **{"train": model.train, **flags}), vae


def read_config(arguments: argparse.Namespace) -> None:
    """Sets in ``arguments`` what the file of ``--config`` gives, where no flag gives it."""
    if arguments.config is None or arguments.resume is not None:
        return
    options = {"data": str, "preset": str, "autoencoder": str, "out": str, "threads": int, "device": str}
    for name, value in read_config_file(
        arguments.config, {"train": TRAININGS, "model": MODELS}, options, reader
    ).items():
        flag = name in arguments and (name not in options or getattr(arguments, name) is not None)
        if not flag:
            setattr(arguments, name, value)


def _trainer_of(folder: str | Path) -> type[Trainer] | type[DiffusionTrainer]:
    """What goes on with a run."""
    kind = train_config_kind(open_run(folder).read_config()["model"])
    return DiffusionTrainer if kind is DiffusionTrainConfig else Trainer


def _resume(arguments: argparse.Namespace, device: torch.device, processes: Processes | None) -> Run | None:
    for flag in ("config", "preset", "autoencoder", "out"):
        if getattr(arguments, flag) is not None:
            raise ConfigError(f"--{flag} cannot be given with --resume: the run has its own")
    maker = _trainer_of(arguments.resume)
    training = DiffusionTrainConfig if maker is DiffusionTrainer else TrainConfig
    if foreign := strays(arguments, training, TRAININGS):
        raise ConfigError(f"{foreign[0]} does not go with the run, which is trained in another way")
    flags = given(arguments, training)
    free = {name: flags.pop(name) for name in _FREE if name in flags}
    trainer: Any = maker.resume(arguments.resume, device=device, processes=processes, **free)
    kind = type(trainer.model.config)
    if foreign := strays(arguments, kind, MODELS):
        raise ConfigError(f"{foreign[0]} does not go with the run, whose networks lack it")
    for saved, changes in ((trainer.config, flags), (trainer.model.config, given(arguments, kind))):
        for name, value in changes.items():
            was = getattr(saved, name)
            if getattr(saved.replace(**{name: value}), name) != was:
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag} is {value}, but the run has {was}: leave it out, or start a new run")
    source = trainer.data["source"] if arguments.data is None else arguments.data
    if source is None:
        raise ConfigError(
            f"the run {arguments.resume} was started on a dataset of a Python program; "
            "resume it there: Trainer.resume(run).fit(dataset)"
        )
    files = expand_braces(Path(source))
    if arguments.data is None and resolve_name(source) is None and not any(file.exists() for file in files):
        raise ConfigError(f"the data of the run {arguments.resume}, {source}, are gone; --data says where they are now")
    run = fit(trainer, source, source, arguments)
    if run is None or run.stopped_by is not None or not trainer.then or processes is not None:
        return run
    following = flow_of(run, trainer.then, source, arguments)
    return _train(following, device, processes)


def _size(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
