"""AutoencoderKL of diffusers from folders and files, or a sentence that says why not.

The import of diffusers takes seconds, so it is in a function, here alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._errors import CheckpointError, ConfigError, shown
from .._files import user_path
from ..models.config import MOST_PARAMETERS
from ..models.folder import check_digest, read_config

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

__all__ = ["WEIGHTS", "config_of", "is_diffusers_folder", "is_single_file", "make_autoencoder", "read_autoencoder"]

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""What diffusers calls the weights of a folder."""

_HALF = "diffusion_pytorch_model.fp16.safetensors"  # what it calls them with variant="fp16"
_SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def is_diffusers_folder(config: Mapping[str, Any]) -> bool:
    """Whether a folder's config.json is one that diffusers wrote."""
    return "_class_name" in config


def is_single_file(path: Path) -> bool:
    """Whether a path is a file of weights, such as those of the original layout."""
    return path.is_file() and path.suffix in _SINGLE_FILES


def make_autoencoder(arguments: Mapping[str, Any]) -> AutoencoderKL:
    """Of ``AutoencoderConfig.for_diffusers``, its weights drawn from torch's own generator.

    Raises:
        ConfigError: diffusers does not take the configuration, its own words are in the sentence; or it asks for more
            than 2^30 parameters.
        ImportError: it is not installed.
    """
    kind = _autoencoder_kl()
    try:
        with torch.device("meta"):
            numbers = sum(parameter.numel() for parameter in kind.from_config(dict(arguments)).parameters())
    except Exception as error:
        raise ConfigError(f"diffusers cannot make an AutoencoderKL of this configuration: {_first(error)}") from error
    if numbers > MOST_PARAMETERS:
        raise ConfigError(
            f"an AutoencoderKL of this configuration has {numbers:,} parameters; it must be at most "
            f"{MOST_PARAMETERS:,}: lower block_out_channels or layers_per_block"
        )
    return kind.from_config(dict(arguments))


def read_autoencoder(source: Any, original_config: str | Path | None = None) -> tuple[AutoencoderKL, str]:
    """The autoencoder that ``source`` is or holds, in float32, and what to call it in an error.

    Args:
        source: an AutoencoderKL; a folder that ``save_pretrained`` wrote, a run or a pipeline with such a folder in it;
            a single file of the original layout.
        original_config: of a single file: the YAML of its training, where diffusers does not know the file.

    Raises:
        ConfigError, CheckpointError: it is none of these, another model, or damaged.
        ImportError: diffusers is not installed.
    """
    kind = _autoencoder_kl()
    if isinstance(source, kind):
        _check_ready(source)
        return source, "the AutoencoderKL"
    if not isinstance(source, (str, Path)):
        raise ConfigError(
            f"source is a {type(source).__name__}; it must be an AutoencoderConfig, an AutoencoderKL of diffusers, or "
            "the folder of one"
        )
    path = user_path(source)
    if is_single_file(path):
        return _read_single_file(kind, path, original_config), str(path)
    if not path.is_dir():
        raise ConfigError(f"{path} is no folder; it must be one that save_pretrained of diffusers wrote, or a run")
    folder = next((at for at in (path, path / "model", path / "vae") if (at / "config.json").is_file()), None)
    if folder is None:
        raise ConfigError(f"{path} holds no config.json, which a folder of diffusers has")
    _check_class(folder)
    check_digest(folder / WEIGHTS)
    options: dict[str, Any] = {
        "local_files_only": True,
        "torch_dtype": torch.float32,
        "low_cpu_mem_usage": False,  # the other way does not tell of all versions what is missing
        "output_loading_info": True,
    }
    if not (folder / WEIGHTS).exists() and (folder / _HALF).is_file():
        options["variant"] = "fp16"
    try:
        vae, found = kind.from_pretrained(str(folder), **options)
    except Exception as error:
        raise CheckpointError(f"diffusers cannot read {folder}: {_first(error)}") from error
    for what in ("missing", "unexpected"):
        names = found[f"{what}_keys"]
        if names:
            raise CheckpointError(f"{folder} is of other layers than its config.json: {names[0]} is {what}")
    return vae, str(folder)


def config_of(vae: AutoencoderKL) -> dict[str, Any]:
    """The configuration as config.json has it."""
    config = json.loads(vae.to_json_string())
    config.pop("_name_or_path", None)
    return config


def _read_single_file(kind: type[AutoencoderKL], path: Path, original_config: str | Path | None) -> AutoencoderKL:
    given = {} if original_config is None else {"original_config": str(user_path(original_config))}
    try:
        return kind.from_single_file(str(path), torch_dtype=torch.float32, **given)
    except Exception as error:
        raise CheckpointError(f"diffusers cannot convert {path}: {_first(error)}") from error


def _check_class(folder: Path) -> None:
    config, path = read_config(folder)
    if config.get("model") == "VAEGAN":
        raise ConfigError(
            f"{path} is a VAEGAN's, which cannot become an AutoencoderKL: its stride-2 transposed convolutions, the "
            "tanh behind them and the eps of its group norms have no place there; --preset kl-f4-64 trains one"
        )
    name = config.get("_class_name")
    if name is None:
        raise ConfigError(f"{path} is not of a model of diffusers: _class_name is not in it")
    if name != "AutoencoderKL":
        raise ConfigError(f"{path} is of diffusers' {shown(name)}; only an AutoencoderKL is trained")


def _check_ready(vae: AutoencoderKL) -> None:
    for name, weight in vae.named_parameters():
        if weight.dtype != torch.float32 or weight.is_meta:
            what = "on the meta device, without numbers" if weight.is_meta else f"{weight.dtype}"
            raise ConfigError(
                f"{name} is {what}; an AutoencoderKL is trained in float32: load it with its weights as such"
            )


def _autoencoder_kl() -> type[AutoencoderKL]:
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise ImportError(
            f"an autoencoder in diffusers' layout needs diffusers ({error}): pip install 'sdgan_ext[diffusers]'"
        ) from None
    return AutoencoderKL


def _first(error: Exception) -> str:
    """The first line of a foreign error."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
