"""What processes of one training say to each other, with errors of torch.distributed as one sentence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch.distributed as dist
from torch import Tensor

from ._errors import PeerLostError, SdganError

__all__ = ["naming_lost_peers", "sum_over_processes"]


def sum_over_processes(tensor: Tensor) -> None:
    """In its place; all processes call it with tensors of one shape.

    Raises:
        PeerLostError: another process has ended or does not answer.
    """
    with naming_lost_peers():
        dist.all_reduce(tensor)


@contextlib.contextmanager
def naming_lost_peers() -> Iterator[None]:
    try:
        yield
    except SdganError:
        raise
    except RuntimeError as error:
        rank, size = (os.environ.get(name, "?") for name in ("RANK", "WORLD_SIZE"))  # torchrun's
        raise PeerLostError(
            f"process {rank} of {size} has lost another one ({str(error).splitlines()[0][:200]}); torchrun names "
            "the rank that failed; the last checkpoint is whole, go on with --resume"
        ) from error
