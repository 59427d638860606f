"""Batches read ahead, in order: by threads, or by processes where the dataset's own Python would hold threads up."""

from __future__ import annotations

import collections
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdgan_ext._errors import DataError

__all__ = ["Taken", "in_processes", "in_threads"]

Taken = tuple[Tensor, Tensor, dict[int, str]]
"""Images, labels, and why images in whose place others stand cannot be read, by their numbers."""

_AHEAD = 2  # batches for each worker
_IN_WORKER = "in DataLoader worker process"  # DataLoader's words about an error that it hands on


def in_threads(take: Callable[..., Taken], wanted: Iterator[tuple[Any, ...]], workers: int) -> Iterator[Taken]:
    """``take(*arguments)`` for each of ``wanted``, which has no end."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sdgan-data")
    pending: collections.deque[Future[Taken]] = collections.deque()
    try:
        while True:
            while len(pending) < _AHEAD * workers:
                pending.append(pool.submit(take, *next(wanted)))
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def in_processes(
    take: Callable[..., Taken], wanted: Iterator[tuple[Any, ...]], workers: int, name: str
) -> Iterator[Taken]:
    """The same in torch's DataLoader, whose workers end when this process does, however it ends.

    Raises:
        DataError: as ``take`` does; or a worker was killed. What else ``take`` raises comes with its traceback.
    """
    loader = DataLoader(
        _Batches(take),
        batch_size=None,
        sampler=wanted,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        worker_init_fn=_leave_group,
        generator=torch.Generator(),  # or it draws from torch's own
    )
    stream = _start(loader)
    try:
        while True:
            try:
                got = next(stream)
            except (RuntimeError, OSError, EOFError) as error:
                if _IN_WORKER in str(error):  # what ``take`` raised
                    raise
                reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
                raise DataError(
                    f"{name}: a process that reads it is lost ({reason}), as one is that the system kills for want of "
                    "memory; fewer workers need less"
                ) from None
            if isinstance(got, DataError):
                raise got
            yield tuple(got)
    except Exception as error:
        raise error.with_traceback(None) from None
    finally:
        del stream  # with the traceback's frames gone too, the workers end here and not when an error is forgotten


class _Batches(Dataset[Any]):
    """Whose index is the arguments of ``take``."""

    def __init__(self, take: Callable[..., Taken]):
        self.take = take

    def __getitem__(self, arguments: tuple[Any, ...]) -> Taken | DataError:
        try:
            return self.take(*arguments)
        except DataError as error:  # raised here, its sentence would come in a traceback
            return error


def _leave_group(worker: int) -> None:
    """Ctrl-C in a terminal and ``timeout`` signal the whole group: the trainer, which wants to end its step with the
    workers' help."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def _start(loader: DataLoader[Any]) -> Iterator[Any]:
    """DataLoader's handler of SIGCHLD would raise in the middle of a step; without it, the next batch raises."""
    handled = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if handled else None
    stream = iter(loader)
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
    return stream
