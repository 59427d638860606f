"""Every SDGAN_* environment variable that the package reads at run time. Build-time ones are in setup.py."""

import os
from pathlib import Path

__all__ = ["conv_backend", "cpu_isa", "data_root"]


def _choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = os.environ.get(name, default)
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed are {', '.join(allowed)}")
    return value


def cpu_isa() -> str:
    """SDGAN_CPU_ISA: the instruction set of the CPU kernels; read by the native code when it is first used."""
    return _choice("SDGAN_CPU_ISA", "auto", ("auto", "generic", "avx2", "avx512"))


def conv_backend() -> str:
    """SDGAN_CONV: which convolution kernels to use; ``auto`` picks per shape."""
    return _choice("SDGAN_CONV", "auto", ("auto", "direct", "winograd", "library", "gemm"))


def data_root() -> Path:
    """SDGAN_DATA: where downloaded datasets are kept, ``~/.cache/sdgan_ext`` unless set."""
    return Path(os.environ.get("SDGAN_DATA") or "~/.cache/sdgan_ext").expanduser()
