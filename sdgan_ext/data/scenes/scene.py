"""What a scene is, as data: its words are those of the captions in English, whatever the language of a caption."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "COLOURS",
    "GROUNDS",
    "PLACES",
    "RELATIONS",
    "SIZES",
    "Scene",
    "SceneObject",
    "held_out_pairs",
]

COLOURS = {
    "red": (240, 45, 45),
    "orange": (255, 138, 0),
    "yellow": (250, 225, 40),
    "green": (40, 190, 60),
    "cyan": (50, 220, 225),
    "blue": (65, 125, 255),
    "purple": (185, 90, 245),
    "pink": (255, 140, 195),
}
"""Of the digits: name -> (red, green, blue)."""

GROUNDS = {
    "black": (0, 0, 0),
    "grey": (58, 58, 58),
    "dark blue": (12, 20, 82),
    "dark red": (62, 8, 14),
    "dark green": (8, 58, 22),
}

SIZES = ("small", "large")

RELATIONS = ("left of", "right of", "above", "below")

PLACES = tuple(
    " ".join(filter(None, words)) or "middle"
    for words in itertools.product(("top", "", "bottom"), ("left", "", "right"))
)
"""The thirds of the image, row by row."""


@dataclass(frozen=True)
class SceneObject:
    """A digit. None: not said, or, of a place, that the relation decides.

    Attributes:
        digit: 0 to 9.
        colour: of :data:`COLOURS`.
        size: of :data:`SIZES`.
        place: of :data:`PLACES`: where its centre is.
    """

    digit: int
    colour: str
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Scene:
    """What an image shows, or as much of it as a caption says.

    Attributes:
        objects: one to three, no two of one colour.
        relation: of :data:`RELATIONS`: each object's to the next one; None: each has its place, or is alone.
        ground: of :data:`GROUNDS`; None: not said.
    """

    objects: tuple[SceneObject, ...]
    relation: str | None = None
    ground: str | None = None


def held_out_pairs() -> frozenset[tuple[str, int]]:
    """The (colour, digit) that no scene for training shows: two digits of each colour, one or two colours of each
    digit, so that each colour and each digit alone is there."""
    return frozenset(_held_out())


def _held_out() -> Iterator[tuple[str, int]]:
    for (number, colour), digit in itertools.product(enumerate(COLOURS), range(10)):
        if (digit + 3 * number) % 5 == 0:
            yield colour, digit
