"""Checkpoints: a file is there complete, or not at all.

A checkpoint is what ``torch.save`` writes: a zip whose entries carry a CRC-32, read back with ``weights_only=True``, so
that opening one runs no code. It is written under a temporary name, synced to the disk and renamed. The older one goes
only after that.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from sdgan_ext._errors import CheckpointError, shown
from sdgan_ext._files import open_regular, replacing

__all__ = [
    "FORMAT",
    "list_checkpoints",
    "load_checkpoint",
    "load_newest",
    "save_checkpoint",
]

_FOLDER = 0x10  # the attribute of an entry; torch reads nothing of one that has it, and takes what memory held before

FORMAT = 1
"""The version of what a checkpoint holds; a reader refuses a later one."""

_NAME = re.compile(r"step-(\d{8,})\.pt")


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest step first."""
    found = [(int(match[1]), path) for path in folder.glob("step-*.pt") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def save_checkpoint(folder: Path, state: Mapping, *, keep: int = 2) -> Path:
    """Writes ``state`` and, once it is safe on the disk, removes all but the ``keep`` newest checkpoints.

    Args:
        folder: where checkpoints lie.
        state: tensors, numbers, strings and containers of them; ``state["step"]`` names the file.
        keep: how many to keep, this one included, at least 1.

    Returns:
        The path of the new checkpoint.

    Raises:
        CheckpointError: it cannot be written; the older ones are untouched and no part of it is left.
    """
    path = folder / f"step-{state['step']:08d}.pt"
    # Serialised in memory first: torch's own writer hides the reason when the disk is full.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    try:
        with replacing(path) as file:
            file.write(buffer.getbuffer())
    except CheckpointError as error:
        older = list_checkpoints(folder)
        kept = f"the newest complete checkpoint is {older[-1]}" if older else "no checkpoint was saved before"
        raise CheckpointError(f"{error}; {kept}") from error.__cause__
    complete = list_checkpoints(folder)
    here = complete.index(path)
    # One of a later step is damaged, or this run would have gone on from it.
    for other in complete[: max(0, here - keep + 1)] + complete[here + 1 :]:
        other.unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path) -> dict:
    """What :func:`save_checkpoint` wrote, on the CPU.

    Raises:
        CheckpointError: missing, damaged, no checkpoint of this package, or of a later format.
    """
    try:
        with open_regular(path) as file:
            state = torch.load(file, map_location="cpu", weights_only=True) if _is_whole(file) else None
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except Exception:  # the unpickler raises anything of bytes that make no sense to it
        state = None
    if state is None:
        raise CheckpointError(f"the checkpoint {path} is damaged: it is truncated or its bytes have changed")
    if not isinstance(state, dict) or type(state.get("format")) is not int:
        raise CheckpointError(f"{path} is no checkpoint of sdgan_ext, though a file of torch.save")
    if state["format"] > FORMAT:
        raise _NewerError(
            f"the checkpoint {path} has format {shown(state['format'])} of a newer sdgan_ext, this one reads up to "
            f"{FORMAT}: update sdgan_ext"
        )
    return state


def _is_whole(file: BinaryIO) -> bool:
    """Whether every entry has a name and a CRC of its own, and is stored as torch stores it, no larger than the file.

    Not by ``testzip``, which of two entries of one name looks at one.

    Raises:
        zipfile.BadZipFile: a CRC or a name is another one than in the archive's directory.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            return False
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.external_attr & _FOLDER:
                return False
            with archive.open(entry) as content:
                while content.read(2**20):
                    pass
    file.seek(0)
    return True


class _NewerError(CheckpointError):
    """Not damage: an older checkpoint must not quietly stand in."""


def load_newest(
    folder: Path, report: Callable[[str], None], check: Callable[[dict, Path], None] | None = None
) -> tuple[Path, dict]:
    """The newest complete checkpoint in ``folder`` and its path; each damaged one passed over is reported in a line.

    Args:
        check: raises a CheckpointError where what a checkpoint holds is damage too.

    Raises:
        CheckpointError: there is none, or the newest was written by a newer version.
    """
    candidates = list_checkpoints(folder)
    for path in reversed(candidates):
        try:
            state = load_checkpoint(path)
            if check is not None:
                check(state, path)
            return path, state
        except _NewerError:
            raise
        except CheckpointError as error:
            report(f"skipped: {error}")
    fate = "none of its checkpoints is complete" if candidates else "it holds no checkpoint"
    raise CheckpointError(f"nothing to go on from in {folder}: {fate}")
