"""The posteriors of all training images, encoded once and kept in a file.

The file says in its header what it was made of: a hash of the encoder's weights, one of the data, whether mirrored
images are among them, and one of its own numbers. It is used where all four are right, and made anew otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from .._errors import CheckpointError, DataError
from .._files import open_regular, replacing
from ..data import LazyImages, Part, batches, captions_of, to_uint8
from ..data.loader import orders
from ..diffusion.model import LatentDiffusion
from .distributed import Processes

__all__ = ["Latents", "data_digest", "encode_all", "encoder_digest", "latents_of"]

_AT_A_TIME = 64
_HASHED_AT_A_TIME = 1000
_FORMAT = "1"
_ENTRY = "sdgan_ext"  # of the header, one alone: several would be written in any order


class Latents(NamedTuple):
    """
    Attributes:
        mean, logvar: of q(z|x), [M, C, h, w], as the autoencoder gives them; M is the number of images, or twice that
            with the mirrored ones behind.
        numbers: of the captions, int64 [M].
    """

    mean: Tensor
    logvar: Tensor
    numbers: Tensor


def latents_of(
    model: LatentDiffusion,
    dataset: Dataset,
    *,
    flip: bool,
    workers: int,
    file: Path | None,
    say: Callable[[str], None],
    processes: Processes | None = None,
) -> Latents:
    """From ``file`` where that is of these images and this encoder; encoded, and written into it, otherwise.

    Args:
        flip: with mirrored images.
        workers: of :func:`sdgan_ext.data.batches`.
        file: None: nothing is read or written.
        say: takes a line for the user.
        processes: each encodes its share of the images; rank 0 alone has a file.

    Raises:
        DataError: an image has no caption.
        CheckpointError: the file cannot be written.
    """
    found = None
    if file is not None:
        wanted = {"format": _FORMAT, "encoder": encoder_digest(model), "data": data_digest(dataset), "flip": str(flip)}
        found, why = _read(file, wanted)
        if why:
            say(f"{file} is not used: {why}; the images are encoded anew")
    if processes is not None and processes.any(found is not None):
        shape = (len(dataset) * (2 if flip else 1), *model.config.latent_shape)
        found = found or Latents(torch.zeros(shape), torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64))
        return Latents(*(processes.total(part) for part in found))
    if found is None:
        found = encode_all(model, dataset, flip=flip, workers=workers, say=say, processes=processes)
        if file is not None:
            _write(file, found, wanted)
    return found


def encode_all(
    model: LatentDiffusion,
    dataset: Any,
    *,
    flip: bool = False,
    workers: int = 0,
    say: Callable[[str], None] = lambda line: None,
    processes: Processes | None = None,
) -> Latents:
    """The posteriors of all images; as :func:`latents_of`."""
    device = next(model.unet.parameters()).device
    count, shape = len(dataset), model.config.latent_shape
    copies = 2 if flip else 1
    mean, logvar = torch.zeros(copies, count, *shape), torch.zeros(copies, count, *shape)
    numbers = torch.zeros(count, dtype=torch.int64)
    rank, size = (0, 1) if processes is None else (processes.rank, processes.size)
    rows = slice(rank, None, size)
    at_a_time = size * model.traits.images_at_a_time(_AT_A_TIME)
    stream = batches(dataset, at_a_time, seed=0, drop_last=False, rows=rows, workers=workers)
    say(f"encoding {count:,} images{', mirrored too' if flip else ''}: once, before the first step")
    bar = tqdm(total=count, unit=" images", desc="encoding", leave=False, disable=None)
    with contextlib.closing(stream), bar:
        for _, indices in _first(orders(count, at_a_time, 0, 0, False), -(-count // at_a_time)):
            if not len(indices[rows]):
                continue
            images, labels = next(stream)
            images = images.to(device, memory_format=torch.channels_last)
            for copy in range(copies):
                of_part = model.encode(images.flip(3) if copy else images)
                mean[copy, indices[rows]], logvar[copy, indices[rows]] = (value.float().cpu() for value in of_part)
            numbers[indices[rows]] = labels
            bar.update(len(indices))
    if (numbers < 0).any():
        first = int((numbers < 0).nonzero()[0])
        raise DataError(f"image {first} of {getattr(dataset, 'name', 'the data')} has no caption and no class")
    found = Latents(mean.flatten(0, 1), logvar.flatten(0, 1), numbers.repeat(copies))
    if processes is not None:
        found = Latents(*(processes.total(part) for part in found))
    for name, value in found._asdict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise DataError(f"the autoencoder answers with a {name} that is NaN or infinite")
    return found


def encoder_digest(model: LatentDiffusion) -> str:
    """Of the weights that latents depend on."""
    encoder = model.autoencoder.encoder
    return _digest(encoder.state_dict().items())


def data_digest(dataset: Any) -> str:
    """Of the images, as they are trained on, of the numbers of their captions and of the captions.

    Of images that are decoded lazily the files' names, sizes and times stand for their bytes.
    """
    digest = hashlib.sha256()
    whole = dataset.dataset if isinstance(dataset, Part) else dataset
    if isinstance(whole, LazyImages) and whole.index is not None and not whole.held:
        stamp, labels = whole.index.spans.stamp, whole.labels
        facts = (whole.frame, whole.image_size, whole.channels, stamp.files.text, stamp.sizes, stamp.times)
        for fact in facts:
            digest.update(fact.tobytes() if hasattr(fact, "tobytes") else repr(fact).encode())
        parts: list[Tensor] = [] if labels is None else [labels]
        parts += [dataset.indices] if isinstance(dataset, Part) else []
        for tensor in parts:
            digest.update(tensor.numpy().tobytes())
    else:
        count = -(-len(dataset) // _HASHED_AT_A_TIME)
        for images, labels in _first(batches(dataset, _HASHED_AT_A_TIME, seed=0, drop_last=False), count):
            digest.update(repr(tuple(images.shape)).encode())
            digest.update(to_uint8(images).contiguous().numpy().tobytes())
            digest.update(labels.numpy().tobytes())
    for caption in captions_of(dataset):
        digest.update(caption.encode() + b"\n")
    return digest.hexdigest()


def _first(batches: Iterable[Any], count: int) -> Iterable[Any]:
    """``count`` of endless ones."""
    return (batch for _, batch in zip(range(count), batches, strict=False))


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(file: Path, wanted: dict[str, str]) -> tuple[Latents | None, str]:
    """The latents, or why they are not used; neither where there is no file."""
    try:
        with open_regular(file) as opened:
            content = opened.read()
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"it cannot be read ({error.strerror or error})"
    try:
        found = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_ENTRY])
        latents = Latents(*(found[name] for name in Latents._fields))
        whole = header.pop("latents") == _digest(latents._asdict().items())
    except Exception:  # safetensors and json raise what they like of bytes that make no sense to them
        return None, "it is no file of latents, or damaged"
    for key, words in (
        ("format", "it is of another version"),
        ("encoder", "it is of another encoder"),
        ("data", "it is of other images or captions"),
        ("flip", "it is with mirrored images, or without"),
    ):
        if header.get(key) != wanted[key]:
            return None, words
    return (latents, "") if whole else (None, "it is damaged: its numbers are not those that were written")


def _write(file: Path, latents: Latents, wanted: dict[str, str]) -> None:
    tensors = {name: value.contiguous() for name, value in latents._asdict().items()}
    facts = json.dumps(wanted | {"latents": _digest(tensors.items())})
    content = safetensors.torch.save(tensors, metadata={_ENTRY: facts})
    if not file.parent.is_dir():
        raise CheckpointError(f"cannot write {file}: there is no folder {file.parent}")
    with replacing(file) as opened:
        opened.write(content)
