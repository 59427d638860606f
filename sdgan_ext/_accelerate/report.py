"""The report of ``accelerate``."""

from __future__ import annotations

from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Left:
    """A layer that stays as it was, and why."""

    name: str
    layer: str
    reason: str


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
            lines = ["nothing was replaced" + ("" if self.left else ": the model has no convolution and no batch norm")]
        else:
            rows = [("replaced", "by", "forward  training")]
            rows += [
                (change.name or "(the model itself)", change.layer, str(change.speedup)) for change in self.replaced
            ]
            lines = _columns(rows)
            if self.speedup != Speedup():
                lines.append(f"the whole model, stock over accelerated, forward and training: {self.speedup}")
        by_reason: dict[str, list[str]] = {}
        for left in self.left:
            by_reason.setdefault(left.reason, []).append(left.name or "(the model itself)")
        lines += [f"left: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
        return "\n".join(lines)

    __repr__ = __str__


def _columns(rows: list[tuple[str, str, str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
