"""Loads the compiled extension once; where that fails, says what, why and how to mend it."""

import torch

from . import _env

__all__ = ["REBUILD", "build_info"]

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


def build_info() -> dict:
    """What was compiled in and what this machine can run.

    Keys: ``version``, ``torch`` (running), ``compiler``, ``cpu_isa`` (in use; force it with SDGAN_CPU_ISA),
    ``conv`` (the setting of :class:`sdgan_ext.conv_backend`), ``cpu_isa_compiled``, ``cpu_isa_usable``, ``cuda`` (CUDA
    kernels compiled in), ``cuda_reason``, ``cuda_version`` (nvcc's, as torch.version.cuda), ``cuda_architectures`` (as
    CMake writes them).
    """
    return {**_C.build_info(), "torch": torch.__version__, "conv": ",".join(_C.conv_backend())}


_asked = _env.cpu_isa()
if _asked != "auto" and _asked not in _C.build_info()["cpu_isa_usable"]:
    raise ImportError(
        f"SDGAN_CPU_ISA is {_asked!r}, which this CPU or build cannot run; usable are "
        f"{', '.join(_C.build_info()['cpu_isa_usable'])}"
    )
_C.set_conv_backend(_env.conv_backend())
