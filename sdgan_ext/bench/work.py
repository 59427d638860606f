"""The least that an operation must do: FLOP of the direct algorithm, bytes read once and written once."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["TRAFFIC", "Conv", "Work", "elementwise"]


@dataclass(frozen=True)
class Work:
    """``flop`` in the arithmetic units (0 for passes of memory alone) and ``bytes`` of traffic."""

    flop: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flop + other.flop, self.bytes + other.bytes)

    def seconds(self, peaks: dict[str, float], precision: str) -> float:
        """At best, where ``peaks`` has FLOP/s by precision and bytes/s as "bytes"."""
        return max(self.flop / peaks.get(precision, math.inf), self.bytes / peaks["bytes"])


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


@dataclass(frozen=True)
class Conv:
    """A convolution with bias and activation; ``size`` and ``into`` are those of its input.

    Size, kernel, stride, padding and output_padding are an int or (height, width); the padding of one that is not
    transposed may have four sides: (top, bottom, left, right).
    """

    transposed: bool
    into: int
    out: int
    size: int | tuple[int, int]
    kernel: int | tuple[int, int]
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, ...] = 0
    activation: str | None = None
    output_padding: int | tuple[int, int] = 0

    @property
    def op(self) -> str:
        return "conv_transpose2d" if self.transposed else "conv2d"

    @property
    def sides(self) -> tuple[int, ...]:
        """What is padded, or of a transposed one cropped: top, bottom, left, right."""
        if isinstance(self.padding, tuple) and len(self.padding) == 4:
            return self.padding
        kept = _pair(self.output_padding) if self.transposed else (0, 0)
        return tuple(side for pad, keep in zip(_pair(self.padding), kept, strict=True) for side in (pad, pad - keep))

    def __str__(self) -> str:
        def sizes(value) -> str:
            pair = _pair(value)
            return str(pair[0]) if pair[0] == pair[1] else "x".join(map(str, pair))

        height, width = _pair(self.kernel)
        kernel = f"{height}x{width} s{sizes(self.stride)}"
        four = isinstance(self.padding, tuple) and len(self.padding) == 4
        pads = f"pads {'-'.join(map(str, self.padding))} " if four else ""
        return f"{self.into}->{self.out} {kernel} @{sizes(self.size)} {pads}{self.activation or ''}".strip()

    @property
    def out_size(self) -> tuple[int, int]:
        return tuple(out for _, _, out, _, _, _ in self._sides())

    def pairs(self) -> int:
        """(input, output) pairs of pixels that meet: taps that fall on the border's zeros are no work."""
        total = 1
        for size, kernel, out, stride, before, _ in self._sides():
            small, large = (size, out) if self.transposed else (out, size)
            total *= sum(0 <= i * stride - before + t < large for i in range(small) for t in range(kernel))
        return total

    def elements(self, batch: int) -> tuple[int, int, int]:
        """Of x, w and y."""
        return (
            batch * math.prod(_pair(self.size)) * self.into,
            math.prod(_pair(self.kernel)) * self.into * self.out,
            batch * math.prod(self.out_size) * self.out,
        )

    def forward(self, batch: int, item_bytes: int) -> Work:
        """2 FLOP for each pair of pixels and pair of channels; x and w read once, y written once."""
        return Work(2 * batch * self.pairs() * self.into * self.out, sum(self.elements(batch)) * item_bytes)

    def backward(self, batch: int, item_bytes: int) -> Work:
        """As many FLOP for x as for w; dy, y, x and w read, dx written, dw written in float32."""
        x, w, y = self.elements(batch)
        return Work(2 * self.forward(batch, item_bytes).flop, (2 * y + 2 * x + w) * item_bytes + 4 * w)

    def work(self, batch: int, item_bytes: int, passes: str) -> Work:
        forward = self.forward(batch, item_bytes)
        backward = self.backward(batch, item_bytes)
        return {"forward": forward, "backward": backward}.get(passes, forward + backward)

    def _sides(self) -> list[tuple[int, int, int, int, int, int]]:
        """For height and width: size, kernel, output size, stride, padding before and after."""
        padding = self.padding
        if isinstance(padding, int) or len(padding) == 2:
            vertical, horizontal = _pair(padding)
            padding = (vertical, vertical, horizontal, horizontal)
        sides = []
        for i, (size, kernel, stride, extra) in enumerate(
            zip(*map(_pair, (self.size, self.kernel, self.stride, self.output_padding)), strict=True)
        ):
            before, after = padding[2 * i : 2 * i + 2]
            if self.transposed:
                out = (size - 1) * stride - before - after + kernel + extra
            else:
                out = (size + before + after - kernel) // stride + 1
            sides.append((size, kernel, out, stride, before, after))
        return sides


#: Elements that a loss or a norm must move for one of its input: forward alone, forward and backward together.
TRAFFIC = {
    "discriminator_loss": (1.0, 2.0),  # of the two inputs together: each logit read, its gradient written
    "generator_loss": (1.0, 2.0),
    "binary_cross_entropy_with_logits": (2.0, 5.0),  # input, target; backward the same again, and the gradient
    "binary_cross_entropy": (2.0, 5.0),
    "reconstruction_loss": (2.0, 5.0),
    "sample_gaussian": (3.0, 9.0),  # mean, logvar, z; backward mean, logvar, z, dz, and two gradients
    "group_norm": (3.0, 8.0),  # as batch_norm
    "batch_norm": (3.0, 8.0),  # x for the sums, x again, y; backward x and dy for the sums, again, and dx
}


def elementwise(op: str, elements: int, item_bytes: int, passes: str = "forward + backward") -> Work:
    return Work(0, TRAFFIC[op][passes != "forward"] * elements * item_bytes)
