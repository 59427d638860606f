"""``sdgan-ext train`` of a latent diffusion model: on an autoencoder that is there, or on one that is trained first."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .._errors import ConfigError, SdganError
from .._files import user_path
from ..diffusion.model_config import LatentDiffusionConfig
from ..presets import DIFFUSION_PRESETS
from ..training.config import LoopConfig
from ..training.diffusion_config import DiffusionTrainConfig
from ..training.diffusion_trainer import DiffusionTrainer, latent_diffusion
from ..training.distributed import Processes
from ..training.runs import Run, is_run, load_autoencoder, open_run, train_config_kind
from ..training.state import list_checkpoints
from ._common import say
from ._training import MODELS, TRAININGS, fit, given, open_data, strays

__all__ = ["flow_of", "train_diffusion"]

#: Flags that the autoencoder, which is trained first, is given too.
_SHARED = ("seed", "background", "augment", "resize", "pad", "workers", "cache", "max_bad", "tracker", "precision")
#: How images are read: as for the autoencoder, unless flags say otherwise.
_READING = ("background", "resize", "pad")

_TrainImages = Callable[..., "Run | None"]


def train_diffusion(
    arguments: argparse.Namespace,
    name: str,
    device: torch.device,
    processes: Processes | None,
    train_images: _TrainImages,
) -> Run | None:
    """Trains the preset ``name``; without ``--autoencoder`` that one first, in a run of its own."""
    for flag in strays(arguments, LatentDiffusionConfig, MODELS):
        raise ConfigError(
            f"{flag} does not go with preset {name!r}, whose networks lack it; an autoencoder of your own is given by "
            "--autoencoder"
        )
    for flag in strays(arguments, DiffusionTrainConfig, TRAININGS):
        raise ConfigError(f"{flag} does not go with preset {name!r}, which is a diffusion model's")
    if hasattr(arguments, "init"):
        raise ConfigError(f"--init does not go with preset {name!r}; its autoencoder is given by --autoencoder")
    chosen = DIFFUSION_PRESETS[name]
    given_config = given(arguments, DiffusionTrainConfig)
    chosen.train.replace(**given_config)  # what is wrong with these is said before an autoencoder is trained
    chosen.model.replace(**given(arguments, LatentDiffusionConfig))
    if arguments.autoencoder is None:
        if processes is not None:
            raise ConfigError(
                f"preset {name!r} trains its autoencoder first, which torchrun does not do in one go: train preset "
                f"{chosen.autoencoder!r}, and give its run by --autoencoder"
            )
        return _both(arguments, name, device, train_images)
    config = chosen.train.replace(**{**_reading_of(arguments.autoencoder), **given_config})
    autoencoder = load_autoencoder(arguments.autoencoder)
    channels, *size = autoencoder.traits.image_shape
    source, dataset = open_data(
        arguments.data,
        image_size=size,
        channels=channels,
        seed=config.seed,
        background=config.background,
        resize=config.resize,
        crop=config.crop,
        cache=config.cache,
        max_bad=config.max_bad,
        pad=config.pad,
        captions=config.captions,
    )
    torch.manual_seed(config.seed)
    model = latent_diffusion(
        chosen.model.replace(**given(arguments, LatentDiffusionConfig)),
        autoencoder,
        dataset,
        config,
        source=str(user_path(arguments.autoencoder).resolve()),
    )
    trainer = DiffusionTrainer(model.to(device), config, out=arguments.out or "runs", processes=processes)
    return fit(trainer, dataset, source, arguments)


def _both(arguments: argparse.Namespace, name: str, device: torch.device, train_images: _TrainImages) -> Run | None:
    chosen = DIFFUSION_PRESETS[name]
    first = argparse.Namespace(**vars(arguments))
    fields = {field for kind in (*MODELS, *TRAININGS) for field in given(arguments, kind)}
    for field in fields - set(_SHARED):
        delattr(first, field)
    flags = {**given(arguments, DiffusionTrainConfig), **given(arguments, LatentDiffusionConfig)}
    plain = {field: list(value) if isinstance(value, tuple) else value for field, value in flags.items()}
    then = {"preset": name, **plain}
    say(f"first the autoencoder, preset {chosen.autoencoder}; then {name} on its latents")
    run = train_images(first, chosen.autoencoder, device, None, then)
    if run is None or run.stopped_by is not None:
        return run
    return train_diffusion(flow_of(run, then, arguments.data, arguments), name, device, None, train_images)


def flow_of(run: Run, then: Mapping[str, Any], source: str, arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments of the training on the latents of ``run``: a new one, or the one that was begun before.

    Args:
        run: of the autoencoder, which has come to its end.
        then: of its config.yaml.
        source: its data.
        arguments: whose ``--threads``, ``--device`` and the like hold on.
    """
    assert run.folder is not None
    following = argparse.Namespace(**vars(arguments))
    for field in {field for kind in (*MODELS, *TRAININGS) for field in given(arguments, kind)}:
        delattr(following, field)
    following.data, following.resume, following.preset = None, None, None
    folder = str(run.folder.resolve())
    begun = [path for path in sorted(run.folder.parent.iterdir()) if _trains_on(path, folder)]
    if begun:
        following.out = following.config = None
        following.resume = str(begun[-1])
        return following
    following.data, following.autoencoder, following.out = source, folder, str(run.folder.parent)
    for name, value in then.items():
        setattr(following, name, value)
    return following


def _trains_on(path: Path, autoencoder: str) -> bool:
    """Whether ``path`` is a run, that can be resumed, on the latents of the autoencoder."""
    if not is_run(path):
        return False
    run = open_run(path)
    try:
        return run.read_config()["model"].get("autoencoder") == autoencoder and bool(list_checkpoints(run.checkpoints))
    except SdganError:
        return False


def _reading_of(autoencoder: str) -> dict[str, Any]:
    """How the images of the autoencoder's run are read; nothing where it is no run."""
    path = user_path(autoencoder)
    folder = next((at for at in (path, path.parent) if is_run(at)), None)
    if folder is None:
        return {}
    saved = open_run(folder).read_config()
    config: LoopConfig = train_config_kind(saved["model"]).from_dict(saved["train"])
    return {name: getattr(config, name) for name in _READING}
