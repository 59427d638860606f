"""A model's folder: config.json and model.safetensors.

The header of the file of weights has a digest among its metadata: the SHA-256 of the file's bytes, with zeros in the
digest's own place. A file with one byte changed, anywhere, is refused. Other programs' files have none, and load.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from .._errors import CheckpointError, DivergedError, sentence
from .._files import open_regular, read_bytes, replacing, write_errors_named

__all__ = ["check_digest", "read_config", "read_weights", "save_folder"]

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_MOST_BYTES = 2**16  # of config.json

#: Two entries, so that no change of one byte makes a file of ours one without a digest.
_METADATA = {"format": "pt", "sdgan_sha256": "0" * 64, "writer": "sdgan_ext"}
_DIGEST = re.compile(rb'(?<="sdgan_sha256":")[0-9a-f]{64}(?=")')


def save_folder(
    folder: str | Path, weights: Mapping[str, Tensor], config: Mapping[str, Any], *, file_name: str = _WEIGHTS
) -> None:
    """Writes ``weights`` and ``config`` into ``folder``, each complete or not at all.

    Args:
        file_name: of the weights.

    Raises:
        DivergedError: a weight is NaN or infinite; nothing is written.
        CheckpointError: the folder cannot be written.
    """
    state = {name: value.detach().contiguous() for name, value in weights.items()}
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise DivergedError(f"{name} holds NaN or infinity; the model is not saved to {folder}")
    folder = Path(folder)
    written: set[int] = set()
    for name, value in state.items():
        if value.untyped_storage().data_ptr() in written:
            state[name] = value.clone()  # safetensors refuses tensors that share memory
        written.add(value.untyped_storage().data_ptr())
    with write_errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save(state)
    header = _header(content)
    data = memoryview(content)[len(header) :]
    # Not as an argument of save, which may write the entries in any order: equal weights make equal files.
    text = json.dumps({"__metadata__": _METADATA, **json.loads(header[8:])}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    with replacing(folder / file_name) as file:
        file.write(_DIGEST.sub(_digest(header, data), header, count=1))
        file.write(data)
    with replacing(folder / _CONFIG) as file:
        file.write((json.dumps(config, indent=2) + "\n").encode())


def read_config(folder: str | Path) -> tuple[dict[str, Any], Path]:
    """What config.json in ``folder`` holds, empty where that is no mapping, and its path.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = Path(folder) / _CONFIG
    with _read_errors_named(path):
        content = read_bytes(path, _MOST_BYTES)
    try:
        values = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, too many digits; lists in lists in lists
        raise CheckpointError(f"{path} is damaged: {str(error)[:200]}") from error
    return values if isinstance(values, dict) else {}, path


def read_weights(folder: str | Path) -> tuple[dict[str, Tensor], Path]:
    """The tensors of model.safetensors in ``folder``, and its path; a warning says where the file has no digest.

    Raises:
        CheckpointError: it is missing, or damaged: its digest is that of other bytes.
    """
    path = Path(folder) / _WEIGHTS
    content, ours = _read_whole(path)
    try:
        weights = safetensors.torch.load(content)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not ours:
        said = f"{path} has no digest, so whether its weights have changed is not known"
        warnings.warn(sentence(said), stacklevel=3)
    return dict(sorted(weights.items())), path


def check_digest(path: Path) -> None:
    """That a safetensors file is as it was written, where it has a digest; one that is not there has none.

    Raises:
        CheckpointError: its digest is that of other bytes, or it cannot be read.
    """
    if path.exists():
        _read_whole(path)


def _read_whole(path: Path) -> tuple[bytes, bool]:
    """The bytes of a safetensors file, and whether they have a digest, which then is that of these bytes."""
    with _read_errors_named(path), open_regular(path) as file:
        content = file.read()
    header = _header(content)
    saved = _DIGEST.search(header)
    ours = saved is not None or b'"sdgan_ext"' in header
    if ours and (saved is None or saved[0] != _digest(header, memoryview(content)[len(header) :])):
        raise CheckpointError(f"{path} is damaged: its bytes are not those that its digest was taken of")
    return content, ours


def _header(content: bytes) -> bytes:
    """The part of a safetensors file before the weights: the length of the JSON text, and the text."""
    return content[: 8 + int.from_bytes(content[:8], "little")]


def _digest(header: bytes, data: memoryview) -> bytes:
    """The SHA-256 of a file, in hexadecimal digits; what stands in the digest's place does not matter."""
    digest = hashlib.sha256(_DIGEST.sub(b"0" * 64, header, count=1))
    digest.update(data)
    return digest.hexdigest().encode()


@contextlib.contextmanager
def _read_errors_named(path: Path) -> Iterator[None]:
    """Turns an OSError into a CheckpointError that names ``path``."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; give a folder that save_pretrained wrote") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
