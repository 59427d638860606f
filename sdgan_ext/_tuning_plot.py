"""The picture of a study, as SVG: the score of every trial, in order and against each value that was searched."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from ._files import replacing

__all__ = ["draw_trials"]

_WIDTH, _HEIGHT, _COLUMNS = 300, 210, 3
_LEFT, _TOP, _RIGHT, _BOTTOM = 62, 30, 14, 34  # around a panel's axes
_INK, _SOFT, _DOT, _BEST, _BAD = "#2b3440", "#6b7684", "#3f7fd4", "#2f8f5b", "#c2452d"
_SPREAD = 20  # scores whose ratio is larger are drawn on a logarithmic axis

Point = tuple[float | None, Mapping[str, float]]


def draw_trials(path: Path, name: str, points: Sequence[Point], logs: Mapping[str, bool], *, lower: bool) -> None:
    """Writes the SVG ``path``, complete or not at all.

    Args:
        name: of the score.
        points: of each trial in order its score, None for one that failed, and its values.
        logs: of each value's name, whether its axis is logarithmic.
        lower: whether a lower score is better.
    """
    scores = [score for score, _ in points if score is not None]
    y_log = bool(scores) and min(scores) > 0 and max(scores) / min(scores) > _SPREAD
    rows = -(-(1 + len(logs)) // _COLUMNS)
    width, height = _COLUMNS * _WIDTH, rows * _HEIGHT + 36
    parts = [_text(16, 24, f"{name}: {'lower' if lower else 'higher'} is better", size=15)]
    parts.append(_text(width - 14, 24, "green: the best so far; red: failed", _SOFT, "end"))
    panels: list[tuple[str, Sequence[float], bool]] = [("trial", [i + 1 for i in range(len(points))], False)]
    panels += [(key, [values[key] for _, values in points], log) for key, log in logs.items()]
    for i, (title, xs, x_log) in enumerate(panels):
        place = (i % _COLUMNS * _WIDTH, i // _COLUMNS * _HEIGHT + 36)
        axes = _Axes(place, (xs, x_log), (scores, y_log))
        parts += axes.frame(title)
        parts += [axes.dot(x, score) for x, (score, _) in zip(xs, points, strict=True)]
        if i == 0:
            parts.append(axes.best(xs, [score for score, _ in points], min if lower else max))
    size = f"width='{width}' height='{height}' viewBox='0 0 {width} {height}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} font-family='Helvetica, Arial, sans-serif'>"
    lines = [head, "<rect width='100%' height='100%' fill='#ffffff'/>", *parts, "</svg>\n"]
    with replacing(path) as file:
        file.write("\n".join(lines).encode())


class _Axes:
    """A panel at ``place``; ``x`` and ``y`` are the numbers that it must hold, and whether in the logarithm."""

    def __init__(self, place: tuple[float, float], x: tuple[Sequence[float], bool], y: tuple[Sequence[float], bool]):
        self.left, self.right = place[0] + _LEFT, place[0] + _WIDTH - _RIGHT
        self.top, self.bottom = place[1] + _TOP, place[1] + _HEIGHT - _BOTTOM
        self._x = _Scale(*x, self.left + 6, self.right - 6)
        self._y = _Scale(*y, self.bottom - 14, self.top + 6)

    def frame(self, title: str) -> list[str]:
        lines = f"M{self.left} {self.top}V{self.bottom}H{self.right}"
        parts = [f"<path d='{lines}' fill='none' stroke='{_SOFT}'/>", _text(self.left, self.top - 8, title, size=12)]
        for i, value in enumerate(self._x.ends):
            at = (self.left, self.right)[i]
            parts.append(_text(at, self.bottom + 15, f"{value:.3g}", _SOFT, ("start", "end")[i]))
        parts += [_text(self.left - 5, self._y(value) + 4, f"{value:.4g}", _SOFT, "end") for value in self._y.ends]
        return parts

    def dot(self, x: float, score: float | None) -> str:
        if score is None:
            return f"<path d='M{self._x(x) - 3:.1f} {self.bottom - 7}l6 6m0 -6l-6 6' stroke='{_BAD}'/>"
        return f"<circle cx='{self._x(x):.1f}' cy='{self._y(score):.1f}' r='3' fill='{_DOT}' fill-opacity='0.75'/>"

    def best(self, xs: Sequence[float], scores: Sequence[float | None], better: Callable[[float, float], float]) -> str:
        so_far: float | None = None
        places = []
        for x, score in zip(xs, scores, strict=True):
            if score is not None:
                so_far = score if so_far is None else better(so_far, score)
            if so_far is not None:
                places.append(f"{self._x(x):.1f},{self._y(so_far):.1f}")
        return f"<polyline points='{' '.join(places)}' fill='none' stroke='{_BEST}' stroke-width='1.5'/>"


class _Scale:
    """Numbers to places between ``first`` and ``last``; ``ends``: the least and the largest number."""

    def __init__(self, values: Sequence[float], log: bool, first: float, last: float):
        self._read = math.log if log else float
        self.ends = sorted({min(values), max(values)})
        self._first, self._last = first, last

    def __call__(self, value: float) -> float:
        low, high = self._read(self.ends[0]), self._read(self.ends[-1])
        share = 0.5 if high == low else (self._read(value) - low) / (high - low)
        return self._first + share * (self._last - self._first)


def _text(x: float, y: float, words: str, color: str = _INK, anchor: str = "start", *, size: int = 10) -> str:
    style = f"font-size='{size}' fill='{color}' text-anchor='{anchor}'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{escape(words)}</text>"
