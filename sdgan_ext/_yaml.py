"""YAML of configurations: small, flat, and of plain values alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ._files import read_bytes

__all__ = ["MOST_BYTES", "read_yaml", "to_yaml"]

#: Of a configuration file; one that a run writes has about 4,000.
MOST_BYTES = 2**16

_DEEPEST = 20  # containers in containers
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # those that YAML 1.1 takes for text: 1e-3, 5.e2


def _resolvers(*left_out: str) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """What plain text means, by its first character, as YAML 1.1 has it, and YAML 1.2's floats."""
    known = yaml.SafeLoader.yaml_implicit_resolvers
    resolvers = {first: [(tag, form) for tag, form in found if tag not in left_out] for first, found in known.items()}
    for first in "-+.0123456789":
        resolvers[first].append(("tag:yaml.org,2002:float", _FLOAT))
    return resolvers


class _Loader(yaml.SafeLoader):
    """Without aliases, of which few bytes make billions of values, without depth, which the reader recurses into, and
    with dates as the text that they are."""

    yaml_implicit_resolvers = _resolvers("tag:yaml.org,2002:timestamp")
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"an alias, *{alias.anchor}, is not read", alias.start_mark)
        if self._depth == _DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"it is more than {_DEEPEST} levels deep")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Dumper(yaml.SafeDumper):
    """Lists in one line."""

    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)


def read_yaml(path: Path) -> Any:
    """The values in a file.

    Raises:
        OSError: it cannot be read, is no regular file, or too large for a configuration.
        ValueError: it is no YAML, or not that of a configuration; one line says where.
    """
    text = read_bytes(path, MOST_BYTES).decode("utf-8")
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # a constructor raises anything of a value that does not fit its tag
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error


def to_yaml(values: Mapping[str, Any]) -> str:
    """What :func:`read_yaml` reads as ``values``; lists stand in one line."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
