"""The errors whose text is meant for a user.

Each message is one sentence: the argument or file, what came, what is allowed and, where there is one, the fix.
The command line prints it alone on stderr and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "EvaluationError",
    "MissingCaptionsError",
    "MissingSplitError",
    "PeerLostError",
    "SdganError",
    "nearest",
    "printable",
    "sentence",
    "shown",
]

_LONGEST = 200  # characters of a value in a message
_LONGEST_SENTENCE = 900


class SdganError(Exception):
    """Base of every error whose text is written for a user: one line, not too long, whatever the names in it hold."""

    def __init__(self, message: object):
        super().__init__(sentence(message))


class DataError(SdganError, ValueError):
    """A file, folder, array or dataset that cannot be used as images."""


class MissingCaptionsError(DataError):
    """Captions are wanted of images that have neither texts nor classes."""


class MissingSplitError(DataError):
    """Data that is whole, but has no such split."""


class ConfigError(SdganError, ValueError):
    """A configuration value that is unknown, out of range or at odds with another one."""


class CheckpointError(SdganError, RuntimeError):
    """A saved run or model that is missing, damaged or belongs to something else."""


class PeerLostError(SdganError, RuntimeError):
    """Another process of a training has ended, or no longer answers."""


class EvaluationError(SdganError, ValueError):
    """Images, features or a model that a metric cannot be taken of, or a metric that does not exist."""


class DivergedError(SdganError, ArithmeticError):
    """NaN or infinity in a loss."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """The words ``, did you mean 'x'?`` for the choice most like ``name``, or ``""`` when none is like it."""
    found = difflib.get_close_matches(str(name)[:_LONGEST].lower(), list(choices), n=1, cutoff=0.6)
    return f", did you mean {found[0]!r}?" if found else ""


def printable(name: object) -> str:
    """``str(name)`` of a foreign file, for a message: what would move a terminal's cursor or start a line is escaped.

    Equivalent to Python's ``unicode_escape`` of the characters that ``str.isprintable`` refuses: control characters,
    line ends, marks that turn the direction of writing, bytes of a file name that are no text.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(name))


def shown(value: object) -> str:
    """``repr(value)`` for a message, shortened where it is long: a file may hold anything."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes, lists in lists in lists
        return f"a very long {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def sentence(message: object) -> str:
    """A message as one printable line: what is in the middle of a very long one is left out."""
    text = printable(message)
    half = _LONGEST_SENTENCE // 2 - 5
    return text if len(text) <= _LONGEST_SENTENCE else f"{text[:half]} ... {text[-half:]}"
