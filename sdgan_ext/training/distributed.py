"""Several processes on one training: ``torchrun --nproc-per-node K -m sdgan_ext train ...``.

``config.batch_size`` is that of all processes together. Each draws the noise of the whole batch and takes its own rows
of noise and images; after each phase the gradients are averaged in one flat all_reduce. So K processes take the steps
that one would take, but for the order of sums, and nothing wraps the networks. What a process draws and saves is rank
0's alone.

``torchrun --max-restarts N`` starts all processes again when one has failed, N times. Its store, where processes leave
their addresses for each other, outlives them: each start therefore has keys of its own, or it would read the addresses
of the dead. torchrun's own count of restarts does not tell the starts apart: it is a host's, and the host that failed
first counts one where the others see a change of members. So the processes agree on a number. In the store too rank 0
notes which run it trains, for a later start to go on with.
"""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._env import peer_timeout
from .._errors import ConfigError
from .._peers import naming_lost_peers, sum_over_processes

__all__ = ["Processes"]


class Processes:
    """The processes of a training, seen from one of them. A context manager that leaves the group.

    Args:
        device: of this process: gloo joins those on the CPU, nccl those on CUDA.
        timeout: seconds that a process is waited for, by default of the variable SDGAN_PEER_TIMEOUT, or 600: rank 0
            draws, judges and saves meanwhile. Of one that has ended the others hear at once, of one whose host is cut
            off by this alone.

    Attributes:
        rank, size: this one's number, and how many there are.
        start: which start by torchrun this is, from 1.

    Raises:
        PeerLostError: not all have come within ``timeout``.
    """

    def __init__(self, device: torch.device | str = "cpu", *, timeout: float | None = None):
        kind = torch.device(device).type
        backend = "nccl" if kind == "cuda" else "gloo"
        limit = datetime.timedelta(seconds=peer_timeout() if timeout is None else timeout)
        with naming_lost_peers():
            self._store, self.rank, self.size = next(dist.rendezvous("env://", timeout=limit))
            self.start = _agree_on_start(self._store, self.rank, self.size, limit.total_seconds())
            self._own = dist.PrefixStore(f"sdgan_ext/start {self.start}", self._store)
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
        with naming_lost_peers():
            if self.rank == 0:
                self._own.set(key, self._store.get(key) if self.start > 1 and self._store.check([key]) else "")
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
        with naming_lost_peers(), torch.no_grad():
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
            sum_over_processes(flat)
            for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def average(self, losses: Mapping[str, Tensor], stopping: bool) -> tuple[dict[str, Tensor], bool]:
        """The losses' means, and whether any process has been asked to stop: all must end with the same step."""
        values = torch.stack([loss.float() for loss in losses.values()])
        flat = torch.cat([values, values.new_tensor([float(stopping) * self.size])]).div_(self.size)
        sum_over_processes(flat)
        *means, stop = flat.unbind()
        return dict(zip(losses, means, strict=True)), bool(stop > 0)


def _agree_on_start(store: dist.Store, rank: int, size: int, seconds: float) -> int:
    """The number of this start, one for all of its processes.

    What the store holds may be of the dead. So each process says a word that nobody has said before, and rank 0 answers
    to every word until all have heard it.

    Raises:
        RuntimeError: not all have come within ``seconds``.
    """
    keys = dist.PrefixStore("sdgan_ext/starts", store)
    if rank:
        word = uuid.uuid4().hex
        keys.set(f"word of {rank}", word)
        number = int(keys.get(f"answer to {word}"))
        keys.set(f"{rank} in {number}", "")
        return number
    number, end = keys.add("count", 1), time.monotonic() + seconds
    missing = set(range(1, size))
    while missing:
        if time.monotonic() > end:
            raise RuntimeError(f"rank {min(missing)} has not come within {seconds:g} s")
        for other in list(missing):
            if keys.check([f"word of {other}"]):
                keys.set(f"answer to {keys.get(f'word of {other}').decode()}", str(number))
            if keys.check([f"{other} in {number}"]):
                missing.remove(other)
        time.sleep(0.02)
    return number


def _key(out: str | Path) -> str:
    return f"run in {Path(out).expanduser().resolve()}"
