"""Every SDGAN_* environment variable that the package reads at run time. Build-time ones are in setup.py."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from ._errors import ConfigError

__all__ = ["conv_backend", "cpu_isa", "data_root", "peer_timeout"]

#: Those of the native code; here as well, so that the environment can be checked without it.
CONV_BACKENDS = ("small_channel", "winograd", "implicit_gemm", "library")

#: Backends of convolutions as they were called before, for one release.
_OLD_BACKENDS = {"direct": "small_channel", "gemm": "implicit_gemm"}


def _choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = os.environ.get(name, default)
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed are {', '.join(allowed)}")
    return value


def cpu_isa() -> str:
    """SDGAN_CPU_ISA: the instruction set of the CPU kernels; read by the native code when it is first used."""
    return _choice("SDGAN_CPU_ISA", "auto", ("auto", "generic", "avx2", "avx512"))


def conv_backend() -> list[str]:
    """SDGAN_CONV: the setting of :class:`sdgan_ext.conv_backend` at import, names with commas between."""
    value = os.environ.get("SDGAN_CONV", "auto")
    names = renamed_backends([name.strip() for name in value.split(",")])
    if names not in (["auto"], ["benchmark"]) and not set(names) <= set(CONV_BACKENDS):
        raise ValueError(
            f"SDGAN_CONV is {value!r}; allowed are auto, benchmark, and some of {', '.join(CONV_BACKENDS)} in order of "
            "preference, with commas between"
        )
    return names


def renamed_backends(names: Sequence[str]) -> list[str]:
    """Old names of backends become today's, with a warning."""
    for name in names:
        if name in _OLD_BACKENDS:
            warnings.warn(
                f"the convolution backend {name!r} is called {_OLD_BACKENDS[name]!r} now; the old name goes with the "
                "next release",
                FutureWarning,
                stacklevel=3,
            )
    return [_OLD_BACKENDS.get(name, name) for name in names]


def peer_timeout() -> float:
    """SDGAN_PEER_TIMEOUT: seconds that the processes of a training wait for one another, 600 unless set."""
    value = os.environ.get("SDGAN_PEER_TIMEOUT", "600")
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:  # a day; no NaN
        raise ValueError(f"SDGAN_PEER_TIMEOUT is {value!r}; it must be a number of seconds, above 0 and at most 86400")
    return seconds


def data_root() -> Path:
    """SDGAN_DATA: where downloaded datasets are kept, ``~/.cache/sdgan_ext`` unless set.

    Raises:
        ConfigError: it begins with a home folder that there is not: in a container a user may have none.
    """
    value = os.environ.get("SDGAN_DATA") or "~/.cache/sdgan_ext"
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"datasets are kept in {value}, but there is no such home folder; set SDGAN_DATA to a folder"
        ) from None
