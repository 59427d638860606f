"""Workers: the same bits as without them, the same errors, and an end whatever happens to them."""

import gc
import multiprocessing
import os
import random
import signal
import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from sdgan_ext._errors import DataError
from sdgan_ext.data import ImageDataset, batches

BYTES = (torch.arange(23 * 2 * 2) % 256).to(torch.uint8).reshape(23, 1, 2, 2)


class Random(Dataset):
    """Items that draw from every global generator."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        noise = torch.rand(1, 2, 2) + float(np.random.rand()) + random.random()
        return noise * 2 / 3 - 1, index


class Several(Random):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


class ReaderOf(Random):
    """Says who reads; may break."""

    def __init__(self, bad=None):
        self.bad = bad

    def __getitem__(self, index):
        if index == self.bad:
            raise KeyError("no such file")
        return torch.full((1, 2, 2), -1.0), os.getpid()


class Spoilt(Random):
    def __getitem__(self, index):
        return torch.full((1, 2, 2), float("nan") if index == 13 else 0.0), index


def taken(dataset, count, **options):
    stream = batches(dataset, **({"batch_size": 5, "seed": 0} | options))
    return list(islice(stream, count))


def same(ones, others):
    ones, others = ([tensor for batch in stream for tensor in batch] for stream in (ones, others))
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.mark.parametrize("kind", ["own", "items", "several"])
def test_the_same_bits_with_any_number(kind):
    dataset = {"own": ImageDataset(BYTES, torch.arange(23)), "items": Random(), "several": Several()}[kind]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    alone = taken(dataset, 12, augment=["flip", "shift"])
    assert same(alone, taken(dataset, 12, augment=["flip", "shift"], workers=2))
    assert same(alone[6:], taken(dataset, 6, augment=["flip", "shift"], workers=1, start=6))
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    assert np.array_equal(np.random.get_state()[1], states[1])
    if kind != "own":
        assert len(torch.cat([x for x, _ in alone]).flatten(1).unique(dim=0)) == 60


def test_what_items_draw_is_another_in_each_epoch_and_the_same_in_any_rows():
    alone = taken(Random(), 8)
    parts = [taken(Random(), 8, rows=rows) for rows in (slice(0, 2), slice(2, 5))]
    assert same(alone, [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(*parts, strict=True)])
    seen = {}
    for images, labels in alone:
        for image, label in zip(images, labels.tolist(), strict=True):
            seen.setdefault(label, []).append(image)
    twice = [images for images in seen.values() if len(images) == 2]
    assert twice and not any(torch.equal(*images) for images in twice)


def test_who_reads():
    """Processes for a dataset of others, threads for our own."""
    readers = {pid for _, labels in taken(ReaderOf(), 6, workers=2) for pid in labels.tolist()}
    assert len(readers) == 2 and os.getpid() not in readers

    class Own(ImageDataset):
        def batch(self, indices):
            readers.add(threading.current_thread().name)
            return super().batch(indices)

    readers = set()
    taken(Own(BYTES), 6, workers=2)
    assert readers and all(name.startswith("sdgan-data") for name in readers)


def test_errors_are_those_of_no_workers(refused):
    with refused("Spoilt", "item 13", "NaN"):
        taken(Spoilt(), 12, workers=2, batch_size=4)
    with pytest.raises(KeyError, match="no such file"):
        taken(ReaderOf(bad=13), 12, workers=2)
    with refused("workers", "-1"):
        batches(Random(), 5, seed=0, workers=-1)


def test_a_killed_worker_is_said_in_a_sentence(monkeypatch):
    """By the next batch, and not by DataLoader's handler of SIGCHLD in the middle of a step."""
    monkeypatch.setattr(torch.utils.data._utils.signal_handling, "_SIGCHLD_handler_set", False)
    before = signal.getsignal(signal.SIGCHLD)
    stream = batches(ReaderOf(), 5, seed=0, workers=1)
    os.kill(int(next(stream)[1][0]), signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(DataError, match="ReaderOf: a process that reads it is lost .*want of memory"):
        list(islice(stream, 20))
    assert time.monotonic() - start < 30
    assert signal.getsignal(signal.SIGCHLD) == before


def test_workers_leave_the_signals_of_a_terminal_to_the_trainer():
    stream = batches(ReaderOf(), 5, seed=0, workers=1)
    worker = int(next(stream)[1][0])
    assert os.getpgid(worker) != os.getpgid(os.getpid())


@pytest.mark.parametrize("dataset", [Spoilt(), ReaderOf(bad=13)], ids=["DataError", "KeyError"])
def test_they_end_with_an_error(dataset):
    """At once: while the error is held, and without a collection of cycles."""
    gc.disable()
    try:
        with pytest.raises(Exception, match="item 13|no such file") as held:
            taken(dataset, 12, workers=1)
        assert held and not multiprocessing.active_children()
    finally:
        gc.enable()


def test_they_end_with_the_iterator():
    stream = batches(ReaderOf(), 5, seed=0, workers=1)
    worker = int(next(stream)[1][0])
    stream.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
