"""Mutations of bytes, of trees and of arrays' headers: each follows from the generator that it is given alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

# ------------------------------------------------------------------------------------------------------- bytes
_INTEGERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def _span(rng: Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 16, 256)))


def _flip(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    place = rng.randrange(len(data)) if data else 0
    return data[:place] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[place : place + 1]) + data[place + 1 :]


def _overwrite(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start, stop = _span(rng, data)
    return (
        data[:start]
        + rng.choice((bytes(stop - start), b"\xff" * (stop - start), rng.randbytes(stop - start)))
        + data[stop:]
    )


def _set_integer(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A length field, perhaps, at an extreme."""
    width = rng.choice((1, 2, 4, 8))
    place = rng.randrange(max(1, len(data) if rng.random() < 0.5 else min(len(data), 64)))
    value = rng.choice(_INTEGERS) % 2 ** (8 * width)
    return data[:place] + value.to_bytes(width, rng.choice(("little", "big"))) + data[place + width :]


def _truncate(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start, stop = _span(rng, data)
    return data[:start] + data[stop:]


def _repeat(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start, stop = _span(rng, data)
    return data[:stop] + data[start:stop] * rng.choice((1, 1, 3, 1000)) + data[stop:]


def _insert(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.choice((1, 4, 64))) + data[place:]


def _splice(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


_DAMAGES = (_flip, _flip, _overwrite, _set_integer, _set_integer, _truncate, _remove, _repeat, _insert, _splice)


def damaged(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """``data`` after one to four changes of its bytes; ``others`` are what a piece may come from."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_DAMAGES)(rng, data, others)
    return data


# ------------------------------------------------------------------------------------------------------- trees
class Raw:
    """Stands in a tree for a piece of JSON or YAML text, as it is."""

    def __init__(self, text: str):
        self.text = text


def to_text(tree: Any) -> str:
    """JSON, and so YAML too, but for what the :class:`Raw` in it are."""
    raws: list[str] = []

    def keep(raw: Raw) -> str:
        raws.append(raw.text)
        return f"@{len(raws) - 1}@"

    return re.sub(r'"@(\d+)@"', lambda match: raws[int(match[1])], json.dumps(tree, default=keep))


STRANGE_WORDS = (
    "",
    "x",
    "\x1b[31mred",
    "two\nlines",
    "\ud800",
    "é" * 300,
    "n" * 100_000,
    "../..",
    "%s{0}",
    "true",
    "1",
)
STRANGE = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, 10**9, 10**30, 0.5, -0.0, 1e-320, 1e308, 1e9),
    *(Raw("1e400"), Raw("NaN"), Raw("-Infinity"), Raw("9" * 5000), Raw("1" + "0" * 5000 + ".5")),
    *STRANGE_WORDS,
    *([], {}, [[]], {"": {}}, [1, 2], [1] * 1000, [None], ["x"], [0.5, 0.5, 0.5], [10**9], [1] * 40, [10**9, 10**9]),
    *(Raw(depth * "[" + depth * "]") for depth in (20, 500, 100_000)),
    *(Raw(depth * '{"a":' + "1" + depth * "}") for depth in (500, 100_000)),
)


def _laughs(levels: int, width: int) -> str:
    """Nested aliases: ``width ** levels`` words, if anybody wrote them all out."""
    levels_of = [f"&a0 [{', '.join(['x'] * width)}]"]
    levels_of += [f"&a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return f"[{', '.join(levels_of)}]"


STRANGE_YAML = (
    *STRANGE,
    *map(Raw, ("2024-99-99", "2024-01-01", "2024-01-01 25:61:00", "190:20:30", "0x1F", "0b2", "0o8", ".inf", ".nan")),
    *map(Raw, ("999e-3", "1_000", "~", "yes", "*unknown", "&a [*a]", "&a {b: *a}", "{[1]: 2}", "{? {a: b} : c}", "<<")),
    *map(Raw, ("!!python/object/apply:os.getcwd []", "!!binary '@@'", "!!int x", "!!float x", "!!timestamp x", "!x y")),
    *map(Raw, ("!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!null x", "!!bool maybe", "{<<: 1}", "{<<: [1]}")),
    *(Raw(_laughs(levels, 10)) for levels in (3, 9, 30)),
)


def _nodes(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every node but the root."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    for key, value in inside:
        yield (*path, key)
        yield from _nodes(value, (*path, key))


def _at(tree: Any, path: Sequence[Any]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def _copied(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree


def changed_tree(rng: Random, tree: Any, strange: Callable[[Random], Any]) -> Any:
    """``tree`` with one to three nodes replaced by something ``strange``, removed, renamed or exchanged.

    Dictionaries and lists are copied, what is in them is not.
    """
    tree = _copied(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        nodes = list(_nodes(tree))
        if not nodes or rng.random() < 0.03:
            return strange(rng)
        *above, key = rng.choice(nodes)
        parent = _at(tree, above)
        if isinstance(parent, tuple):
            continue
        action = rng.random()
        if action < 0.6:
            parent[key] = _copied(strange(rng))  # or a later change would be one of the table
        elif action < 0.75:
            del parent[key]
        elif action < 0.85 and isinstance(parent, dict):
            parent[rng.choice(STRANGE_WORDS)] = parent.pop(key)
        else:
            parent[key] = _copied(_at(tree, rng.choice(nodes)))
    return tree


def strange_json(rng: Random) -> Any:
    return rng.choice(STRANGE)


def strange_yaml(rng: Random) -> Any:
    return rng.choice(STRANGE_YAML)
