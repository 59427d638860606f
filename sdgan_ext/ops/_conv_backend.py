"""Which backend runs a convolution: a setting of the process, and what ``benchmark`` has measured."""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path
from typing import Any

from .. import _C
from .._env import renamed_backends
from .._files import read_bytes, replacing

__all__ = ["conv_backend", "get_conv_backend"]

_FILE_VERSION = 1
_MOST_BYTES = 2**24  # of a file of measurements; one convolution takes about 200


def get_conv_backend() -> tuple[str, ...]:
    """The setting in force: ``("auto",)``, ``("benchmark",)`` or backends in order of preference."""
    return tuple(_C.conv_backend())


class conv_backend:
    """Chooses what runs ``conv2d``, ``conv_transpose2d`` and their gradients, for the whole process.

    As a function it holds from now on; as a context manager until the block ends::

        sd.conv_backend("benchmark")
        with sd.conv_backend("winograd", "library"):
            y = model(x)

    ``"auto"`` (the default) follows the cost model, which depends on shapes and the instruction set alone
    (docs/cost-model.md). ``"benchmark"`` does what ``torch.backends.cudnn.benchmark`` does, for all backends: the
    first call of a shape times those that can run it, and the choice is kept for the process. Backends, one or several
    in order of preference, of which the first that can run a pass does:

    - ``"small_channel"``: one side has 1 to 4 channels.
    - ``"winograd"``: fewer multiplications; CPU, float32, 3x3 of stride 1, 3x3, 4x4 and 5x5 of stride 2.
    - ``"implicit_gemm"``: our own matrix products; CUDA.
    - ``"library"``: oneDNN or cuDNN through torch; runs everything.

    The setting is read when an operator runs, by every thread: in compiled graphs and in the backward pass too. The
    environment variable ``SDGAN_CONV``, names with commas between, is the setting at import.

    Args:
        names: one of "auto" and "benchmark", or backends.
        file: with "benchmark", where choices are kept: read now where it exists, and written when the block or the
            process ends. The same file gives the same choices, and so the same bits.

    Raises:
        ValueError: for another name; ``file`` without "benchmark"; a file that is not one of these.
        RuntimeError: when a convolution runs that none of the named backends can run. It names those that can.
    """

    def __init__(self, *names: str, file: str | os.PathLike[str] | None = None):
        if not names:
            raise ValueError(f"conv_backend takes 'auto', 'benchmark' or some of {_C.conv_backend_names()}")
        wanted = renamed_backends(names)
        if file is not None and wanted != ["benchmark"]:
            raise ValueError(f"file is {os.fspath(file)!r}, which goes with conv_backend('benchmark') only")
        self._file = None if file is None else Path(file)
        if self._file is not None:
            _load(self._file)
            _at_exit.add(self._file)
        self._before = get_conv_backend()
        _C.set_conv_backend(wanted)

    def __enter__(self) -> conv_backend:
        return self

    def __exit__(self, *error: object) -> None:
        _C.set_conv_backend(list(self._before))
        if self._file is not None:
            _at_exit.discard(self._file)
            _save(self._file)


#: Files of settings whose block has not ended.
_at_exit: set[Path] = set()


@atexit.register
def _save_all() -> None:
    for file in _at_exit:
        _save(file)


def _load(file: Path) -> None:
    """Adds what a file has to what was measured in this process, which stays as it is."""
    try:
        content: dict[str, Any] = json.loads(read_bytes(file, _MOST_BYTES))
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"file {os.fspath(file)!r} cannot be read as measurements of conv_backend: {error}") from None
    try:
        if content["version"] != _FILE_VERSION:
            raise ValueError(f"version {content['version']!r} where {_FILE_VERSION} is known")
        for row in content["measured"]:
            times = [tuple(time) for time in row["times"]]
            _C.add_measured_convolution(row["key"], row["first"], row["weight"], times)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"file {os.fspath(file)!r} does not hold measurements of conv_backend: {error}") from None


def _save(file: Path) -> None:
    rows = [
        json.dumps({"key": key, "first": first, "weight": weight, "times": times})
        for key, first, weight, times in sorted(_C.measured_convolutions())
    ]
    text = f'{{"version": {_FILE_VERSION}, "measured": [\n' + ",\n".join(rows) + "\n]}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        partial.write(text.encode())
