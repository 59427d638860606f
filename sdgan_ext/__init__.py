"""Train convolutional GANs, VAEs and VAE-GANs: fused kernels, the correct training step.

::

    import sdgan_ext as sd

    preset = sd.preset("mnist-small")
    run = sd.Trainer(sd.VAEGAN(preset.model), preset.train).fit("mnist")

The parts are loaded when first used, so that ``sdgan-ext --help`` does not wait for torch and ``sdgan-ext doctor``
works where the compiled part does not load. ``import sdgan_ext.ops`` registers ``torch.ops.sdgan_ext``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import data, diffusion, evaluation, export, losses, models, nn, ops, training
    from ._accelerate import accelerate, restore
    from ._explain import explain
    from ._native import build_info
    from .diffusion.model import LatentDiffusion
    from .diffusion.model_config import LatentDiffusionConfig
    from .models import VAEGAN, VAEGANConfig
    from .ops import conv_backend, get_conv_backend, kept_filters
    from .presets import preset
    from .training.autoencoder import Autoencoder, autoencoder
    from .training.autoencoder_config import AutoencoderConfig
    from .training.config import TrainConfig
    from .training.diffusion_config import DiffusionTrainConfig
    from .training.diffusion_trainer import DiffusionTrainer, latent_diffusion
    from .training.networks import Networks
    from .training.trainer import Trainer

_MODULES = ("data", "diffusion", "evaluation", "export", "losses", "models", "nn", "ops", "training")
_HOMES = {
    "VAEGAN": "models",
    "VAEGANConfig": "models",
    "preset": "presets",
    "Autoencoder": "training.autoencoder",
    "AutoencoderConfig": "training.autoencoder_config",
    "autoencoder": "training.autoencoder",
    "Networks": "training.networks",
    "DiffusionTrainConfig": "training.diffusion_config",
    "DiffusionTrainer": "training.diffusion_trainer",
    "LatentDiffusion": "diffusion.model",
    "LatentDiffusionConfig": "diffusion.model_config",
    "latent_diffusion": "training.diffusion_trainer",
    "TrainConfig": "training.config",
    "Trainer": "training.trainer",
    "build_info": "_native",
    "accelerate": "_accelerate",
    "conv_backend": "ops",
    "get_conv_backend": "ops",
    "kept_filters": "ops",
    "restore": "_accelerate",
    "explain": "_explain",  # a module of that name would hide it once imported
}

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "DiffusionTrainConfig",
    "DiffusionTrainer",
    "LatentDiffusion",
    "LatentDiffusionConfig",
    "Networks",
    "TrainConfig",
    "Trainer",
    "VAEGAN",
    "VAEGANConfig",
    "__version__",
    "accelerate",
    "autoencoder",
    "build_info",
    "conv_backend",
    "data",
    "diffusion",
    "evaluation",
    "explain",
    "export",
    "get_conv_backend",
    "kept_filters",
    "latent_diffusion",
    "losses",
    "models",
    "nn",
    "ops",
    "preset",
    "restore",
    "training",
]


def __getattr__(name: str) -> Any:
    value: Any
    if name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    elif name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """Of the installed package; of the compiled part in a source tree that is not installed."""
    from importlib import metadata

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:
        return str(__getattr__("build_info")()["version"])
