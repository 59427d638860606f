"""Frozen dataclasses whose fields say what they mean and what they may be.

A field made by :func:`option` carries its help text and limits as metadata: values are checked by it when an object is
made, and the command line makes its flags from it.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from ._errors import ConfigError, nearest, shown

__all__ = ["FORMAT_VERSION", "Config", "option"]

#: Written with every saved configuration; a reader refuses a newer one. It counts up when a field changes its meaning.
FORMAT_VERSION = 1

#: What torch and numpy take for an integer.
_LARGEST = 2**63 - 1

_Self = TypeVar("_Self", bound="Config")


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
) -> Any:
    """A dataclass field. Limits hold for a number or for every element of a tuple; ``above`` is exclusive."""
    return field(
        default=default,
        metadata={"help": help, "choices": choices, "minimum": minimum, "maximum": maximum, "above": above},
    )


@dataclass(frozen=True)
class Config:
    """Base of the configuration dataclasses: checked when made, saved as a plain dictionary."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for item in fields(self):
            value = _checked(item.name, getattr(self, item.name), hints[item.name], item.metadata)
            object.__setattr__(self, item.name, value)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings, lists and None: ready for JSON and YAML."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {"format_version": FORMAT_VERSION, **plain}

    @classmethod
    def from_dict(cls: type[_Self], values: Mapping[str, Any]) -> _Self:
        """What :meth:`to_dict` gave; absent fields take their defaults.

        Raises:
            ConfigError: no mapping, an unknown key (with the nearest known one), a bad value, or a newer format.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a {cls.__name__} is made from a mapping of its fields, got {type(values).__name__}")
        values = dict(values)
        version = values.pop("format_version", FORMAT_VERSION)
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ConfigError(
                f"format_version is {shown(version)}, this sdgan_ext reads up to {FORMAT_VERSION}; "
                "update it with `pip install -U sdgan_ext`"
            )
        names = [item.name for item in fields(cls)]
        for key in values:
            if key not in names:
                raise ConfigError(f"{cls.__name__} has no field {shown(key)}{nearest(key, names)}")
        return cls(**values)

    def replace(self: _Self, **changes: Any) -> _Self:
        """A copy with some fields changed, checked like a new one."""
        names = [item.name for item in fields(self)]
        for key in changes:
            if key not in names:
                raise ConfigError(f"{type(self).__name__} has no field {key!r}{nearest(key, names)}")
        return dataclasses.replace(self, **changes)


def _checked(name: str, value: Any, hint: Any, limits: Mapping[str, Any]) -> Any:
    """``value`` as the type that ``hint`` names, within ``limits``."""
    alternatives = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in alternatives:
        return None
    kinds = [kind for kind in alternatives if kind is not type(None)]
    sequence = isinstance(value, (list, tuple))
    hint = next((kind for kind in kinds if (typing.get_origin(kind) is tuple) == sequence), kinds[0])
    if typing.get_origin(hint) is tuple:
        element_kind, *_, last = typing.get_args(hint)
        length = None if last is Ellipsis else len(typing.get_args(hint))
        if not isinstance(value, (list, tuple)) or not value or (length and len(value) != length):
            count = f"{length}" if length else "one or more"
            numbers = _numbers(element_kind, limits)
            raise ConfigError(f"{name} is {shown(value)}; it must be a sequence of {count} {numbers}")
        return tuple(_checked(f"{name}[{i}]", element, element_kind, limits) for i, element in enumerate(value))
    if type(value) is int and abs(value) > _LARGEST:
        raise ConfigError(f"{name} is {shown(value)}; it must be at most {_LARGEST}")
    if hint is float and type(value) is int:
        value = float(value)
    if limits["choices"] is not None:
        if value not in limits["choices"]:
            allowed = ", ".join(repr(choice) for choice in limits["choices"])
            raise ConfigError(
                f"{name} is {shown(value)}; allowed are {allowed}{_nearest_word(value, limits['choices'])}"
            )
    elif type(value) is not (typing.get_origin(hint) or hint) or not _within(value, limits):
        if hint in (int, float):
            what = _numbers(hint, limits, article=True)
        else:
            what = "true or false" if hint is bool else f"a {hint.__name__}"
        raise ConfigError(f"{name} is {shown(value)}; it must be {what}")
    return value


def _nearest_word(value: Any, choices: tuple[Any, ...]) -> str:
    if not isinstance(value, str):
        return ""
    return nearest(value, [choice for choice in choices if isinstance(choice, str)])


def _within(value: Any, limits: Mapping[str, Any]) -> bool:
    if not isinstance(value, (int, float)):
        return True
    return (
        math.isfinite(value)
        and (limits["minimum"] is None or value >= limits["minimum"])
        and (limits["maximum"] is None or value <= limits["maximum"])
        and (limits["above"] is None or value > limits["above"])
    )


def _numbers(kind: Any, limits: Mapping[str, Any], *, article: bool = False) -> str:
    """The allowed numbers in words: "an integer of at least 1"."""
    one, many = {int: ("an integer", "integers"), str: ("a word", "words")}.get(kind, ("a number", "numbers"))
    noun = one if article else many
    bounds = [
        words
        for words in (
            f"at least {limits['minimum']}" if limits["minimum"] is not None else "",
            f"above {limits['above']}" if limits["above"] is not None else "",
            f"at most {limits['maximum']}" if limits["maximum"] is not None else "",
        )
        if words
    ]
    return f"{noun}, {' and '.join(bounds)}" if bounds else noun
