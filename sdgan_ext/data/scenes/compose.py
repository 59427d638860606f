"""Scenes drawn at random: what is in them, where it stands, how it is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from sdgan_ext.data.scenes.grammar import describe
from sdgan_ext.data.scenes.scene import COLOURS, GROUNDS, PLACES, RELATIONS, SIZES, Scene, SceneObject, held_out_pairs

__all__ = ["ATTRIBUTES", "DRAWS", "Composition", "Plan", "Spot", "compose"]

ATTRIBUTES = ("size", "place", "ground")
"""What may vary and be said, beside digits, colours and relations."""

DRAWS = 64
"""Random numbers that one scene takes at most."""

_T = TypeVar("_T")
_HELD_OUT = held_out_pairs()
_SIDES = {"small": 0.28, "large": 0.44}  # a digit's longer side, of the image's
_MARGIN, _GAP, _JITTER = 0.02, 0.03, 0.03


class Plan(NamedTuple):
    """What scenes are composed of.

    Attributes:
        objects: the numbers of digits that there may be, of 1 to 3.
        languages: of the captions.
        attributes: of :data:`ATTRIBUTES`.
        split: of :data:`~sdgan_ext.data.scenes.pool.SPLITS`: "train" and "test" show no pair of
            :func:`~sdgan_ext.data.scenes.scene.held_out_pairs`, "unseen" one in each scene, "judge" any.
    """

    objects: tuple[int, ...]
    languages: tuple[str, ...]
    attributes: tuple[str, ...]
    split: str


class Spot(NamedTuple):
    """Where a digit is, in units of the image's side.

    Attributes:
        x, y: the centre of its bounding box, from the left and from the top.
        side: the longer side of that box.
        image: in [0, 1): which image of the digit is taken.
    """

    x: float
    y: float
    side: float
    image: float


class Composition(NamedTuple):
    """
    Attributes:
        scene: all that the image shows.
        spots: of each object.
        caption: what is said of it.
    """

    scene: Scene
    spots: tuple[Spot, ...]
    caption: str


class _Draws:
    """Random numbers, one after the other."""

    def __init__(self, numbers: Iterable[float]):
        self._numbers = iter(numbers)

    def below(self, limit: float) -> bool:
        return next(self._numbers) < limit

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._numbers)

    def choose(self, values: Sequence[_T]) -> _T:
        return values[int(next(self._numbers) * len(values))]


def compose(numbers: Iterable[float], plan: Plan) -> Composition:
    """The scene that follows from ``numbers``, :data:`DRAWS` of them in [0, 1)."""
    draws = _Draws(numbers)
    count = draws.choose(plan.objects)
    pairs = _pairs(draws, count, plan.split)
    sized = "size" in plan.attributes and count < 3  # three large ones do not fit beside each other
    sizes = [draws.choose(SIZES) if sized else SIZES[count < 3] for _ in pairs]
    sides = [_SIDES[size] * draws.between(0.95, 1.05) for size in sizes]
    ground = draws.choose(tuple(GROUNDS)) if "ground" in plan.attributes else "black"
    related = count == 3 or (count == 2 and ("place" not in plan.attributes or draws.below(0.5)))
    relation = draws.choose(RELATIONS) if related else None
    places: list[str | None] = [None] * count
    if relation is not None:
        centres = _beside(draws, relation, sides)
    else:
        places[:] = found = _places(draws, count)
        centres = [_at(draws, place, side) for place, side in zip(found, sides, strict=True)]
    objects = [
        SceneObject(digit, colour, size, place)
        for (colour, digit), size, place in zip(pairs, sizes, places, strict=True)
    ]
    spots = [Spot(x, y, side, draws.between(0, 1)) for (x, y), side in zip(centres, sides, strict=True)]
    scene = Scene(tuple(objects), relation, ground)
    said = _said(draws, scene, plan.attributes)
    return Composition(scene, tuple(spots), describe(said, draws.choose(plan.languages), draws.choose))


def _pairs(draws: _Draws, count: int, split: str) -> list[tuple[str, int]]:
    """(colour, digit) of each object, no colour twice."""
    unseen = draws.choose(range(count)) if split == "unseen" else None
    pairs: list[tuple[str, int]] = []
    for k in range(count):
        colour = draws.choose([colour for colour in COLOURS if colour not in {pair[0] for pair in pairs}])
        allowed = [d for d in range(10) if split == "judge" or ((colour, d) in _HELD_OUT) == (k == unseen)]
        pairs.append((colour, draws.choose(allowed)))
    return pairs


def _places(draws: _Draws, count: int) -> list[str]:
    """A place for each; two are so far apart that large digits do not touch."""
    numbers = [draws.choose(range(len(PLACES)))] if count == 1 else draws.choose(_APART)
    return [PLACES[number] for number in numbers]


_APART = [
    [a, b] for a in range(9) for b in range(9) if max(abs(a // 3 - b // 3), abs(a % 3 - b % 3)) == 2
]  # fmt: skip


def _at(draws: _Draws, place: str, side: float) -> tuple[float, float]:
    row, column = divmod(PLACES.index(place), 3)
    low = side / 2 + _MARGIN
    x, y = (low + (1 - 2 * low) * number / 2 for number in (column, row))
    reach = [_JITTER if number == 1 else _MARGIN for number in (column, row)]
    return x + draws.between(-reach[0], reach[0]), y + draws.between(-reach[1], reach[1])


def _beside(draws: _Draws, relation: str, sides: Sequence[float]) -> list[tuple[float, float]]:
    """Centres in a row or a column: along it what is free is divided at random, across it they vary a little."""
    count = len(sides)
    order = list(range(count)) if relation in ("left of", "above") else list(reversed(range(count)))
    free = 1 - sum(sides) - _GAP * (count - 1) - 2 * _MARGIN
    shares = [draws.between(0.01, 1) for _ in range(count + 1)]
    along, at = [0.0] * count, _MARGIN
    for share, k in zip(shares, order, strict=False):
        at += free * share / sum(shares)
        along[k] = at + sides[k] / 2
        at += sides[k] + _GAP
    reach = 2 * _JITTER
    edge = max(sides) / 2 + _MARGIN + reach
    middle = draws.between(edge, 1 - edge)
    across = [middle + draws.between(-reach, reach) for _ in sides]
    pairs = zip(along, across, strict=True)
    return [(a, b) if relation in ("left of", "right of") else (b, a) for a, b in pairs]


def _said(draws: _Draws, scene: Scene, attributes: Sequence[str]) -> Scene:
    """As much of ``scene`` as its caption says: sizes and ground of every other one, a lone digit's place mostly."""
    size = draws.below(0.5) and "size" in attributes and len(scene.objects) < 3
    place = draws.below(0.75) and "place" in attributes or len(scene.objects) > 1
    ground = draws.below(0.5) and "ground" in attributes
    objects = [
        dataclasses.replace(thing, size=thing.size if size else None, place=thing.place if place else None)
        for thing in scene.objects
    ]
    return Scene(tuple(objects), scene.relation, scene.ground if ground else None)
