"""``sdgan-ext train --config FILE``: a YAML file that says what flags say."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._config import FORMAT_VERSION, Config
from .._errors import ConfigError, nearest, shown
from .._files import user_path
from ..diffusion.model_config import DERIVED

__all__ = ["read_config_file"]

_NOTES = ("versions", "parameters", "perceptual_sha256", "then")  # of a run's config.yaml and of --dry-run


def read_config_file(
    path: str | Path,
    sections: Mapping[str, Sequence[type[Config]]],
    options: Mapping[str, type],
    reader: Callable[[Any], Callable[[str], Any]],
) -> dict[str, Any]:
    """What the file gives, by the names of fields and options.

    Its keys are the names of flags without ``--``, with ``-`` or ``_``. They may stand under ``train:`` and ``model:``,
    and ``data:`` may hold a ``source:``, as in the config.yaml of a run.

    Args:
        sections: the configuration dataclasses whose fields each section may give.
        options: further names that may be given, with the types of their values.
        reader: makes of a field's type what reads it from text, as a flag does.

    Raises:
        ConfigError: the file cannot be read, is no YAML mapping, or has a key that is no flag.
    """
    from .._yaml import read_yaml

    path = user_path(path)
    try:
        values = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"cannot read --config {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"--config {path} is no YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"--config {path} holds a {type(values).__name__}; it must be a mapping of flags to values")
    if isinstance(values.get("data"), Mapping):
        values = {**values, "data": values["data"].get("source")}
    hints = {
        section: {
            field.name: typing.get_type_hints(config)[field.name]
            for config in configs
            for field in dataclasses.fields(config)
        }
        for section, configs in sections.items()
    }

    def read(key: object, value: Any, names: Collection[str], where: str = "") -> tuple[str, Any]:
        name = str(key).replace("-", "_")
        if name not in names:
            word = where + str(key)[:100]
            raise ConfigError(f"--config {path}: {word} is not a flag of sdgan-ext train{nearest(name, names)}")
        if name in options:
            if value is not None and type(value) is not options[name]:
                what = "an integer" if options[name] is int else "text"
                raise ConfigError(f"--config {path}: {key} is {shown(value)}; it must be {what}")
            return name, value
        hint = next(hints[section][name] for section in sections if name in hints[section])
        return name, reader(hint)(value) if isinstance(value, str) else value

    given: dict[str, Any] = {}
    for key, value in values.items():
        if key in _NOTES:
            continue
        if key not in sections:
            given |= [read(key, value, {*options, *sections, *set().union(*hints.values())})]
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(f"--config {path}: {key} holds a {type(value).__name__}; it must be a mapping")
        value = dict(value)
        version = value.pop("format_version", FORMAT_VERSION)
        sections[key][0].from_dict({"format_version": version})
        if value.pop("model", None) == "LatentDiffusion":  # the kind of a run's model
            given |= [("autoencoder", source)] if isinstance(source := value.get("autoencoder"), str) else []
            value = {name: entry for name, entry in value.items() if name not in DERIVED}
        given |= [read(name, entry, hints[key], f"{key}.") for name, entry in value.items()]
    return given
