"""``sdgan-ext train``: flags from the fields of the configurations, a run from the flags."""

from __future__ import annotations

import argparse
import dataclasses
import os
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import build_info
from .._config import Config
from .._errors import ConfigError, DataError, shown
from ..data import Opened, open_dataset, resolve_name
from ..data.archives import expand_braces
from ..models import VAEGANConfig
from ..presets import OWN_SIZE, PRESETS, preset
from ..training.autoencoder import check_trained
from ..training.autoencoder_config import AutoencoderConfig
from ..training.config import TrainConfig
from ..training.denormals import flushed_denormals
from ..training.diffusers_files import config_of, read_autoencoder
from ..training.distributed import Processes
from ..training.runs import make_model
from ..training.trainer import Trainer
from ._common import SIGNAL_CODES, add_threads, say, set_threads
from ._config_file import read_config_file

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_DATA = (
    "mnist, digits, auto (mnist, or digits where it cannot be had), digits-scenes, emoji, each with options as in "
    "emoji:size=64, a folder of IDX files, images or .tar shards, a Hugging Face dataset's folder, a .zip, .tar, IDX, "
    ".npz or .npy file"
)


_OWN, _DIFFUSERS, _DECODER = "mnist-small", "kl-f4-64", "decoder-finetune"  # taken unless one is given
_MODELS = (VAEGANConfig, AutoencoderConfig)
_INITS = typing.get_args(typing.get_type_hints(VAEGANConfig)["init"])
#: Fields of TrainConfig that a resumed run may be given others of.
_FREE = ("steps", "cuda_graph", "checkpointing", "workers", "cache", "max_bad", "tracker", "perceptual_net")
_OF_FILES = "diffusers"  # the field of AutoencoderConfig that only a file can give


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "sdgan-ext train --data DATA | --resume RUN [flag ...]"
    parser.add_argument("--data", help=f"{_DATA}; beside --resume, where the run's data have moved to")
    parser.add_argument("--config", metavar="FILE", help="YAML that says what flags say; a flag beside it decides")
    parser.add_argument(
        "--preset",
        help=f"{', '.join(PRESETS)}; {_OWN} unless given, or {_DIFFUSERS} with --init or a flag of an autoencoder's, "
        f"or {_DECODER} with --train decoder",
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
    for title, config in (("training", TrainConfig), ("model", VAEGANConfig), ("autoencoder", AutoencoderConfig)):
        words = "" if config is not AutoencoderConfig else "; beside flags of the model that have the same meaning"
        group = parser.add_argument_group(title, f"what is not given is the preset's{words}")
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            if field.name in known:
                continue
            known.add(field.name)
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                dest=field.name,
                metavar=_metavar(field, hints[field.name]),
                type=_reader(hints[field.name]),
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


def _metavar(field: dataclasses.Field[Any], hint: Any) -> str:
    if field.metadata["choices"]:
        return "|".join(map(str, field.metadata["choices"]))
    if hint is bool:
        return "true|false"
    kinds = typing.get_args(hint) or (hint,)
    if any(typing.get_origin(kind) is tuple for kind in (hint, *kinds)):
        return "HxW" if int in kinds and typing.get_origin(hint) is not tuple else "N,N,..."
    return "N" if int in kinds else "X"


def _reader(hint: Any) -> Callable[[str], Any]:
    """Text to a value of the hinted kind; the configuration checks the value and says what is allowed."""
    if hint is bool:
        return lambda text: {"true": True, "false": False}.get(text.lower(), text)
    if typing.get_origin(hint) is typing.Literal:
        return str
    options = (hint,) if typing.get_origin(hint) is tuple else typing.get_args(hint) or (hint,)
    alone = any(kind in options for kind in (int, float, str))

    def read(text: str) -> Any:
        if text.lower() == "none" and type(None) in options:
            return None
        if str in options:
            return text
        parts = [_number(part) for part in text.replace("x", ",").split(",") if part]
        return parts[0] if alone and len(parts) == 1 else tuple(parts) or text

    return read


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def train(arguments: argparse.Namespace) -> str | None:
    """Trains as asked; the name of the signal that ended it early, or None."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return _train(arguments, _device(arguments.device))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        if not os.environ.get(name, "0").isdecimal():
            raise ConfigError(f"{name} is {shown(os.environ[name])}; it must be a number, which torchrun sets")
    device = _device(arguments.device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    with Processes(device) as processes:
        return _train(arguments, device, processes)


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


def _train(arguments: argparse.Namespace, device: torch.device, processes: Processes | None = None) -> str | None:
    if arguments.resume is not None:
        return _resume(arguments, device, processes)
    if arguments.data is None:
        raise ConfigError(f"--data is missing: {_DATA}")
    if processes is not None and (noted := processes.noted_run(arguments.out or "runs")) is not None:
        trainer = Trainer.resume(noted, device=device, processes=processes)
        assert trainer.run is not None
        if trainer.first:
            say(f"start {processes.start} by torchrun: {noted} goes on from step {trainer.run.step}")
        return _fit(trainer, trainer.data["source"], trainer.data["source"], arguments)
    name = arguments.preset or _preset_of_flags(arguments)
    model_config, config = preset(name)
    config = config.replace(**_given(arguments, TrainConfig))
    given = _given(arguments, type(model_config))
    wanted, vae = _wanted(arguments, name, model_config, given)
    cropped = "image_size" in given or config.resize is not None or config.crop != "centre"
    source, dataset = _open_data(
        arguments.data,
        image_size=wanted.image_size if cropped else None,
        channels=wanted.channels if "channels" in given or vae is not None else None,
        seed=config.seed,
        background=config.background,
        need_labels=bool(wanted.classes),
        resize=config.resize,
        crop=config.crop,
        cache=config.cache,
        max_bad=config.max_bad,
    )
    size, own = dataset.image_size, model_config.size
    if name in OWN_SIZE and vae is None and size != own and "image_size" not in given:
        raise ConfigError(
            f"preset {name!r} is for images of {_size(own)}, {source} has {_size(size)}; add "
            f"--image-size {own[0]} to resize them, or --image-size {_size(size)} to change the model"
        )
    model_config = wanted.replace(image_size=size, channels=dataset.channels).for_mode(config.mode)
    torch.manual_seed(config.seed)
    model: Any = make_model(model_config, vae)
    trainer = Trainer(model.to(device), config, out=arguments.out or "runs", processes=processes)
    return _fit(trainer, dataset, source, arguments)


def _preset_of_flags(arguments: argparse.Namespace) -> str:
    """The preset that is taken where none is named: by the kind of model that the flags are of."""
    of_diffusers = getattr(arguments, "init", _INITS[0]) not in _INITS or _strays(arguments, VAEGANConfig)
    if not of_diffusers or _strays(arguments, AutoencoderConfig):
        return _OWN
    return _DECODER if getattr(arguments, "train", None) == "decoder" else _DIFFUSERS


def _wanted(
    arguments: argparse.Namespace, name: str, model: VAEGANConfig | AutoencoderConfig, given: dict[str, Any]
) -> tuple[VAEGANConfig | AutoencoderConfig, AutoencoderKL | None]:
    """The model that flags make of a preset's, and with ``--init`` the autoencoder that it is to begin with."""
    init = getattr(arguments, "init", None)
    for flag in _strays(arguments, type(model)):
        raise ConfigError(f"--{flag.replace('_', '-')} does not go with preset {name!r}, whose networks lack it")
    if not isinstance(model, AutoencoderConfig):
        if init is not None and init not in _INITS:
            raise ConfigError(
                f"--init is {shown(init)}; preset {name!r} takes {', '.join(_INITS)}, and preset {_DIFFUSERS!r} the "
                "folder of an AutoencoderKL"
            )
        return model.replace(**given), None
    if init is None:
        wanted = model.replace(**given)
        check_trained(wanted)
        return wanted, None
    vae, source = read_autoencoder(init)
    return AutoencoderConfig.of_diffusers(config_of(vae), source, **{"train": model.train, **given}), vae


def _strays(arguments: argparse.Namespace, kind: type[Config]) -> list[str]:
    """Fields of a model of another kind that were given."""
    return [name for other in _MODELS for name in _given(arguments, other) if name not in _given(arguments, kind)]


def read_config(arguments: argparse.Namespace) -> None:
    """Sets in ``arguments`` what the file of ``--config`` gives, where no flag gives it."""
    if arguments.config is None or arguments.resume is not None:
        return
    options = {"data": str, "preset": str, "out": str, "threads": int, "device": str}
    sections = {"train": (TrainConfig,), "model": _MODELS}
    for name, value in read_config_file(arguments.config, sections, options, _reader).items():
        flag = name in arguments and (name not in options or getattr(arguments, name) is not None)
        if not flag:
            setattr(arguments, name, value)


def _open_data(source: str, **options: Any) -> tuple[str, Opened]:
    if source == "auto":
        try:
            return "mnist", open_dataset("mnist", **options)
        except DataError as error:
            say(f"MNIST cannot be had ({error}); rendered digits take its place")
            source = "digits"
    return source, open_dataset(source, **options)


def _resume(arguments: argparse.Namespace, device: torch.device, processes: Processes | None) -> str | None:
    for flag in ("config", "preset", "out"):
        if getattr(arguments, flag) is not None:
            raise ConfigError(f"--{flag} cannot be given with --resume: the run has its own")
    given = _given(arguments, TrainConfig)
    free = {name: given.pop(name, None) for name in _FREE}
    trainer = Trainer.resume(arguments.resume, device=device, processes=processes, **free)
    kind = type(trainer.model.config)
    if strays := _strays(arguments, kind):
        raise ConfigError(f"--{strays[0].replace('_', '-')} does not go with the run, whose networks lack it")
    for saved, changes in ((trainer.config, given), (trainer.model.config, _given(arguments, kind))):
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
    return _fit(trainer, source, source, arguments)


def _fit(
    trainer: Trainer,
    dataset: Opened | str,
    source: str,
    arguments: argparse.Namespace,
) -> str | None:
    if arguments.dry_run:
        print(trainer.describe(dataset, source=source), end="")
        return None
    run = trainer.fit(dataset, source=source, profile=arguments.profile)
    if trainer.first:
        say(
            f"{run.step:,} steps taken. Pictures: {run.samples}. The model, its averaged (EMA) weights: {run.model}. "
            f"Go on: sdgan-ext train --resume {run.folder} --steps N"
        )
    return run.stopped_by


def _given(arguments: argparse.Namespace, config: type[Config]) -> dict[str, Any]:
    """The fields of ``config`` that flags were given for."""
    names = [field.name for field in dataclasses.fields(config)]
    return {name: getattr(arguments, name) for name in names if name in arguments}


def _size(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
