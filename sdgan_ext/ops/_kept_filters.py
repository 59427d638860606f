"""Weights that do not change: what the native convolutions make of them is kept from call to call, in inference.

The native side (``csrc/ops/conv/kept_filters.h``) owns the memory and compares the weight's bits in every call. Here
is said which weights it may do so for, and when one is freed.
"""

from __future__ import annotations

import functools
import weakref

from torch import Tensor, nn

from .. import _C
from .._torch_internals import plain_eager

__all__ = ["KeptFilters", "kept_filters"]

#: Of a weight's elements; what is made of smaller ones takes no time to speak of.
_LEAST = 2**14

#: By address, of those that were offered.
_alive: dict[int, weakref.ref[Tensor]] = {}


def offer(weight: Tensor) -> None:
    """Before a convolution without gradients: lets it keep what it makes of ``weight``, if that is a parameter.

    Others may be there for one call alone, as those that a parametrization computes.
    """
    if not plain_eager() or type(weight) is not nn.Parameter or weight.numel() < _LEAST or not weight.is_cpu:
        return
    address = weight.data_ptr()
    if address not in _alive:
        _alive[address] = weakref.ref(weight, functools.partial(_forget, address, _C.forget_filters))
    _C.offer_weight(address)


def _forget(address: int, forget_filters: object, reference: weakref.ref[Tensor]) -> None:
    if _alive.get(address) is reference:
        del _alive[address]
        forget_filters(address)  # type: ignore[operator]


class KeptFilters:
    """Memory that transformed filters of weights that do not change take: ``sd.kept_filters``.

    The Winograd kernels transform a weight before they use it, which takes a tenth of the time of a layer of 32 x 32
    pixels and a third at 16 x 16. Where no gradients are recorded (``torch.no_grad``, ``torch.inference_mode``) and the
    weight is a parameter, the result is kept from the second call on. Any change of the weight is seen, however it was
    made: its bits are compared in every call. It is freed with the weight.

    Where more is asked for than ``max_bytes`` allows, what came first stays, until it was not used for long.
    """

    @property
    def max_bytes(self) -> int:
        """The limit, 64 MiB at first, a few layers of 512 channels; may be set, 0 for none."""
        return _C.kept_filters_limit()

    @max_bytes.setter
    def max_bytes(self, value: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"max_bytes is {value!r}; it must be an int")
        if not 0 <= value < 2**63:
            raise ValueError(f"max_bytes is {value}; it must be at least 0 and below 2^63")
        _C.limit_kept_filters(value)

    @property
    def bytes(self) -> int:
        """In use."""
        return _C.kept_filters()[0]

    @property
    def count(self) -> int:
        """Filters that are kept."""
        return _C.kept_filters()[1]

    @property
    def uses(self) -> int:
        """Convolutions so far that took a kept filter."""
        return _C.kept_filters()[2]

    def clear(self) -> None:
        """Frees all; they are kept anew when they are used again."""
        limit = self.max_bytes
        _C.limit_kept_filters(0)
        _C.limit_kept_filters(limit)

    def __repr__(self) -> str:
        return f"KeptFilters(count={self.count}, bytes={self.bytes}, max_bytes={self.max_bytes}, uses={self.uses})"


kept_filters = KeptFilters()
