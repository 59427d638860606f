"""A curve as inline SVG, drawn in the colours of the page's style."""

from __future__ import annotations

import math
from html import escape

from .facts import Series

__all__ = ["curve", "number"]

_WIDTH, _HEIGHT = 320, 132
_TOP, _RIGHT, _BOTTOM = 10, 12, 22
_MOST = 300  # points that are drawn


def curve(title: str, series: Series, words: str = "") -> str:
    """A figure: title, last value, what it is in ``words``, and the values over the steps."""
    shown = _thinned(series)
    steps, values = [step for step, _ in shown], [value for _, value in shown]
    low, high = min(values), max(values)
    labels = {value: f"{value:.3g}" for value in (low, high)}
    left, right, bottom = 14 + 6.5 * max(map(len, labels.values())), _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    x, y = _Scale(steps[0], steps[-1], left, right), _Scale(low, high, bottom, _TOP)
    line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in shown)
    parts = [f'<path class="axis" d="M{left} {_TOP}V{bottom}H{right}"/>']
    parts += [_text(left - 6, y(value) + 4, label, "end") for value, label in labels.items()]
    parts += [_text(x(step), _HEIGHT - 6, f"{step:,}", anchor) for step, anchor in _ends(steps)]
    if len(shown) > 1:
        parts.append(f'<polyline class="line" points="{line}"/>')
    parts.append(f'<circle class="dot" cx="{x(steps[-1]):.1f}" cy="{y(values[-1]):.1f}" r="3"/>')
    label = f"{title}: {number(values[0])} at step {steps[0]:,}, {number(values[-1])} at step {steps[-1]:,}"
    return (
        f'<figure class="curve"><figcaption><b>{escape(title)}</b> <span class="value">{number(values[-1])}</span>'
        f"{f'<small>{escape(words)}</small>' if words else ''}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg></figure>'
    )


def number(value: float) -> str:
    """Four digits, of large whole numbers all."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def _thinned(series: Series) -> Series:
    """At most about ``_MOST`` points: the least and the largest of each stretch, and the last."""
    if len(series) <= _MOST:
        return series
    length = math.ceil(2 * len(series) / _MOST)
    points: Series = []
    for start in range(0, len(series), length):
        part = series[start : start + length]
        points += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return points if points[-1] == series[-1] else [*points, series[-1]]


def _ends(steps: list[int]) -> list[tuple[int, str]]:
    return [(steps[0], "middle")] if steps[0] == steps[-1] else [(steps[0], "start"), (steps[-1], "end")]


class _Scale:
    """Numbers from ``low`` to ``high`` to places from ``first`` to ``last``."""

    def __init__(self, low: float, high: float, first: float, last: float):
        self._low, self._span = low, high - low
        self._first, self._last = first, last

    def __call__(self, value: float) -> float:
        share = (value - self._low) / self._span if self._span else 0.5
        return self._first + share * (self._last - self._first)


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
