"""Loads the compiled extension once; where that fails, says what, why and how to mend it."""

from __future__ import annotations

from typing import TypedDict, cast

import torch

from . import _env

__all__ = ["REBUILD", "BuildInfo", "build_info"]

REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ."

try:
    from . import _C
except ImportError as error:
    if "_C" in str(error) and "cannot import name" in str(error):
        what = "its compiled part is not there"
    else:
        what = f"its compiled part does not load ({error})"
    raise ImportError(
        f"sdgan_ext cannot run: {what}; it needs torch >= 2.11 (here {torch.__version__}); rebuild it in the "
        f"repository with `{REBUILD}`"
    ) from error


class BuildInfo(TypedDict):
    """What was compiled in and what this machine can run.

    Attributes:
        version: of this package.
        torch: the running one's version.
        compiler: of the C++ code.
        cpu_isa: the CPU's instruction set in use; force it with SDGAN_CPU_ISA.
        cpu_isa_compiled: those compiled in.
        cpu_isa_usable: of them those that this CPU has.
        conv: the setting of :class:`sdgan_ext.conv_backend`, names with commas between.
        cuda: whether CUDA kernels were compiled in.
        cuda_reason: why, or why not.
        cuda_version: nvcc's, in the form of torch.version.cuda; empty without.
        cuda_architectures: as CMake writes them.
    """

    version: str
    torch: str
    compiler: str
    cpu_isa: str
    cpu_isa_compiled: list[str]
    cpu_isa_usable: list[str]
    conv: str
    cuda: bool
    cuda_reason: str
    cuda_version: str
    cuda_architectures: list[str]


def build_info() -> BuildInfo:
    """What was compiled in and what this machine can run, as a dictionary."""
    return cast(BuildInfo, {**_C.build_info(), "torch": torch.__version__, "conv": ",".join(_C.conv_backend())})


_forced_isa = _env.cpu_isa()
if _forced_isa != "auto" and _forced_isa not in _C.build_info()["cpu_isa_usable"]:
    raise ImportError(
        f"SDGAN_CPU_ISA is {_forced_isa!r}, which this CPU or build cannot run; usable are "
        f"{', '.join(_C.build_info()['cpu_isa_usable'])}"
    )
_C.set_conv_backend(_env.conv_backend())
