"""The report of ``accelerate``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

__all__ = ["Change", "Left", "Report", "Speedup"]


@dataclass(frozen=True)
class Speedup:
    """Stock's time over ours, of medians taken in turns; None where it was not measured."""

    forward: float | None = None
    training: float | None = None

    @property
    def slowest(self) -> float:
        """The smaller of both, of those that were measured; 1 where none was."""
        return min((ratio for ratio in (self.forward, self.training) if ratio is not None), default=1.0)

    def __str__(self) -> str:
        return "  ".join("-" if ratio is None else f"{ratio:.2f}x" for ratio in (self.forward, self.training))


@dataclass(frozen=True)
class Change:
    """A layer that is ours now.

    Attributes:
        name: of the module, as in ``named_modules``.
        layer: its class, the activation that it took over behind it.
        took: the name of the module whose activation that was, or None.
        speedup: of this layer alone, at the shapes of its inputs in the example.
    """

    name: str
    layer: str
    took: str | None = None
    speedup: Speedup = Speedup()

    def of(self, part: str) -> Change:
        """The same, of a model that is a part of another."""
        return replace(self, name=_below(part, self.name), took=self.took and _below(part, self.took))


@dataclass(frozen=True)
class Left:
    """A layer that stays as it was, and why."""

    name: str
    layer: str
    reason: str

    def of(self, part: str) -> Left:
        """The same, of a model that is a part of another."""
        return replace(self, name=_below(part, self.name))


@dataclass(frozen=True)
class Report:
    """What was replaced, what was not and why. ``print`` it.

    Attributes:
        replaced: the layers that are ours now.
        left: the convolutions, batch norms and activations behind them that are not.
        speedup: of the whole model with the example inputs, in the mode it was in.
    """

    replaced: tuple[Change, ...] = ()
    left: tuple[Left, ...] = ()
    speedup: Speedup = field(default_factory=Speedup)

    def __str__(self) -> str:
        if not self.replaced:
            lines = [
                "nothing was replaced"
                + ("" if self.left else ": the model has no convolution and no batch or group norm")
            ]
        else:
            lines = _columns([("replaced", "by", "forward  training"), *self._rows()])
            if self.speedup != Speedup():
                lines.append(f"the whole model, stock over accelerated, forward and training: {self.speedup}")
        by_reason: dict[str, list[str]] = {}
        for left in self.left:
            by_reason.setdefault(left.reason, []).append(left.name or "(the model itself)")
        lines += [f"left: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
        return "\n".join(lines)

    __repr__ = __str__

    def _rows(self) -> list[tuple[str, str, str]]:
        """One for each layer that was measured, and one for each kind of the others."""
        kinds: dict[object, list[Change]] = {}
        for change in self.replaced:
            kinds.setdefault(change.layer if change.speedup == Speedup() else change.name, []).append(change)
        rows = []
        for first, *others in kinds.values():
            more = f" and {len(others)} more" if others else ""
            rows.append(((first.name or "(the model itself)") + more, first.layer, str(first.speedup)))
        return rows


def _below(part: str, name: str) -> str:
    return f"{part}.{name}" if name else part


def _columns(rows: list[tuple[str, str, str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
