"""Several processes on one training: ``torchrun --nproc-per-node K -m sdgan_ext train ...``.

``config.batch_size`` is that of all processes together. Each draws the noise of the whole batch and takes its own rows
of noise and images; after each phase the gradients are averaged in one flat all_reduce. So K processes take the steps
that one would take, but for the order of sums, and nothing wraps the networks. What a process draws and saves is rank
0's alone.

``torchrun --max-restarts N`` starts all processes again when one has failed, N times. Its store, where processes leave
their addresses for each other, outlives them: each start therefore has keys of its own, or it would read the addresses
of the dead. There too rank 0 notes which run it trains, for a later start to go on with.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._errors import ConfigError, PeerLostError, SdganError

__all__ = ["Processes"]

_TIMEOUT = 600.0  # seconds: rank 0 draws and saves meanwhile; of one that has ended the others hear at once


class Processes:
    """The processes of a training, seen from one of them. A context manager that leaves the group.

    Args:
        device: of this process: gloo joins those on the CPU, nccl those on CUDA.
        timeout: seconds.

    Attributes:
        rank, size: this one's number, and how many there are.
        restarts: how often torchrun has started them again.

    Raises:
        PeerLostError: not all have come within ``timeout``.
    """

    def __init__(self, device: torch.device | str = "cpu", *, timeout: float = _TIMEOUT):
        kind = torch.device(device).type
        backend, limit = "nccl" if kind == "cuda" else "gloo", datetime.timedelta(seconds=timeout)
        self.restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        with _naming_lost_peers(self):
            self._store, self.rank, self.size = next(dist.rendezvous("env://", timeout=limit))
            self._own = dist.PrefixStore(f"sdgan_ext/start {self.restarts}", self._store)
            dist.init_process_group(backend, store=self._own, rank=self.rank, world_size=self.size, timeout=limit)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exception) -> None:
        dist.destroy_process_group()

    def note_run(self, folder: Path) -> None:
        """Rank 0 trains the run ``folder``, which has a checkpoint; a later start finds it by :meth:`noted_run`."""
        self._store.set(_key(folder.parent), str(folder.resolve()))

    def noted_run(self, out: str | Path) -> Path | None:
        """The run in ``out`` that an earlier start has trained, for ``Trainer.resume``; None if there is none. To be
        asked by all processes, once for an ``out`` and before a training: what rank 0 finds is everyone's answer."""
        key = _key(out)
        with _naming_lost_peers(self):
            if self.rank == 0:
                self._own.set(key, self._store.get(key) if self.restarts and self._store.check([key]) else "")
            found = self._own.get(key).decode()
        return Path(found) if found else None

    def rows(self, batch_size: int) -> slice:
        """This process's rows of a batch.

        Raises:
            ConfigError: the batch cannot be shared out equally.
        """
        if batch_size % self.size:
            raise ConfigError(
                f"batch_size is {batch_size}; it is that of all processes together and must be a multiple of their "
                f"number, {self.size}"
            )
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def share_from_first(self, model: nn.Module) -> None:
        """Parameters and buffers of every process become rank 0's."""
        with _naming_lost_peers(self), torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dense = tensor.contiguous()
                dist.broadcast(dense, 0)
                tensor.copy_(dense)

    def average_gradients(self, networks: Iterable[nn.Module]) -> None:
        """The mean over the processes, in the gradients' place."""
        self.average_tensors([p.grad for network in networks for p in network.parameters() if p.grad is not None])

    def average_tensors(self, tensors: Sequence[Tensor]) -> None:
        """The mean over the processes, in their place; in one flat tensor for each dtype."""
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.flatten() for tensor in alike]).div_(self.size)
            self._sum(flat)
            for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def average(self, losses: Mapping[str, Tensor], stopping: bool) -> tuple[dict[str, Tensor], bool]:
        """The losses' means, and whether any process has been asked to stop: all must end with the same step."""
        values = torch.stack([loss.float() for loss in losses.values()])
        flat = torch.cat([values, values.new_tensor([float(stopping) * self.size])]).div_(self.size)
        self._sum(flat)
        *means, stop = flat.unbind()
        return dict(zip(losses, means, strict=True)), bool(stop > 0)

    def _sum(self, tensor: Tensor) -> None:
        with _naming_lost_peers(self):
            dist.all_reduce(tensor)


def _key(out: str | Path) -> str:
    return f"run in {Path(out).expanduser().resolve()}"


class _naming_lost_peers:
    """Errors of torch.distributed as one sentence."""

    def __init__(self, processes: Processes):
        self.processes = processes

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, RuntimeError) and not isinstance(error, SdganError):
            rank, size = getattr(self.processes, "rank", os.environ.get("RANK")), os.environ.get("WORLD_SIZE", "?")
            raise PeerLostError(
                f"process {rank} of {size} has lost another one ({str(error).splitlines()[0][:200]}); torchrun names "
                "the rank that failed; the last checkpoint is whole, go on with --resume"
            ) from error
